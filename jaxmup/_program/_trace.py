"""Functions as programs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxmup._program._calls import called, is_plain_call
from jaxmup._program._evaluate import inlined
from jaxmup._program._jax import ClosedJaxpr, Equation, without_dead_code
from jaxmup._program._loops import is_scan
from jaxmup._program._types import type_of


class Traced(NamedTuple):
    """A function as a program on flat lists of arrays.

    Args:
      program: Its inputs are the leaves of the arguments, its outputs those of the result.
      result: Shapes and dtypes of the result, as a tree.
    """

    program: ClosedJaxpr
    result: Any


def traced(function: Callable[..., Any], *args: Any) -> Traced:
    """Traces `function` at arguments of these shapes and dtypes, whatever of it is needed."""
    program, result = jax.make_jaxpr(function, return_shape=True)(*args)
    shapes = map(type_of, program.out_avals)  # which have the shardings of an explicit mesh
    return Traced(program, jax.tree.unflatten(jax.tree.structure(result), shapes))


def trace(function: Callable[..., Any], *args: Any) -> Traced:
    """Traces `function` at arguments of these shapes and dtypes, without what it does not need.

    A scan inside of a `jax.jit` is brought to the top, where those who look for loops find it.
    """
    program, result = jax.make_jaxpr(function, return_shape=True)(*args)
    program = inlined(program, _hides_a_loop)
    every_output = [True] * len(program.jaxpr.outvars)
    program, _ = without_dead_code(program, every_output, keep_inputs=True)
    return Traced(program, result)


def _hides_a_loop(equation: Equation) -> bool:
    return is_plain_call(equation) and any(
        is_scan(inner) or _hides_a_loop(inner) for inner in called(equation).jaxpr.eqns
    )
