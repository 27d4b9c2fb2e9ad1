"""Values of a program followed back and forth, and the parts of it that some of them need."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxmup._program._evaluate import interpret
from jaxmup._program._jax import (
    Atom,
    ClosedJaxpr,
    Equation,
    Jaxpr,
    Literal,
    Var,
    as_function,
    inner_programs,
    without_dead_code,
)

Label = TypeVar("Label", bound=Hashable)


def variables(atoms: Iterable[Atom]) -> list[Var]:
    """The variables among some atoms, each once, without the literals."""
    return list(dict.fromkeys(atom for atom in atoms if not isinstance(atom, Literal)))


def number_of_uses(program: ClosedJaxpr) -> Counter[Var]:
    """The number of times that each variable is read, by equations and as an output."""
    atoms = [atom for equation in program.jaxpr.eqns for atom in equation.invars]
    return Counter(x for x in (*atoms, *program.jaxpr.outvars) if not isinstance(x, Literal))


def dependencies(program: ClosedJaxpr, labels: Sequence[Label]) -> list[frozenset[Label]]:
    """The labels of the inputs that each output of a program follows from.

    A call or a loop is taken as a whole: each of its results follows from all that it reads.

    Example:
      >>> import jax
      >>> program = jax.make_jaxpr(lambda x, y, z: (x * y, z, 1.0))(1.0, 2.0, 3.0)
      >>> [sorted(labels) for labels in dependencies(program, ["x", "y", "z"])]
      [['x', 'y'], ['z'], []]
    """
    nothing: frozenset[Label] = frozenset()

    def step(equation: Equation, found: list[frozenset[Label]]) -> list[frozenset[Label]]:
        return [nothing.union(*found)] * len(equation.outvars)

    return interpret(
        program,
        [frozenset([label]) for label in labels],
        step,
        literal=lambda _: nothing,
        constants=[nothing] * len(program.consts),
    )


def followers(
    program: ClosedJaxpr, start: Collection[Var], through: Callable[[Var], bool]
) -> set[Var]:
    """The variables that follow from some, by way of variables that `through` says yes to."""
    found = {v for v in start if through(v)}
    for equation in program.jaxpr.eqns:
        if not found.isdisjoint(variables(equation.invars)):
            found |= {v for v in equation.outvars if through(v)}
    return found


def part(program: ClosedJaxpr, outputs: Iterable[int]) -> tuple[ClosedJaxpr, list[int]]:
    """The part of a program that computes some of its outputs, and the inputs that it needs.

    Args:
      program: The program.
      outputs: Positions of the wanted outputs. The part has them in the order of the program.

    Example:
      >>> import jax
      >>> program = jax.make_jaxpr(lambda x, y: (x + 1, y + 2))(1.0, 1.0)
      >>> part(program, [1])
      ({ lambda ; a:f32[]. let b:f32[] = add a 2.0:f32[] in (b,) }, [1])
    """
    wanted = set(outputs)
    mask = [i in wanted for i in range(len(program.jaxpr.outvars))]
    smaller, used = without_dead_code(program, mask, keep_inputs=False)
    return smaller, [i for i, needed in enumerate(used) if needed]


def parts(program: ClosedJaxpr) -> list[tuple[ClosedJaxpr, list[int]]]:
    """The `part` of each output of a program, at a price that grows with the program alone."""
    jaxpr = program.jaxpr
    makers = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.outvars}

    def needed_for(output: Atom) -> list[Equation]:
        found: set[int] = set()
        following = variables([output])
        while following:
            maker = makers.get(following.pop())
            if maker is not None and maker not in found:
                found.add(maker)
                following += variables(jaxpr.eqns[maker].invars)
        return [jaxpr.eqns[i] for i in sorted(found)]

    return [
        part(ClosedJaxpr(jaxpr.replace(eqns=needed_for(v), outvars=[v]), program.consts), [0])
        for v in jaxpr.outvars
    ]


def piece(
    jaxpr: Jaxpr, equations: Sequence[Equation], inputs: Sequence[Var], outputs: Sequence[Atom]
) -> Callable[..., list[Any]]:
    """Some equations of a program, as a function from some of its variables to others."""
    replaced = jaxpr.replace(
        eqns=list(equations), constvars=[], invars=list(inputs), outvars=list(outputs)
    )
    return as_function(ClosedJaxpr(replaced, ()))


def split(
    program: ClosedJaxpr, known: Sequence[bool], goes_first: Callable[[Equation], bool]
) -> tuple[ClosedJaxpr, ClosedJaxpr]:
    """A program as two, the first of which sees only the inputs that are known.

    Args:
      program: The program.
      known: Whether each of its inputs is known.
      goes_first: Says of an equation if it belongs to the first where it can be computed there.

    Returns:
      From the known inputs to what the second needs of them and of what the first computes; and
      from the other inputs and these values to the outputs.
    """
    jaxpr = program.jaxpr
    inputs = list(zip(jaxpr.invars, known, strict=True))
    others = [v for v, is_known in inputs if not is_known]
    seen = {*jaxpr.constvars, *(v for v, is_known in inputs if is_known)}
    # One that reads a value of the second cannot be in the first, wherever it stands: what the
    # first makes is all there before the second begins.
    first, rest = [], []
    for equation in jaxpr.eqns:
        is_first = goes_first(equation) and seen.issuperset(variables(equation.invars))
        (first if is_first else rest).append(equation)
        seen |= set(equation.outvars) if is_first else set()
    read = variables(atom for atoms in (*(e.invars for e in rest), jaxpr.outvars) for atom in atoms)
    needed = [v for v in read if v in seen]
    before = jaxpr.replace(eqns=first, invars=[v for v, k in inputs if k], outvars=needed)
    after = jaxpr.replace(eqns=rest, constvars=[], invars=[*others, *needed])
    return ClosedJaxpr(before, program.consts), ClosedJaxpr(after, ())


def signature(program: ClosedJaxpr) -> list[tuple[str, list[str]]]:
    """The operations of a program in order, with the numbers in it, but without sizes of arrays."""
    found = []
    for equation in program.jaxpr.eqns:
        values = [atom.val for atom in equation.invars if isinstance(atom, Literal)]
        # As text, in which a NaN is equal to another.
        found.append((equation.primitive.name, [repr(np.asarray(x).item()) for x in values]))
        for inner in inner_programs(equation):
            found += signature(inner)
    return found
