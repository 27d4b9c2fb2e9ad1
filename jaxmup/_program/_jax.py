"""The private API of JAX, and names that its versions differ in: no other file knows either.

Tested with 0.10 and 0.12. A release of JAX that breaks something breaks it here.
"""

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from jax._src import source_info_util
from jax.core import ShapedArray as ShapedArray
from jax.extend.core import ClosedJaxpr as ClosedJaxpr
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import JaxprEqn, jaxprs_in_params
from jax.extend.core import Literal as Literal
from jax.extend.core import Primitive as Primitive
from jax.extend.core import Var as Var
from jax.extend.core import jaxpr_as_fun as as_function
from jax.extend.random import define_prng_impl as define_prng_impl
from jax.interpreters import partial_eval

__all__ = ["as_function"]

Equation: TypeAlias = JaxprEqn
"""One step of a program: a primitive, what it reads and what it makes."""
Atom: TypeAlias = Var | Literal
"""What an equation reads: a variable, or a number that stands in the program."""

CALLED: Mapping[str, str] = types.MappingProxyType(
    {
        "call": "call_jaxpr",
        "checkpoint": "jaxpr",
        "closed_call": "call_jaxpr",
        "core_call": "call_jaxpr",
        "custom_jvp_call": "call_jaxpr",
        "custom_partitioning": "call",
        "custom_vjp_call": "call_jaxpr",
        "custom_vmap_call": "call",
        "eval_jaxpr": "call_jaxpr",
        "jit": "jaxpr",
        "linear_call": "callee",
        "pjit": "jaxpr",
        "remat": "jaxpr",
        "remat2": "jaxpr",
    }
)
"""The primitives that call a program once, with what they read, and which parameter holds it."""
PLAIN_CALLS = frozenset({"call", "closed_call", "core_call", "eval_jaxpr", "jit", "pjit"})
"""The calls that are no more than that: their body can stand in their place."""
CHECKPOINTS = frozenset({"checkpoint", "remat", "remat2"})
"""The calls that JAX computes a second time for the backward pass."""


class Frame(NamedTuple):
    """A line that was being executed when an equation was traced.

    Args:
      file: Path of the file.
      line: Number of the line, from 1.
      function: Qualified name of the function.
    """

    file: str
    line: int
    function: str


def closed(program: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """The program with its constants, of which an open one has none."""
    # Since 0.12 the two are one type, which has `consts`.
    return program if hasattr(program, "consts") else ClosedJaxpr(program, ())  # type: ignore[return-value]


def inner_programs(equation: Equation) -> list[ClosedJaxpr]:
    """All programs among the parameters of an equation, whatever it does with them."""
    return [closed(jaxpr) for jaxpr in jaxprs_in_params(equation.params)]


def scan_counts(equation: Equation) -> tuple[int, int]:
    """The number of constants and that of carried values that a `scan` reads."""
    params = equation.params
    if "ft_in" in params:  # a tree of three parts, since 0.12
        constants, carry, _ = params["ft_in"].unpack()
        return len(constants), len(carry)
    return params["num_consts"], params["num_carry"]


def without_dead_code(
    program: ClosedJaxpr, wanted: Sequence[bool], keep_inputs: bool
) -> tuple[ClosedJaxpr, list[bool]]:
    """The program without what its wanted outputs do not need, and which inputs it still reads.

    Args:
      program: The program.
      wanted: Whether each output is wanted.
      keep_inputs: Whether inputs that are not read stay inputs.
    """
    jaxpr, used = partial_eval.dce_jaxpr(program.jaxpr, list(wanted), instantiate=keep_inputs)
    return ClosedJaxpr(jaxpr, program.consts), used


def bind(equation: Equation, inputs: Sequence[Any]) -> list[Any]:
    """The results of an equation for these inputs."""
    return bind_primitive(equation.primitive, equation.params, inputs)


def bind_primitive(
    primitive: Primitive, params: Mapping[str, Any], inputs: Sequence[Any]
) -> list[Any]:
    """The results of a primitive with the parameters of an equation."""
    # A call holds programs, where its primitive wants functions with their derivatives.
    results = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(results) if primitive.multiple_results else [results]


@contextlib.contextmanager
def context_of(equation: Equation) -> Iterator[None]:
    """A context in which what is computed counts as this equation."""
    # As in JAX's own `eval_jaxpr`. Names of scopes go on to XLA, where `fused.live_gradients` reads
    # them; the equation's context holds the mesh, without which explicit shardings do not trace.
    source = equation.source_info
    names = source_info_util.current_name_stack() + source.name_stack
    # What JAX's own functions have made has no line of the user: it keeps that of the call.
    lines = source.traceback if source_info_util.user_frame(source.traceback) else None
    with source_info_util.user_context(lines, name_stack=names), equation.ctx.manager:
        yield


def scopes(equation: Equation) -> str:
    """The names of `jax.named_scope` that an equation was traced in, joined by slashes."""
    return str(equation.source_info.name_stack)


def frames(equation: Equation) -> Iterator[Frame]:
    """The lines that led to an equation, from the innermost outwards.

    JAX ends them at the function that it traces: those of an equation inside of a call do not tell
    where the call is, and so are right wherever JAX takes the traced function from its cache.
    """
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        yield Frame(frame.file_name, frame.line_num, frame.function_name)
