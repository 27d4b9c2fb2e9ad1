"""A traced loss forward and backward, with its stacks of blocks in the hands of `_loop`.

The program is cut at its stacks. What lies between two of them is a segment, which `jax.vjp`
differentiates as one function; a gradient is finished when everything behind it has run back.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmup._program import (
    Atom,
    ClosedJaxpr,
    Equation,
    Literal,
    Var,
    aval_of,
    followers,
    is_inexact,
    piece,
    variables,
)
from jaxmup.fused import _loop
from jaxmup.fused._loop import Kept, LayerInputs, Linearized
from jaxmup.fused._stack import Block, StackedBlocks

Gradients = dict[Var, Array]


class Segment(NamedTuple):
    """The equations between two stacks, differentiated.

    Args:
      inputs: Variables that it has gradients for.
      outputs: Variables whose gradients it needs.
      pull_back: From the gradients of the outputs to those of the inputs.
    """

    inputs: list[Var]
    outputs: list[Var]
    pull_back: Callable[[list[Array]], tuple[list[Array]]]


class StackRun(NamedTuple):
    """A stack that has run forward.

    Args:
      layer: One layer, differentiated.
      kept: Values that the forward pass has kept.
    """

    layer: Linearized
    kept: Kept


class Tape(NamedTuple):
    """A loss that has run forward.

    Args:
      program: The traced loss.
      steps: Segments and stacks, in the order in which they ran.
      results: Values of the outputs of the program, the loss first.
    """

    program: ClosedJaxpr
    steps: list[Segment | StackRun]
    results: list[Array]

    @property
    def stacks(self) -> list[StackRun]:
        """The stacks, in order."""
        return [step for step in self.steps if isinstance(step, StackRun)]

    @property
    def kept(self) -> list[Array]:
        """The arrays that are kept for the backward pass, parameters among them."""
        return [
            x
            for step in self.steps
            for x in jax.tree.leaves(
                (step.kept.constant, step.kept.stored)
                if isinstance(step, StackRun)
                else step.pull_back
            )
        ]


def run_forward(
    program: ClosedJaxpr,
    stacks: Sequence[StackedBlocks],
    params: Sequence[Array],
    block: Callable[[ClosedJaxpr], Block],
) -> Tape:
    """Computes the loss and keeps what the backward pass needs.

    Args:
      program: the traced loss.
      stacks: its stacks, in order.
      params: the leaves of its parameters.
      block: what becomes of the body of each stack's loop.
    """
    jaxpr = program.jaxpr
    values: dict[Var, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= zip(jaxpr.invars, params, strict=True)
    active, steps = _active(program), []
    for equations, stack, needed in _pieces(program, stacks):
        segment = _run_segment(program, equations, needed, values, active)
        steps += [segment] if segment.inputs else []
        if stack is not None:
            inputs = _inputs(stack, partial(_value_of, values), params)
            # What every layer adds to has a gradient from the first layer on, though it starts as
            # a constant.
            moves = _inputs(stack, partial(_is_active, active), [True] * len(params))
            moves = moves._replace(carry=[is_inexact(x) for x in inputs.carry])
            layer = _loop.linearize(stack, block, inputs, moves)
            results, kept = _loop.run_forward(layer, inputs)
            values |= zip(stack.loop.equation.outvars, results, strict=True)
            steps.append(StackRun(layer, kept))
    return Tape(program, steps, [_value_of(values, atom) for atom in jaxpr.outvars])


def run_plainly(
    program: ClosedJaxpr,
    stacks: Sequence[StackedBlocks],
    params: Sequence[Array],
    block: Callable[[ClosedJaxpr], Block],
) -> list[Array]:
    """The outputs of the program, each stack a `jax.lax.scan`; arguments as `run_forward`."""
    jaxpr = program.jaxpr
    values: dict[Var, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= zip(jaxpr.invars, params, strict=True)
    for equations, stack, needed in _pieces(program, stacks):
        _run_segment(program, equations, needed, values, set())
        if stack is not None:
            inputs = _inputs(stack, partial(_value_of, values), params)
            results = _loop.scan(stack, stack.block(block), inputs)
            values |= zip(stack.loop.equation.outvars, results, strict=True)
    return [_value_of(values, atom) for atom in jaxpr.outvars]


def run_backward(
    tape: Tape, back: Callable[[int, list[Array]], LayerInputs]
) -> Callable[[Var], Any]:
    """The gradient of the loss with respect to each parameter outside of the stacks.

    Args:
      tape: of `run_forward`.
      back: runs back through the stack of this number with these gradients of its results, and
        returns the gradients with respect to its inputs.
    """
    loss = tape.program.jaxpr.outvars[0]
    found: Gradients = {} if isinstance(loss, Literal) else {loss: jnp.ones_like(tape.results[0])}
    number = len(tape.stacks)
    for step in reversed(tape.steps):
        if isinstance(step, Segment):
            (gradients,) = step.pull_back([_gradient(found, v) for v in step.outputs])
            _add(found, zip(step.inputs, gradients, strict=True))
            continue
        number -= 1
        stack = step.layer.stack
        outputs = [_gradient(found, v) for v in stack.loop.equation.outvars]
        gradients = back(number, outputs)
        atoms = _inputs(stack, lambda atom: atom, tape.program.jaxpr.invars)
        pairs = zip(
            [*atoms.constants, *atoms.carry, *atoms.others],
            [*gradients.constants, *gradients.carry, *gradients.others],
            strict=True,
        )
        _add(found, ((a, g) for a, g in pairs if isinstance(a, Var) and g is not None))
    return lambda v: _gradient(found, v)


def _pieces(
    program: ClosedJaxpr, stacks: Sequence[StackedBlocks]
) -> list[tuple[list[Any], Any, set[Var]]]:
    """The program as equations followed by a stack, and what is needed after those equations."""
    # Backwards, since what is needed after an equation is known only from there on. The casts of
    # stacked parameters are left out: the block casts its own layer, and no whole stack is cast.
    by_loop = {id(stack.loop.equation): stack for stack in stacks}
    dropped = {stack.loop.scanned[i] for stack in stacks for i in stack.casts}
    needed = {atom for atom in program.jaxpr.outvars if isinstance(atom, Var)}
    pieces: list[tuple[list[Any], Any, set[Var]]] = [([], None, set(needed))]
    for equation in reversed(program.jaxpr.eqns):
        if stack := by_loop.get(id(equation)):
            needed |= set(variables(equation.invars))
            pieces.append(([], stack, set(needed)))
        elif dropped.isdisjoint(equation.outvars):
            pieces[-1][0].insert(0, equation)
            needed |= set(variables(equation.invars))
    return pieces[::-1]


def _run_segment(
    program: ClosedJaxpr,
    equations: list[Equation],
    needed: set[Var],
    values: dict[Var, Any],
    active: set[Var],
) -> Segment:
    made = {v: None for equation in equations for v in equation.outvars}  # in order
    inputs = [v for eqn in equations for v in variables(eqn.invars) if v not in made]
    inputs = list(dict.fromkeys(inputs))
    outputs = [v for v in made if v in needed]
    smooth = [v for v in outputs if v in active]
    moving = [v for v in inputs if v in active]
    rest = [v for v in outputs if v not in active]
    run = piece(program.jaxpr, equations, inputs, [*smooth, *rest])

    def function(moved: list[Array]) -> tuple[list[Array], list[Array]]:
        given = values | dict(zip(moving, moved, strict=True))
        results = run(*(given[v] for v in inputs))
        return results[: len(smooth)], results[len(smooth) :]

    before = [values[v] for v in moving]
    # Integers and what follows from no parameter have no gradient, and `jax.vjp` takes neither.
    if not (moving and smooth):
        first, second = function(before)
        values |= zip([*smooth, *rest], [*first, *second], strict=True)
        return Segment([], [], lambda _: ([],))
    first, pull_back, second = jax.vjp(function, before, has_aux=True)
    values |= zip([*smooth, *rest], [*first, *second], strict=True)
    return Segment(moving, smooth, pull_back)


def _active(program: ClosedJaxpr) -> set[Var]:
    """The variables that have a gradient: real ones that follow from the parameters."""
    return followers(program, program.jaxpr.invars, lambda v: is_inexact(aval_of(v)))


def _is_active(active: set[Var], atom: Atom) -> bool:
    return isinstance(atom, Var) and atom in active


def _value_of(values: Mapping[Var, Any], atom: Atom) -> Any:
    # Python's numbers would be taken for weakly typed, which the carry of a loop must not be.
    return values[atom] if isinstance(atom, Var) else jnp.asarray(atom.val, aval_of(atom).dtype)


def _inputs(stack: StackedBlocks, of: Callable[[Any], Any], params: Sequence[Any]) -> LayerInputs:
    """Something about each input of a stack; about the parameters, by their positions."""
    loop, atoms = stack.loop, stack.loop.equation.invars
    return LayerInputs(
        [of(atom) for atom in atoms[: loop.constants]],
        [of(atom) for atom in atoms[loop.constants : loop.constants + loop.carry]],
        [params[j] for j in stack.parameters.values()],
        [of(atom) for atom in stack.others],
    )


def _gradient(found: Gradients, v: Var) -> Array:
    return found[v] if v in found else jnp.zeros_like(aval_of(v))


def _add(found: Gradients, pairs: Iterable[tuple[Var, Array]]) -> None:
    for v, gradient in pairs:
        found[v] = found[v] + gradient if v in found else gradient
