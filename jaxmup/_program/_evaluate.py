"""One evaluator of programs: for arrays, and for whatever else can be known of each value."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax

from jaxmup._program._calls import called, is_call, is_checkpoint
from jaxmup._program._jax import Atom, ClosedJaxpr, Equation, Literal, Var, bind, context_of
from jaxmup._program._loops import Choice, Loop, While, is_choice, is_scan, is_while
from jaxmup._program._types import type_of

T = TypeVar("T")
Hook = Callable[[Equation, list[Any]], Sequence[Any] | None]


def interpret(
    program: ClosedJaxpr,
    inputs: Sequence[T],
    step: Callable[[Equation, list[T]], Sequence[T]],
    *,
    literal: Callable[[Literal], T],
    constants: Sequence[T],
) -> list[T]:
    """Facts about the outputs of a program, from facts about its inputs.

    A fact is anything: the array itself, a shape, the inputs that a value follows from.

    Args:
      program: The program; the inside of its calls and loops is the business of `step`.
      inputs: Fact about each input.
      step: Function of an equation and the facts about what it reads, to those about its results.
      literal: Function of a number that stands in the program, to the fact about it.
      constants: Fact about each array that the program holds.

    Example:
      >>> import jax
      >>> program = jax.make_jaxpr(lambda x, y: (2 * x, x + y))(1.0, 1.0)
      >>> longest = lambda equation, depths: [1 + max(depths)] * len(equation.outvars)
      >>> interpret(program, [0, 5], longest, literal=lambda _: 0, constants=[])
      [1, 6]
    """
    jaxpr = program.jaxpr
    values: dict[Var, T] = dict(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Atom) -> T:
        return literal(atom) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = step(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def evaluate(program: ClosedJaxpr, inputs: Sequence[Any], hook: Hook) -> list[Any]:
    """The outputs of a program, each of whose equations a hook may take over.

    Args:
      program: The program.
      inputs: Its inputs.
      hook: Function of an equation and the arrays that it reads to its results, or to `None` for
        those that it has by itself, which are those of `bind`. A call is inlined by evaluating what
        is `called` there; `run_inside` goes into whatever else runs a program.

    Example:
      >>> import jax
      >>> program = jax.make_jaxpr(lambda x: jax.numpy.sin(x) + 1)(2.0)
      >>> def linear(equation, inputs):
      ...     return inputs if equation.primitive.name == "sin" else None
      >>> evaluate(program, [2.0], linear)
      [Array(3., dtype=float32, weak_type=True)]
    """

    def step(equation: Equation, inputs: list[Any]) -> Sequence[Any]:
        with context_of(equation):
            results = hook(equation, inputs)
            return bind(equation, inputs) if results is None else results

    return interpret(program, inputs, step, literal=lambda atom: atom.val, constants=program.consts)


def run_inside(
    equation: Equation,
    inputs: Sequence[Any],
    run: Callable[[ClosedJaxpr, list[Any]], tuple[list[Any], T]],
) -> tuple[list[Any], Any] | None:
    """The results of an equation whose inner programs another function runs.

    Checkpoints, loops and choices stay what they are. A function with its own derivatives becomes
    what it computes, so this is not for what is differentiated afterwards.

    Args:
      equation: A call, a checkpoint, a scan, a while or a cond.
      inputs: What it reads.
      run: Takes a program and its inputs to its results and anything that it collects, a tree.

    Returns:
      The results and what was collected: of a scan with an axis of iterations in front, of a while
      nothing (`None`), since nobody knows how many iterations it has. `None` for the pair if the
      equation runs no program that is known how to run.
    """
    if is_checkpoint(equation):
        options = {name: equation.params[name] for name in ("policy", "prevent_cse")}
        return jax.checkpoint(partial(run, called(equation)), **options)(list(inputs))
    if is_call(equation):
        return run(called(equation), list(inputs))
    if is_scan(equation):
        loop = Loop.of(equation)
        return loop.run(partial(run, loop.body), inputs)
    if is_while(equation):
        return While(equation).run(lambda program, xs: run(program, xs)[0], inputs), None
    # Of what depends on the platform, XLA may be unable to compile the other branches.
    if is_choice(equation) and not Choice(equation).is_of_platform:
        return Choice(equation).run(run, inputs)
    return None


def inlined(program: ClosedJaxpr, wanted: Callable[[Equation], bool]) -> ClosedJaxpr:
    """The program with the bodies of the calls that are wanted in their places.

    Calls inside of calls that stay, or of loops, stay too.
    """
    if not any(wanted(equation) for equation in program.jaxpr.eqns):
        return program

    def hook(equation: Equation, inputs: list[Any]) -> list[Any] | None:
        return evaluate(called(equation), inputs, hook) if wanted(equation) else None

    types = [type_of(v.aval) for v in program.jaxpr.invars]
    return jax.make_jaxpr(lambda *args: evaluate(program, args, hook))(*types)
