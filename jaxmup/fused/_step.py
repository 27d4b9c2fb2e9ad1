"""`value_and_update`: a training step whose backward pass is the optimizer's update."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._check import is_traced, listed
from jaxmup._program import ClosedJaxpr, Traced, as_function, trace, type_of
from jaxmup._tree import OptState, Params, leaves_by_path, require_floating
from jaxmup.fused import _loop, _tape
from jaxmup.fused._clip import GlobalNormClip, squared_norm
from jaxmup.fused._loop import Arrays, LayerInputs, Visitor
from jaxmup.fused._optimizer import LayerUpdate, Optimized, Part, Share, Update, divide
from jaxmup.fused._rows import update_rows
from jaxmup.fused._stack import Block, as_written, find_stacks
from jaxmup.fused._tape import Tape

LossFn: TypeAlias = Callable[..., Any]
"""A function of parameters and more, to a real scalar or a pair of one and anything else."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A training step, with all that `value_and_update` made it of.

    Args:
      loss_fn: The loss.
      tx: The optimizer.
      has_aux: Whether the loss returns a pair, of its value and anything else.
      clip: Clip by the global norm of gradients, or `None`.
      block: Function that turns the body of each stack's loop into what is run.
      update_size: Number of elements of a parameter to update at a time; `None` for the default.
    """

    loss_fn: LossFn
    tx: optax.GradientTransformation
    has_aux: bool = False
    clip: GlobalNormClip | None = None
    block: Callable[[ClosedJaxpr], Block] = as_written
    update_size: int | None = None

    @property
    def __name__(self) -> str:
        """The name of the compiled program."""
        return "value_and_update"

    def __call__(
        self, params: Params, state: OptState, *args: Any, **kwargs: Any
    ) -> tuple[Any, Params, OptState]:
        """The value (with `has_aux` a pair), the new parameters and the new state."""
        _warn_if_eager(params, state)
        program, result = self.traced(params, *args, **kwargs)
        stacks = find_stacks(program, list(leaves_by_path(params)))
        positions = [list(stack.parameters.values()) for stack in stacks]
        update = divide(Optimized(self.tx, params, state, positions), _size(self.update_size))
        leaves = jax.tree.leaves(params)
        tape = _tape.run_forward(program, stacks, leaves, self.block)
        factor = None
        if self.clip is not None:
            factor = self.clip.factor(params, _measure(tape, leaves))
        new = _update(tape, update, leaves, jax.tree.leaves(state), factor)
        value = jax.tree.unflatten(jax.tree.structure(result), tape.results)
        trees = zip((params, state), new, strict=True)
        return value, *(jax.tree.unflatten(jax.tree.structure(t), x) for t, x in trees)

    def traced(self, params: Params, *args: Any, **kwargs: Any) -> Traced:
        """The loss as a program of the parameters alone; it holds the other arguments.

        Raises:
          TypeError: if the loss is no real scalar, or a parameter no array of floating-point
            numbers.
          ValueError: if a loop runs over stacks of unequal lengths.
        """
        types = jax.tree.map(type_of, params)
        remedy = "Pass integers and flags beside the parameters, as an argument of the loss."
        require_floating("params", leaves_by_path(types), remedy)
        try:
            traced = trace(lambda params: self.loss_fn(params, *args, **kwargs), types)
        except ValueError as error:
            if "leading axis sizes" not in str(error):  # what JAX says of its loops
                raise
            shapes = [f"{name} {leaf.shape}" for name, leaf in leaves_by_path(types).items()]
            raise ValueError(
                f"What a loop runs over must have one length. {error} The parameters are"
                f"{listed(shapes)}\nStack as many layers of each parameter of the block."
            ) from error
        loss = traced.result[0] if self.has_aux else traced.result
        if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
            raise TypeError(
                "The loss must be a real scalar, with `has_aux` the first of a pair. "
                f"Got {jax.tree.map(lambda x: f'{x.dtype}{list(x.shape)}', loss)}. Take the mean, "
                "or pass `has_aux=True`."
            )
        return traced


def value_and_update(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    has_aux: bool = False,
    clip: GlobalNormClip | None = None,
    update_size: int | None = None,
) -> Step:
    """A training step like `jax.value_and_grad`, with the optimizer inside the backward pass.

    Where the loss runs a block over stacked parameters (`jax.lax.scan`, `flax.nnx.scan`,
    `flax.linen.scan`, `jaxmup.nnx.Stack`), the backward pass updates each layer as its gradient
    appears, in place, and forgets the gradient: one layer's gradients exist at a time. All other
    parameters get their gradients and the same update. The result is that of the plain step.

    The loss is written as for `jax.value_and_grad`: nothing in the model knows of this. It may have
    several stacks, and in each of them extra inputs, outputs that are collected, random keys,
    statistics and `jax.checkpoint` with any policy; a stack of stacks is updated by the outer one.

    Compile it with its first two arguments donated, or parameters and state exist twice::

        step = jax.jit(fused.value_and_update(loss_fn, tx), donate_argnums=(0, 1))
        loss, params, state = step(params, state, batch)

    Any transform serves that updates each layer from what is its own: its gradient, parameters and
    state, and state that all share, such as a count. What couples parameters is refused, but see
    `clip`; what treats a stack as one parameter, as Adafactor does with its norms, is refused, but
    see `per_layer`.

    `optax.MultiSteps` accumulates gradients over several steps, in a state as large as the
    parameters. A block that takes micro-batches one after another needs no such state, and no more
    temporaries than for one micro-batch; of all micro-batches it keeps the inputs of each block::

        def block(xs, p):  # xs has a leading axis of micro-batches
            return jax.lax.map(jax.checkpoint(functools.partial(layer, p)), xs), None

    Args:
      loss_fn: Function of parameters and any other arguments to a real scalar. Parameters are any
        tree of arrays, such as an `nnx.State` of `nnx.split(model, nnx.Param)`.
      tx: The optimizer.
      has_aux: Whether `loss_fn` returns a pair, of the loss and anything else.
      clip: Clip by the global norm of gradients, that `global_norm_clip` makes; it costs a second
        backward pass.
      update_size: Number of elements of a layer's parameter to update at a time, as whole rows; 0
        for the whole layer at once. Few elements fit the cache, and their new values need no memory
        of their own. Optimizers that do not treat each number by itself take whole layers anyway.
        `None` is 16,384 for each core on a single CPU device, and 0 elsewhere: rows that are
        sharded would be gathered, and an accelerator has no use for small pieces. On a CPU that
        compiles for an accelerator, pass 0.

    Returns:
      A function from `(params, tx's state, *args, **kwargs)` to `(value, params, state)`.

    Raises:
      TypeError: if `loss_fn` is no function, `tx` no transform, `has_aux` no boolean, `clip` no
        `GlobalNormClip`, or `update_size` no integer; at the step, if the loss is no real scalar
        or a parameter no array of floating-point numbers.
      ValueError: if `update_size` is negative; at the step, before anything is computed: if no
        block runs over stacked parameters, the optimizer couples parameters or layers, or its state
        is laid out in a way that is not known.

    Example:
      >>> from jaxmup import fused
      >>> def loss_fn(params, x):
      ...     def block(x, w):
      ...         return x + jnp.tanh(x @ w), None
      ...     return jnp.sum(jax.lax.scan(block, x, params["w"])[0] ** 2)
      >>> params, tx = {"w": jnp.ones((3, 4, 4))}, optax.adam(0.1)
      >>> step = jax.jit(fused.value_and_update(loss_fn, tx), donate_argnums=(0, 1))
      >>> value, params, state = step(params, tx.init(params), jnp.ones((2, 4)))
      >>> round(float(params["w"][0, 0, 0]), 3)
      0.9
    """
    _check.function("loss_fn", loss_fn)
    _check.transform("tx", tx)
    _check.flag("has_aux", has_aux)
    if not isinstance(clip, GlobalNormClip | None):
        raise TypeError(
            "`clip` must be what `jaxmup.fused.global_norm_clip` makes, or `None`. Got "
            f"{clip!r}. Use `clip=global_norm_clip(1.0, scalings)`, say."
        )
    if update_size is not None:
        remedy = "It is how many numbers to update at a time; 0 is for whole layers."
        _check.size("update_size", update_size, at_least=0, remedy=remedy)
    return Step(loss_fn, tx, has_aux, clip, update_size=update_size)


def _update(
    tape: Tape, update: Update, params: list[Array], state: list[Array], factor: Array | None
) -> tuple[list[Array], list[Array]]:
    """New leaves of parameters and state, of stacks in the backward pass and then of the rest."""
    num_params, num_state, rest = len(params), len(state), update.rest
    arrays = dict(enumerate([*state, *params], start=num_params))  # as their keys are
    common = {key: arrays[key] for key in update.shared}

    def run(share: Share, numbers: list[Array], gradients: Arrays, here: Arrays) -> Arrays:
        if factor is not None:
            # In the gradient's dtype, as optax clips before it updates.
            gradients = {j: (g * factor).astype(g.dtype) for j, g in gradients.items()}
        return update.run(share, {**gradients, **here, **common}, numbers)

    def back(number: int, outputs: list[Array]) -> LayerInputs:
        stack, stacked = tape.stacks[number], update.stacks[number]
        params = list(stack.layer.stack.parameters.values())
        visitor = _visitor(update, stacked, params, common, run)
        stacks = {key: arrays[key] for key in visitor.written}
        # From here on the arrays are those of the updated stack; the old ones are gone.
        found, new, _ = _loop.run_backward(*stack, outputs, stacks, visitor)
        arrays.update(new)
        return found

    gradient = _tape.run_backward(tape, back)
    gradients = {j: gradient(tape.program.jaxpr.invars[j]) for j in rest.params}
    arrays |= run(rest, [], gradients, {key: arrays[key] for key in update.keys(rest)})
    new = [arrays[key] for key in sorted(arrays)]
    return new[num_state:], new[:num_state]


def _visitor(
    update: Update,
    stacked: LayerUpdate,
    params: Sequence[int],
    common: Arrays,
    run: Callable[..., Arrays],
) -> Visitor:
    """The update of a layer: of some parameters some rows at a time, of the rest in one piece.

    Args:
      update: Update of all parameters.
      stacked: Update of a layer of this stack.
      params: Positions of the parameters of the stack, in the order of its block.
      common: State that all layers share, by key.
      run: Takes a part, its numbers, gradients by position and slices by key to the new values of
        the slices.
    """
    first = update.key(0)

    def with_numbers(part: Part) -> tuple[Share, list[Array]]:
        return part.share, as_function(part.numbers)(*(common[key] for key in part.shared))

    # Computed here they stand outside of the loop, once for all layers.
    by_rows, whole = [with_numbers(part) for part in stacked.by_rows], with_numbers(stacked.whole)

    def visit(gradients: Arrays, here: Arrays) -> tuple[Arrays, tuple[()]]:
        return run(*whole, {key - first: g for key, g in gradients.items()}, here), ()

    def write(arrays: Arrays, gradients: Arrays, layer: ArrayLike) -> Arrays:
        for share, numbers in by_rows:
            stacks = {key: arrays[key] for key in update.keys(share)}
            mine = {j: gradients[first + j] for j in share.params}
            rows = share.shape[1]
            arrays = arrays | update_rows(stacks, mine, layer, rows, partial(run, share, numbers))
        return arrays

    return Visitor(
        weights=[first + j for j in params],
        visit=visit,
        later=update.keys(stacked.whole.share),
        write=write if by_rows else None,
        written=[key for share in stacked.shares for key in update.keys(share)],
    )


def _measure(tape: Tape, params: list[Array]) -> list[Array]:
    """The squared norm of the gradient of each parameter, from a backward pass without updates."""
    found: dict[int, Array] = {}

    def visit(gradients: Arrays, here: Arrays) -> tuple[Arrays, Arrays]:
        return {}, {j: squared_norm(g) for j, g in gradients.items()}

    def back(number: int, outputs: list[Array]) -> LayerInputs:
        stack = tape.stacks[number]
        positions = list(stack.layer.stack.parameters.values())
        stacks = {j: params[j] for j in positions}
        visitor = Visitor(positions, visit)
        of_inputs, _, squares = _loop.run_backward(*stack, outputs, stacks, visitor)
        found.update({j: jnp.sum(s) for j, s in squares.items()})
        return of_inputs

    gradient = _tape.run_backward(tape, back)
    inputs = enumerate(tape.program.jaxpr.invars)
    found |= {j: squared_norm(gradient(v)) for j, v in inputs if j not in found}
    return [found[j] for j in range(len(params))]


def _size(update_size: int | None) -> int:
    if update_size is not None:
        return update_size
    # Asked for at the step, not before: `jax.distributed` starts before the first use of devices.
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return 0
    return 2**14 * (os.cpu_count() or 1)  # some arrays of so many fit the caches of the cores


def _warn_if_eager(params: Params, state: OptState) -> None:
    leaves = jax.tree.leaves((params, state))
    if any(not isinstance(x, Array) or is_traced(x) for x in leaves):
        return
    size = sum(x.size * x.dtype.itemsize for x in leaves)
    _check.warn(
        f"Parameters and state were not donated: they exist twice, {size:,} bytes more. Compile "
        "the step: `jax.jit(step, donate_argnums=(0, 1))`."
    )
