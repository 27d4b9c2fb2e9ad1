"""Programs as JAX traces them, and the parts of them that compute some of their results."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters import partial_eval
from jax.sharding import PartitionSpec

# The names that JAX has had for them.
JITS = frozenset({"jit", "pjit"})
CHECKPOINTS = frozenset({"checkpoint", "remat", "remat2"})


class Traced(NamedTuple):
    """A function as a program on flat lists of arrays.

    Args:
      program: its inputs are the leaves of the arguments, its outputs those of the result.
      result: shapes and dtypes of the result, as a tree.
    """

    program: ClosedJaxpr
    result: Any


def trace(function: Callable[..., Any], *args: Any) -> Traced:
    """Traces `function` at arguments of these shapes and dtypes, without what it does not need."""
    program, result = jax.make_jaxpr(function, return_shape=True)(*args)
    program = inlined(program, _hides_a_loop)
    every_output = [True] * len(program.jaxpr.outvars)
    jaxpr, _ = partial_eval.dce_jaxpr(program.jaxpr, every_output, instantiate=True)
    return Traced(ClosedJaxpr(jaxpr, program.consts), result)


def type_of(x: Any, drop: int = 0) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array without some leading axes, and its sharding if it is explicit."""
    kind = x if isinstance(x, jax.ShapeDtypeStruct | ShapedArray) else jax.typeof(x)
    sharding = kind.sharding if isinstance(kind, ShapedArray) else None
    if sharding is None or sharding.mesh.empty:
        return jax.ShapeDtypeStruct(x.shape[drop:], x.dtype)
    spec = PartitionSpec(*sharding.spec[drop:])
    return jax.ShapeDtypeStruct(x.shape[drop:], x.dtype, sharding=sharding.update(spec=spec))


def part(program: ClosedJaxpr, outputs: Iterable[int]) -> tuple[ClosedJaxpr, list[int]]:
    """The part of a program that computes some of its outputs, and the inputs that it needs."""
    wanted = set(outputs)
    mask = [i in wanted for i in range(len(program.jaxpr.outvars))]
    jaxpr, used = partial_eval.dce_jaxpr(program.jaxpr, mask)
    return ClosedJaxpr(jaxpr, program.consts), [i for i, needed in enumerate(used) if needed]


def piece(
    jaxpr: Jaxpr, equations: Sequence[Any], inputs: Sequence[Var], outputs: Sequence[Any]
) -> Callable[..., list[Any]]:
    """Some equations of a program, as a function from some of its variables to others."""
    replaced = jaxpr.replace(
        eqns=list(equations), constvars=[], invars=list(inputs), outvars=list(outputs)
    )
    return jaxpr_as_fun(ClosedJaxpr(replaced, ()))


def scalars_first(program: ClosedJaxpr, known: Sequence[bool]) -> tuple[ClosedJaxpr, ClosedJaxpr]:
    """A program as two: the scalars that follow from the inputs that are known, and the rest.

    Args:
      program: the program.
      known: which of its inputs the first of the two sees.

    Returns:
      From the known inputs to what the second needs of them and of the scalars; and from the other
      inputs and these values to the outputs.
    """
    jaxpr = program.jaxpr
    inputs = list(zip(jaxpr.invars, known, strict=True))
    others = [v for v, is_known in inputs if not is_known]
    seen = {*jaxpr.constvars, *(v for v, is_known in inputs if is_known)}
    first, rest = [], []
    for equation in jaxpr.eqns:
        scalar = not any(v.aval.shape for v in equation.outvars)
        is_first = scalar and seen.issuperset(variables(equation.invars))
        (first if is_first else rest).append(equation)
        seen |= set(equation.outvars) if is_first else set()
    read = variables(atom for atoms in (*(e.invars for e in rest), jaxpr.outvars) for atom in atoms)
    needed = [v for v in read if v in seen]
    numbers = jaxpr.replace(eqns=first, invars=[v for v, k in inputs if k], outvars=needed)
    main = jaxpr.replace(eqns=rest, constvars=[], invars=[*others, *needed])
    return ClosedJaxpr(numbers, program.consts), ClosedJaxpr(main, ())


def variables(atoms: Iterable[Any]) -> list[Var]:
    """The variables among the inputs of an equation, each once, without the literals."""
    return list(dict.fromkeys(atom for atom in atoms if not isinstance(atom, Literal)))


def scalars(program: ClosedJaxpr) -> list[tuple[str, list[str]]]:
    """What a program does, in order, and the numbers in it; the sizes of arrays are left out."""
    found = []
    for equation in program.jaxpr.eqns:
        numbers = [atom.val for atom in equation.invars if isinstance(atom, Literal)]
        # As text, in which a NaN is equal to another.
        found.append((equation.primitive.name, [repr(np.asarray(x).item()) for x in numbers]))
        for inner in jaxprs_in_params(equation.params):
            found += scalars(ClosedJaxpr(inner, ()))
    return found


def value_of(values: Mapping[Var, Any], atom: Any) -> Any:
    """The value of a variable or a literal."""
    return values[atom] if isinstance(atom, Var) else jnp.asarray(atom.val, atom.aval.dtype)


def is_loop(equation: Any) -> bool:
    """Whether an equation is a `jax.lax.scan`."""
    return equation.primitive.name == "scan"


def is_inexact(x: Any) -> bool:
    """Whether `x` is of real or complex numbers, which have gradients."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def is_jit(equation: Any) -> bool:
    """Whether an equation is a `jax.jit`."""
    return equation.primitive.name in JITS


def is_checkpoint(equation: Any) -> bool:
    """Whether an equation is a `jax.checkpoint`."""
    return equation.primitive.name in CHECKPOINTS


def called(equation: Any) -> ClosedJaxpr:
    """The program that an equation calls: of `jit`, of a checkpoint, of a function of its own."""
    jaxpr = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return jaxpr if hasattr(jaxpr, "consts") else ClosedJaxpr(jaxpr, ())


def inlined(program: ClosedJaxpr, wanted: Callable[[Any], bool]) -> ClosedJaxpr:
    """The program with the bodies of the equations that are wanted in their places."""
    if not any(wanted(equation) for equation in program.jaxpr.eqns):
        return program
    inputs = [type_of(v.aval) for v in program.jaxpr.invars]
    return jax.make_jaxpr(lambda *args: _run_inlined(program, args, wanted))(*inputs)


def _run_inlined(
    program: ClosedJaxpr, args: Sequence[Any], wanted: Callable[[Any], bool]
) -> list[Any]:
    values: dict[Var, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values |= zip(program.jaxpr.invars, args, strict=True)
    for equation in program.jaxpr.eqns:
        if wanted(equation):
            inputs = [value_of(values, atom) for atom in equation.invars]
            results = _run_inlined(called(equation), inputs, wanted)
        else:
            inputs = variables(equation.invars)
            run = piece(program.jaxpr, [equation], inputs, equation.outvars)
            results = run(*(values[v] for v in inputs))
        values |= zip(equation.outvars, results, strict=True)
    return [value_of(values, atom) for atom in program.jaxpr.outvars]


def _hides_a_loop(equation: Any) -> bool:
    return is_jit(equation) and any(
        is_loop(inner) or _hides_a_loop(inner) for inner in equation.params["jaxpr"].jaxpr.eqns
    )
