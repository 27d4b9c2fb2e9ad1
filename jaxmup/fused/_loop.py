"""A stack of blocks forward, and backward with a visit to each layer when its gradient is there.

JAX's own transpose of a scan returns the gradients of all layers, stacked. To see each when it is
there, and let go of it, the scan is differentiated here: one layer is linearized by `jax.vjp`, its
residuals become outputs of a scan forward, and a scan in the other order runs the pullbacks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxmup._program import (
    ClosedJaxpr,
    as_function,
    dependencies,
    is_inexact,
    part,
    trace,
    type_of,
)
from jaxmup._tree import Tree
from jaxmup.fused._order import zero_after
from jaxmup.fused._stack import Block, StackedBlocks

Arrays = dict[int, Array]


class LayerInputs(NamedTuple):
    """The inputs of a layer, or something about each of them; a tree of four lists.

    Args:
      constants: Values that every layer sees.
      carry: Values that the layer before hands over.
      layer: Parameters of the layer.
      others: Its other slices: random keys, statistics, outputs of another stack.
    """

    constants: list[Any]
    carry: list[Any]
    layer: list[Any]
    others: list[Any]


class Linearized(NamedTuple):
    """A layer with what its backward pass needs.

    Args:
      stack: The stack that it is a layer of.
      active: True for each input that has a gradient, as `LayerInputs` of booleans.
      program: From the leaves of `LayerInputs` to the layer's results and its residuals.
      results: True for each result that has a gradient.
      structure: Tree structure whose leaves are the residuals: that of the pullback of `jax.vjp`.
      residuals: Source of each residual in the backward pass.
    """

    stack: StackedBlocks
    active: LayerInputs
    program: ClosedJaxpr
    results: list[bool]
    structure: Any
    residuals: "Residuals"


class Residuals(NamedTuple):
    """The source of each residual of a layer in the backward pass, by its position among them.

    Only what a layer computes from its carry, or draws at random, is stored for every layer.

    Args:
      constant: Residuals that all layers share, kept once.
      of_parameters: Residuals that follow from the parameters, such as casts and transposes, and
        are computed from those again.
      forwarded: Residuals that are an input, with its position among `LayerInputs.others`.
      stored: The rest, with its position among the arrays that are stored.
    """

    constant: list[int]
    of_parameters: list[int]
    forwarded: dict[int, int]
    stored: dict[int, int]


class Visitor(NamedTuple):
    """The treatment of each layer of a stack in the backward pass.

    Arrays have keys. A layer changes some of them in `visit`, which sees its slices whole, and
    others in `write`, which updates them in place.

    Args:
      weights: Keys of the parameters of the block, in the order of `LayerInputs.layer`.
      visit: Takes the gradients of a layer and its slices of all arrays, each with a leading axis
        of length 1. Returns new slices of the arrays in `later`, and anything to collect.
      later: Keys of the arrays whose new slices are written an iteration after the visit.
      write: Takes all arrays, the gradients of a layer and its index. Returns the arrays, with that
        layer of those that are not in `later` updated. `None` if `later` has them all.
      written: Keys of the arrays that change, in either way.
    """

    weights: Sequence[int]
    visit: Callable[[Arrays, Arrays], tuple[Arrays, Any]]
    later: Sequence[int] = ()
    write: Callable[[Arrays, Arrays, ArrayLike], Arrays] | None = None
    written: Sequence[int] = ()


class Kept(NamedTuple):
    """The values that the forward pass of a stack keeps for its backward pass.

    Args:
      inputs: Inputs of the loop; `layer` and `others` with a leading axis of layers.
      constant: Residuals that all layers share.
      stored: Residuals of each layer, with a leading axis of layers.
    """

    inputs: LayerInputs
    constant: list[Array]
    stored: list[Array]


def linearize(
    stack: StackedBlocks,
    change: Callable[[ClosedJaxpr], Block],
    inputs: LayerInputs,
    active: LayerInputs,
) -> Linearized:
    """Differentiates one layer of a stack.

    Args:
      stack: The stack.
      change: Makes a function of the body of its loop; see `StackedBlocks.block`.
      inputs: Inputs of the loop; `layer` and `others` with a leading axis of layers.
      active: True for each of these that has a gradient.
    """
    block = stack.block(change)
    found: dict[str, Any] = {}

    def forward(inputs: LayerInputs) -> tuple[list[Any], list[Any]]:
        moving, fixed = _split(jax.tree.leaves(inputs), active)

        def run(moving: list[Any]) -> tuple[list[Any], list[Any]]:
            leaves = _merge(moving, fixed, active)
            carry, outputs = block(*jax.tree.unflatten(jax.tree.structure(inputs), leaves))
            results = [*carry, *outputs]
            found["results"] = [is_inexact(x) for x in results]
            return _split(results, found["results"])

        smooth, pull_back, rest = jax.vjp(run, moving, has_aux=True)
        # A pullback is a tree with the residuals as leaves: taken apart here, put together again
        # in the backward pass.
        residuals, found["structure"] = jax.tree.flatten(pull_back)
        return _merge(smooth, rest, found["results"]), residuals

    program = trace(forward, one_layer(inputs)).program
    residuals = _residuals(program, len(found["results"]), inputs)
    return Linearized(stack, active, program, found["results"], found["structure"], residuals)


def scan(stack: StackedBlocks, block: Callable[..., Any], inputs: LayerInputs) -> list[Array]:
    """The results of the loop, without anything kept."""

    def body(carry: list[Any], slices: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        return block(inputs.constants, carry, *slices)

    slices = (inputs.layer, inputs.others)
    carry, outputs = lax.scan(body, inputs.carry, slices, **stack.loop.order)
    return [*carry, *outputs]


def run_forward(layer: Linearized, inputs: LayerInputs) -> tuple[list[Array], Kept]:
    """The results of the loop, and what its backward pass needs."""
    # Of residuals that are one and the same value, the first is stored for all.
    loop, of, count = layer.stack.loop, layer.residuals, len(layer.results)
    first = {at: residual for residual, at in reversed(of.stored.items())}
    step = _partial(layer, [*range(count), *(count + first[at] for at in range(len(first)))])

    def body(carry: list[Any], slices: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        results = step(LayerInputs(inputs.constants, carry, *slices))
        return results[: loop.carry], (results[loop.carry : count], results[count:])

    carry, (outputs, stored) = lax.scan(
        body, inputs.carry, (inputs.layer, inputs.others), **layer.stack.loop.order
    )
    constant = _partial(layer, [count + i for i in of.constant])(inputs)
    return [*carry, *outputs], Kept(inputs, constant, stored)


def run_backward(
    layer: Linearized, kept: Kept, gradients: Sequence[Any], stacks: Arrays, visitor: Visitor
) -> tuple[LayerInputs, Arrays, Any]:
    """Runs back through the loop and visits each layer with the gradients of its parameters.

    What a visit returns is written into the stacks one iteration later, before the next layer is
    read. Were it written in the iteration that reads the old values, XLA would fuse the write with
    a second computation of the new values, and copy whole stacks at each layer.

    Args:
      layer: Layer that `linearize` has differentiated.
      kept: Values that `run_forward` has kept; `kept.inputs.layer` is not read.
      gradients: Gradients with respect to the results of the loop.
      stacks: Arrays by key, each with a leading axis of layers.
      visitor: Treatment of each layer.

    Returns:
      The gradients with respect to `LayerInputs`, with `None` where there is none and for the
      parameters; the stacks that the visitor writes; what its visits have collected.
    """
    loop = layer.stack.loop
    of_carry, _ = _split(gradients[: loop.carry], layer.results[: loop.carry])
    of_outputs, _ = _split(gradients[loop.carry :], layer.results[loop.carry :])
    indices = jnp.arange(loop.length)
    last = indices[0] if loop.is_reversed else indices[-1]

    def body(state: Any, slices: Any) -> tuple[Any, Any]:
        of_carry, of_constants, written, pending, where = state
        index, stored, others, of_outputs = slices
        written = _write(written, pending, where)
        here = _read({**stacks, **written}, index)
        weights = squeezed([here[key] for key in visitor.weights])
        pull_back = _pull_back(layer, kept, weights, stored, others)
        moved = _unflatten(layer.active, *pull_back([*of_carry, *of_outputs]))
        of_carry = _present(moved.carry)
        of_constants = jax.tree.map(jnp.add, of_constants, _present(moved.constants))
        of_layer = dict(zip(visitor.weights, (g[None] for g in moved.layer), strict=True))
        new, collected = visitor.visit(of_layer, here)
        if visitor.write is not None:
            # The weights are read for the gradient of the carry, which so comes first.
            written = visitor.write(written, of_layer, index + zero_after(of_carry))
        return (of_carry, of_constants, written, new, index), (_present(moved.others), collected)

    moving, _ = _split(kept.inputs.constants, layer.active.constants)
    written = {key: stacks[key] for key in visitor.written}
    # The first iteration writes the slices of its own layer, unchanged.
    pending = _read({key: stacks[key] for key in visitor.later}, last)
    order = {**loop.order, "reverse": not loop.is_reversed}
    start = (of_carry, [jnp.zeros_like(x) for x in moving], written, pending, last)
    slices = (indices, kept.stored, kept.inputs.others, of_outputs)
    # `live_gradients` knows what is backward by this word, which JAX's own transposes have too.
    with jax.named_scope("transpose(blocks)"):
        state, (of_others, collected) = lax.scan(body, start, slices, **order)
    of_carry, of_constants, *unwritten = state
    active = layer.active
    found = LayerInputs(
        _fill(of_constants, active.constants),
        _fill(of_carry, active.carry),
        [None] * len(active.layer),
        _fill(of_others, active.others),
    )
    return found, _write(*unwritten), collected


def one_layer(inputs: LayerInputs) -> LayerInputs:
    """The types of the inputs of one layer."""
    return LayerInputs(
        [type_of(x) for x in inputs.constants],
        [type_of(x) for x in inputs.carry],
        [type_of(x, drop=1) for x in inputs.layer],
        [type_of(x, drop=1) for x in inputs.others],
    )


def squeezed(layer: Tree) -> Tree:
    """Arrays without their leading axis of length 1."""
    return jax.tree.map(lambda x: x.reshape(x.shape[1:]), layer)


def _residuals(program: ClosedJaxpr, results: int, inputs: LayerInputs) -> Residuals:
    jaxpr = program.jaxpr
    # Label each leaf with its group; a residual's labels say what it must be computed from.
    groups = [name for name, group in inputs._asdict().items() for _ in group]
    others = {v: i for i, v in enumerate(jaxpr.invars[len(groups) - len(inputs.others) :])}
    reads = dependencies(program, groups)[results:]
    found, slots = Residuals([], [], {}, {}), {}
    for i, (atom, read) in enumerate(zip(jaxpr.outvars[results:], reads, strict=True)):
        if read <= {"constants"}:
            found.constant.append(i)
        elif read == {"layer"}:
            found.of_parameters.append(i)
        elif atom in others:
            found.forwarded[i] = others[atom]
        else:
            found.stored[i] = slots.setdefault(atom, len(slots))
    return found


def _pull_back(
    layer: Linearized, kept: Kept, weights: list[Array], stored: list[Array], others: list[Any]
) -> Callable[..., Any]:
    """The backward pass of the layer with these parameters, from what was kept of it."""
    of, count = layer.residuals, len(layer.results)
    again = _partial(layer, [count + i for i in of.of_parameters])
    found = dict(zip(of.constant, kept.constant, strict=True))
    found |= zip(of.of_parameters, again(LayerInputs([], [], weights, [])), strict=True)
    found |= {i: others[at] for i, at in of.forwarded.items()}
    found |= {i: stored[at] for i, at in of.stored.items()}
    return jax.tree.unflatten(layer.structure, [found[i] for i in range(len(found))])


def _partial(layer: Linearized, outputs: list[int]) -> Callable[[LayerInputs], list[Any]]:
    """Some outputs of the layer's program, as a function of `LayerInputs`.

    Groups that these outputs do not need may be empty.
    """
    # Each call compiles to no more than the wanted outputs need. `part` has them in the order of
    # the program, whatever the order in which they are asked for.
    program, used = part(layer.program, outputs)
    order = sorted(outputs)
    run, sizes = as_function(program), [len(group) for group in layer.active]

    def call(inputs: LayerInputs) -> list[Any]:
        padded = [
            [*group, *[None] * (size - len(group))]
            for group, size in zip(inputs, sizes, strict=True)
        ]
        flat = [x for group in padded for x in group]
        results = dict(zip(order, run(*(flat[i] for i in used)), strict=True))
        return [results[i] for i in outputs]

    return call


def _read(stacks: Arrays, index: ArrayLike) -> Arrays:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, index, 1), stacks)


def _write(stacks: Arrays, values: Arrays, index: ArrayLike) -> Arrays:
    put = lax.dynamic_update_slice_in_dim
    return stacks | {key: put(stacks[key], x, index, 0) for key, x in values.items()}


def _split(leaves: Sequence[Any], chosen: Tree) -> tuple[list[Any], list[Any]]:
    flags = jax.tree.leaves(chosen)
    pairs = list(zip(leaves, flags, strict=True))
    return [x for x, flag in pairs if flag], [x for x, flag in pairs if not flag]


def _merge(moving: Sequence[Any], fixed: Sequence[Any], chosen: Tree) -> list[Any]:
    first, second = iter(moving), iter(fixed)
    return [next(first) if flag else next(second) for flag in jax.tree.leaves(chosen)]


def _unflatten(active: LayerInputs, found: Sequence[Any]) -> LayerInputs:
    """Gradients in the places of the inputs that have some."""
    flags, structure = jax.tree.flatten(active)
    return jax.tree.unflatten(structure, _fill(found, flags))


def _fill(found: Sequence[Any], flags: Sequence[bool]) -> list[Any]:
    rest = iter(found)
    return [next(rest) if flag else None for flag in flags]


def _present(found: Sequence[Any]) -> list[Any]:
    return [x for x in found if x is not None]
