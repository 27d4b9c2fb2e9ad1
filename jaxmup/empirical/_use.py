"""One use of a module: with its scales applied, or measured while the pass goes on."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxmup import functional
from jaxmup._tree import Gradients, Params, Tree
from jaxmup.empirical._tally import Given, Tally, given, packed


class Settings(NamedTuple):
    """Choices that say what a pass measures and scales.

    Args:
      num_examples: Number of examples that the loss is a mean over.
      scale_gradients: Whether gradients are scaled where they leave a module.
      direction: Function of gradients that returns the optimizer's step, up to its sign and size.
      readouts: Names of the modules that are scaled by their gain, not by their outputs.
      readout: Whether the module at hand is one of those.
    """

    num_examples: int
    scale_gradients: bool
    direction: Callable[[Gradients], Gradients]
    readouts: frozenset[str] = frozenset()
    readout: bool = False

    def of(self, name: str) -> "Settings":
        """The settings for one module."""
        return self._replace(readouts=frozenset(), readout=name in self.readouts)


def plain(gradients: Gradients) -> Gradients:
    """SGD's direction: the gradient itself."""
    return gradients


def sign(gradients: Gradients) -> Gradients:
    """The direction of the first step of Adam, and of every one of signSGD."""
    return jax.tree.map(jnp.sign, gradients)


PureCall: TypeAlias = Callable[..., Array]
"""A call of a module as a pure function of `(params, rest, *inputs)`; hashable."""


@jax.custom_vjp
def scale_gradient(x: Array, factor: Array) -> Array:
    """`x`, whose gradient arrives multiplied by `factor`; the factor has none.

    Example:
      >>> jax.grad(lambda x: 2 * scale_gradient(x, jnp.array(5.0)))(jnp.array(1.0))
      Array(10., dtype=float32)
    """
    del factor
    return x


def _scale_gradient_forward(x: Array, factor: Array) -> tuple[Array, Array]:
    return x, factor


def _scale_gradient_backward(factor: Array, cotangent: Array) -> tuple[Array, None]:
    return functional.scale(cotangent, factor), None


scale_gradient.defvjp(_scale_gradient_forward, _scale_gradient_backward)


def rms(x: Array) -> Array:
    """Root mean square `√(mean |x|²)` of an array, in float32 at least.

    Example:
      >>> rms(jnp.array([3.0, 4j]))
      Array(3.535534, dtype=float32)
    """
    return jnp.sqrt(mean_square(x))


def mean_square(x: Array) -> Array:
    """`mean |x|²`, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.mean(wide.real**2 + wide.imag**2 if jnp.iscomplexobj(x) else wide**2)


def inverse(size: Array) -> Array:
    """`1 / size`; a size of zero says nothing, and leaves its scale at 1."""
    return 1 / jnp.where(size == 0, 1.0, size)


class _Saved(NamedTuple):
    """Values of the forward pass of one use that its backward pass needs."""

    pull: Callable[..., Any]
    params: Params
    rest: Tree
    inputs: tuple[Array, ...]
    direction: Gradients | None
    known: Given
    factor: Array
    square: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def measured(
    call: PureCall,
    settings: Settings,
    params: Params,
    rest: Tree,
    scales: Array,
    tally: Array,
    direction: Gradients | None,
    *inputs: Array,
) -> Array:
    """The scaled outputs of one use; the cotangent of `tally` is the packed `Tally` of this use.

    Args:
      call: Call of the module.
      settings: Choices of what is measured.
      params: Parameters, which the call is differentiated by.
      rest: Other state of the module, and arguments that no gradient passes to.
      scales: Packed `Given`.
      tally: Blank, whose value is not read.
      direction: Gradient of the parameters over all uses, whose effect on the outputs is measured;
        `None` for the gradient of this use alone.
      *inputs: Arguments that a gradient passes to.
    """
    del tally
    return _forward(call, settings, params, rest, scales, direction, *inputs)[0]


def _measured_forward(
    call: PureCall,
    settings: Settings,
    params: Params,
    rest: Tree,
    scales: Array,
    tally: Array,
    direction: Gradients | None,
    *inputs: Array,
) -> tuple[Array, _Saved]:
    del tally
    return _forward(call, settings, params, rest, scales, direction, *inputs)


# A program of its own, of a hashable call: modules of one kind are traced once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    call: PureCall,
    settings: Settings,
    params: Params,
    rest: Tree,
    scales: Array,
    direction: Gradients | None,
    *inputs: Array,
) -> tuple[Array, _Saved]:
    outputs, pull = jax.vjp(lambda p, *x: call(p, rest, *x), params, *inputs)
    known = given(scales)
    square = mean_square(outputs).astype(scales.dtype)
    size = jnp.sqrt(square)
    if settings.readout:
        size = _gain(lambda *x: call(params, rest, *x), pull, inputs, outputs).astype(size.dtype)
    factor = jnp.where(known.fixed > 0, known.activation, inverse(size))
    saved = _Saved(pull, params, rest, inputs, direction, known, factor, square)
    return functional.scale(outputs, factor), saved


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(
    call: PureCall, settings: Settings, saved: _Saved, cotangent: Array
) -> tuple[Any, ...]:
    pull, params, rest, inputs, direction, known, factor, square = saved
    # The factor is taken for a constant, though it follows from the outputs: so will it be when the
    # model trains.
    own, *to_inputs = pull(functional.scale(cotangent, factor))
    if direction is None:
        direction = own
    # JAX's gradient of a complex parameter is the conjugate of the steepest ascent.
    step = settings.direction(jax.tree.map(jnp.conj, direction))
    _, change = jax.jvp(lambda p: call(p, rest, *inputs), (params,), (step,))
    # Gradient and update together, since XLA takes its time for every small operation.
    sizes = jnp.stack([_largest(to_inputs, settings), factor * rms(change)]).astype(factor.dtype)
    scales = jnp.where(known.fixed > 0, jnp.stack([known.gradient, known.update]), inverse(sizes))
    if settings.scale_gradients:
        to_inputs = [functional.scale(x, scales[0]) for x in to_inputs]
    else:
        scales = scales.at[0].set(1.0)
    gradient, update = (sizes * scales) ** 2
    alive = _alive(cotangent).astype(factor.dtype)
    found = Tally(
        uses=jnp.ones_like(factor),
        activation=square * factor**2,
        gradient=gradient,
        update=update,
        reached=(alive > 0).astype(factor.dtype),
        dead=1 - alive,
        activation_scale=factor,
        gradient_scale=scales[0],
        update_scale=scales[1],
    )
    return own, None, None, packed(found), None, *to_inputs


measured.defvjp(_measured_forward, _backward)


def _gain(
    function: Callable[..., Array],
    pull: Callable[..., Any],
    inputs: tuple[Array, ...],
    outputs: Array,
) -> Array:
    """RMS by which the outputs move where inputs move by RMS 1 the way their gradient points.

    One step of the power iteration for the norm from RMS to RMS, which it estimates from below.
    """
    _, *towards = pull(jnp.conj(outputs))
    # JAX's gradient of a complex input is the conjugate of the steepest ascent.
    towards = [jnp.conj(x) for x in towards]
    _, moved = jax.jvp(function, inputs, tuple(towards))
    length = functools.reduce(jnp.maximum, map(rms, towards), jnp.zeros(()))
    return rms(moved) * inverse(length)


def _largest(to_inputs: list[Array], settings: Settings) -> Array:
    """The largest RMS of the gradients that leave, per example; 0 of none."""
    sizes = [settings.num_examples * rms(x) for x in to_inputs]
    return functools.reduce(jnp.maximum, sizes, jnp.zeros(()))


def _alive(cotangent: Array) -> Array:
    """Fraction of features, along the last axis, whose gradient is not zero everywhere."""
    touched = jnp.sum(jnp.abs(cotangent), axis=tuple(range(cotangent.ndim - 1))) > 0
    return jnp.mean(touched.astype(jnp.float32))
