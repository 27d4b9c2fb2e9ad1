"""A stack of blocks forward, and backward with a visit to each layer when its gradient is there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, Var, jaxpr_as_fun

from jaxmup.fused._order import zero_after
from jaxmup.fused._program import is_inexact, part, trace, type_of
from jaxmup.fused._stack import Block, Stack

Arrays = dict[int, Array]


class Inputs(NamedTuple):
    """What a layer is given, or something about each of it; a tree of four lists.

    Args:
      constants: what every layer sees.
      carry: what the layer before hands over.
      layer: its parameters.
      others: its other inputs: random keys, statistics, outputs of another stack.
    """

    constants: list[Any]
    carry: list[Any]
    layer: list[Any]
    others: list[Any]


class Linearized(NamedTuple):
    """A layer with what its backward pass needs.

    Args:
      stack: the stack that it is of.
      active: which inputs have a gradient, as `Inputs` of booleans.
      program: from the leaves of `Inputs` to the layer's results and its residuals.
      results: which results have a gradient.
      structure: the tree that residuals are the leaves of: the layer's backward pass.
      plan: where each residual comes from in the backward pass.
    """

    stack: Stack
    active: Inputs
    program: ClosedJaxpr
    results: list[bool]
    structure: Any
    plan: "Plan"


class Plan(NamedTuple):
    """Where the residuals of a layer come from in the backward pass, as positions among them.

    Only what a layer computes from its carry, or draws at random, is stored: what follows from the
    parameters is computed again from those, and what every layer shares is kept once.
    """

    constant: list[int]
    of_parameters: list[int]
    forwarded: dict[int, int]  # to the position of the input among `others`
    stored: dict[int, int]  # to the position among what is stored


class Visitor(NamedTuple):
    """What happens to the layers of a stack in the backward pass; keys are those of its arrays.

    Args:
      weights: keys of the parameters of the block, in the order of `Inputs.layer`.
      visit: takes the gradients of a layer and its slices of all arrays, all with a leading axis of
        length 1, to the new values of those in `later` and anything to collect.
      later: keys of the arrays that are written an iteration after the visit.
      write: takes the arrays, the gradients of a layer and its index to the arrays with what is not
        for later, if there is any.
      written: keys of the arrays that change in either way.
    """

    weights: Sequence[int]
    visit: Callable[[Arrays, Arrays], tuple[Arrays, Any]]
    later: Sequence[int] = ()
    write: Callable[[Arrays, Arrays, Any], Arrays] | None = None
    written: Sequence[int] = ()


class Tape(NamedTuple):
    """What the forward pass of a stack keeps for its backward pass."""

    inputs: Inputs
    constant: list[Array]
    stored: list[Array]


def linearize(
    stack: Stack, change: Callable[[ClosedJaxpr], Block], inputs: Inputs, active: Inputs
) -> Linearized:
    """Differentiates one layer of a stack.

    Args:
      stack: the stack.
      change: makes a function of the body of its loop; see `Stack.block`.
      inputs: what the loop is given; `layer` and `others` with a leading axis of layers.
      active: which of these have a gradient.
    """
    block = stack.block(change)
    found: dict[str, Any] = {}

    def forward(inputs: Inputs) -> tuple[list[Any], list[Any]]:
        moving, fixed = _split(jax.tree.leaves(inputs), active)

        def run(moving: list[Any]) -> tuple[list[Any], list[Any]]:
            leaves = _merge(moving, fixed, active)
            carry, outputs = block(*jax.tree.unflatten(jax.tree.structure(inputs), leaves))
            results = [*carry, *outputs]
            found["results"] = [is_inexact(x) for x in results]
            return _split(results, found["results"])

        smooth, pull_back, rest = jax.vjp(run, moving, has_aux=True)
        residuals, found["structure"] = jax.tree.flatten(pull_back)
        return _merge(smooth, rest, found["results"]), residuals

    program = trace(forward, one_layer(inputs)).program
    plan = _plan(program, len(found["results"]), inputs)
    return Linearized(stack, active, program, found["results"], found["structure"], plan)


def scan(stack: Stack, block: Callable[..., Any], inputs: Inputs) -> list[Array]:
    """The results of the loop, without anything kept."""

    def body(carry: list[Any], slices: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        return block(inputs.constants, carry, *slices)

    slices = (inputs.layer, inputs.others)
    carry, outputs = lax.scan(body, inputs.carry, slices, **_order(stack))
    return [*carry, *outputs]


def run_forward(layer: Linearized, inputs: Inputs) -> tuple[list[Array], Tape]:
    """The results of the loop, and what its backward pass needs."""
    loop, plan, count = layer.stack.loop, layer.plan, len(layer.results)
    first = {at: residual for residual, at in reversed(plan.stored.items())}
    step = _partial(layer, [*range(count), *(count + first[at] for at in range(len(first)))])

    def body(carry: list[Any], slices: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        results = step(Inputs(inputs.constants, carry, *slices))
        return results[: loop.carry], (results[loop.carry : count], results[count:])

    carry, (outputs, stored) = lax.scan(
        body, inputs.carry, (inputs.layer, inputs.others), **_order(layer.stack)
    )
    constant = _partial(layer, [count + i for i in plan.constant])(inputs)
    return [*carry, *outputs], Tape(inputs, constant, stored)


def run_backward(
    layer: Linearized, tape: Tape, gradients: Sequence[Any], stacks: Arrays, visitor: Visitor
) -> tuple[Inputs, Arrays, Any]:
    """Runs back through the loop and visits each layer with the gradients of its parameters.

    What a visit returns is written into the stacks one iteration later, before the next layer is
    read. Written in the iteration that reads them, XLA fuses the write with a second computation of
    the new values from the old ones, and copies whole stacks at each layer.

    Args:
      layer: of `linearize`.
      tape: of `run_forward`; `tape.inputs.layer` is not read.
      gradients: with respect to the results of the loop.
      stacks: by key, each with a leading axis of layers.
      visitor: what happens to the layers.

    Returns:
      The gradients with respect to `Inputs` (`None` where there is none, and for the parameters),
      the stacks that the visitor writes, what its visits gave to collect.
    """
    loop, length = layer.stack.loop, layer.stack.loop.length
    carry_smooth = layer.results[: loop.carry]
    of_carry = [g for g, smooth in zip(gradients, carry_smooth, strict=False) if smooth]
    outputs = zip(gradients[loop.carry :], layer.results[loop.carry :], strict=True)
    of_outputs = [g for g, smooth in outputs if smooth]
    indices = jnp.arange(length)
    last = indices[0] if loop.equation.params["reverse"] else indices[-1]

    def body(state: Any, slices: Any) -> tuple[Any, Any]:
        of_carry, of_constants, written, pending, where = state
        index, stored, others, of_outputs = slices
        written = _write(written, pending, where)
        here = _read({**stacks, **written}, index)
        weights = squeezed([here[key] for key in visitor.weights])
        pull_back = _pull_back(layer, tape, weights, stored, others)
        moved = _unflatten(layer.active, *pull_back([*of_carry, *of_outputs]))
        of_carry = _present(moved.carry)
        of_constants = jax.tree.map(jnp.add, of_constants, _present(moved.constants))
        of_layer = dict(zip(visitor.weights, (g[None] for g in moved.layer), strict=True))
        new, collected = visitor.visit(of_layer, here)
        if visitor.write is not None:
            written = visitor.write(written, of_layer, index + zero_after(of_carry))
        return (of_carry, of_constants, written, new, index), (_present(moved.others), collected)

    zeros = [
        jnp.zeros_like(x)
        for x, active in zip(tape.inputs.constants, layer.active.constants, strict=True)
        if active
    ]
    written = {key: stacks[key] for key in visitor.written}
    pending = _read({key: stacks[key] for key in visitor.later}, last)
    order = _order(layer.stack)
    order["reverse"] = not order["reverse"]
    start = (of_carry, zeros, written, pending, last)
    slices = (indices, tape.stored, tape.inputs.others, of_outputs)
    with jax.named_scope("transpose(blocks)"):  # as XLA's names of what JAX transposes itself
        state, (of_others, collected) = lax.scan(body, start, slices, **order)
    of_carry, of_constants, *unwritten = state
    constants, carry, layers, others = layer.active
    found = Inputs(
        _fill(of_constants, constants),
        _fill(of_carry, carry),
        [None] * len(layers),
        _fill(of_others, others),
    )
    return found, _write(*unwritten), collected


def one_layer(inputs: Inputs) -> Inputs:
    """The types of what one layer is given."""
    return Inputs(
        [type_of(x) for x in inputs.constants],
        [type_of(x) for x in inputs.carry],
        [type_of(x, drop=1) for x in inputs.layer],
        [type_of(x, drop=1) for x in inputs.others],
    )


def squeezed(layer: Any) -> Any:
    """Arrays without their leading axis of length 1."""
    return jax.tree.map(lambda x: x.reshape(x.shape[1:]), layer)


def _plan(program: ClosedJaxpr, results: int, inputs: Inputs) -> Plan:
    jaxpr = program.jaxpr
    groups = [name for name, group in inputs._asdict().items() for _ in group]
    others = {v: i for i, v in enumerate(jaxpr.invars[len(groups) - len(inputs.others) :])}
    reads: dict[Var, frozenset[str]] = {
        v: frozenset([group]) for v, group in zip(jaxpr.invars, groups, strict=True)
    }
    for equation in jaxpr.eqns:
        known = (reads.get(v, frozenset()) for v in equation.invars if isinstance(v, Var))
        found = frozenset().union(*known)
        reads |= dict.fromkeys(equation.outvars, found)
    plan, slots = Plan([], [], {}, {}), {}
    for i, atom in enumerate(jaxpr.outvars[results:]):
        read = frozenset() if isinstance(atom, Literal) else reads.get(atom, frozenset())
        if read <= {"constants"}:
            plan.constant.append(i)
        elif read == {"layer"}:
            plan.of_parameters.append(i)
        elif atom in others:
            plan.forwarded[i] = others[atom]
        else:
            plan.stored[i] = slots.setdefault(atom, len(slots))
    return plan


def _pull_back(
    layer: Linearized, tape: Tape, weights: list[Array], stored: list[Array], others: list[Any]
) -> Callable[..., Any]:
    """The backward pass of the layer with these parameters, from what was kept of it."""
    plan, count = layer.plan, len(layer.results)
    again = _partial(layer, [count + i for i in plan.of_parameters])
    residuals = dict(zip(plan.constant, tape.constant, strict=True))
    residuals |= zip(plan.of_parameters, again(Inputs([], [], weights, [])), strict=True)
    residuals |= {i: others[at] for i, at in plan.forwarded.items()}
    residuals |= {i: stored[at] for i, at in plan.stored.items()}
    return jax.tree.unflatten(layer.structure, [residuals[i] for i in range(len(residuals))])


def _partial(layer: Linearized, outputs: list[int]) -> Callable[[Inputs], list[Any]]:
    """Some outputs of the layer's program; of inputs, only the groups that they need count."""
    program, used = part(layer.program, outputs)
    order = sorted(outputs)
    run, sizes = jaxpr_as_fun(program), [len(group) for group in layer.active]

    def call(inputs: Inputs) -> list[Any]:
        padded = [
            [*group, *[None] * (size - len(group))]
            for group, size in zip(inputs, sizes, strict=True)
        ]
        flat = [x for group in padded for x in group]
        results = dict(zip(order, run(*(flat[i] for i in used)), strict=True))
        return [results[i] for i in outputs]

    return call


def _order(stack: Stack) -> dict[str, Any]:
    params = stack.loop.equation.params
    return {name: params[name] for name in ("length", "reverse", "unroll")}


def _read(stacks: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, index, 1), stacks)


def _write(stacks: Arrays, values: Arrays, index: Any) -> Arrays:
    put = lax.dynamic_update_slice_in_dim
    return stacks | {key: put(stacks[key], x, index, 0) for key, x in values.items()}


def _split(leaves: Sequence[Any], chosen: Any) -> tuple[list[Any], list[Any]]:
    flags = jax.tree.leaves(chosen)
    pairs = list(zip(leaves, flags, strict=True))
    return [x for x, flag in pairs if flag], [x for x, flag in pairs if not flag]


def _merge(moving: Sequence[Any], fixed: Sequence[Any], chosen: Any) -> list[Any]:
    first, second = iter(moving), iter(fixed)
    return [next(first) if flag else next(second) for flag in jax.tree.leaves(chosen)]


def _unflatten(active: Inputs, found: Sequence[Any]) -> Inputs:
    """Gradients in the places of the inputs that have some."""
    flags, structure = jax.tree.flatten(active)
    return jax.tree.unflatten(structure, _fill(found, flags))


def _fill(found: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    rest = iter(found)
    return [next(rest) if flag else None for flag in flags]


def _present(found: Sequence[Any]) -> list[Any]:
    return [x for x in found if x is not None]
