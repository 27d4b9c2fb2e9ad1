"""One use of a module: with its scales applied, or measured while the pass goes on."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmup import functional
from jaxmup.empirical._record import Record, given, packed


class Settings(NamedTuple):
    """What a pass measures.

    Args:
      num_examples: over how many examples the loss is a mean.
      scale_gradients: whether gradients are scaled where they leave a module.
      direction: of the optimizer's step, up to its sign, for a tree of gradients.
      readouts: names of the modules that are scaled by their gain, not by their outputs.
      readout: whether the module at hand is one.
    """

    num_examples: int
    scale_gradients: bool
    direction: Callable[[Any], Any]
    readouts: frozenset[str] = frozenset()
    readout: bool = False

    def of(self, name: str) -> "Settings":
        """What is measured of one module."""
        return self._replace(readouts=frozenset(), readout=name in self.readouts)


def plain(gradients: Any) -> Any:
    """SGD's direction: the gradient itself."""
    return gradients


def sign(gradients: Any) -> Any:
    """The direction of the first step of Adam, and of every one of signSGD."""
    return jax.tree.map(jnp.sign, gradients)


Use = Callable[..., Array]  # a call of a module, as a function of `(params, rest, *inputs)`


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def measured(
    use: Use,
    settings: Settings,
    params: Any,
    rest: Any,
    scales: Array,
    record: Array,
    direction: Any,
    *inputs: Array,
) -> Array:
    """The scaled outputs of one use; the cotangent of `record` is what the pass measured.

    Args:
      use: the call.
      settings: what is measured.
      params: parameters, which the call is differentiated by.
      rest: whatever else the module holds and is given.
      scales: a packed `Given`.
      record: a blank.
      direction: the gradient of the parameters over all uses, whose effect on the outputs is
        measured; `None` for that of this use alone.
      *inputs: those that are floating-point.
    """
    del record
    return _forward(use, settings, params, rest, scales, direction, *inputs)[0]


def _measured_forward(
    use: Use,
    settings: Settings,
    params: Any,
    rest: Any,
    scales: Array,
    record: Array,
    direction: Any,
    *inputs: Array,
) -> tuple[Array, Any]:
    del record
    return _forward(use, settings, params, rest, scales, direction, *inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    use: Use,
    settings: Settings,
    params: Any,
    rest: Any,
    scales: Array,
    direction: Any,
    *inputs: Array,
) -> tuple[Array, Any]:
    outputs, pull = jax.vjp(lambda p, *x: use(p, rest, *x), params, *inputs)
    known = given(scales)
    square = mean_square(outputs).astype(scales.dtype)
    size = jnp.sqrt(square)
    if settings.readout:
        size = _gain(lambda *x: use(params, rest, *x), pull, inputs, outputs).astype(size.dtype)
    factor = jnp.where(known.fixed > 0, known.activation, inverse(size))
    saved = (pull, params, rest, inputs, direction, known, factor, square)
    return functional.scale(outputs, factor), saved


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(use: Use, settings: Settings, saved: Any, cotangent: Array) -> tuple[Any, ...]:
    pull, params, rest, inputs, direction, known, factor, square = saved
    own, *to_inputs = pull(functional.scale(cotangent, factor))
    if direction is None:
        direction = own
    # JAX's gradient of a complex parameter is the conjugate of the steepest ascent.
    step = settings.direction(jax.tree.map(jnp.conj, direction))
    _, change = jax.jvp(lambda p: use(p, rest, *inputs), (params,), (step,))
    # Gradient and update together, since XLA takes its time for every small operation.
    sizes = jnp.stack([_largest(to_inputs, settings), factor * rms(change)]).astype(factor.dtype)
    scales = jnp.where(known.fixed > 0, jnp.stack([known.gradient, known.update]), inverse(sizes))
    if settings.scale_gradients:
        to_inputs = [functional.scale(x, scales[0]) for x in to_inputs]
    else:
        scales = scales.at[0].set(1.0)
    gradient, update = (sizes * scales) ** 2
    alive = _alive(cotangent).astype(factor.dtype)
    found = Record(
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
    function: Callable[..., Array], pull: Callable[..., Any], inputs: Any, outputs: Array
) -> Array:
    """By how much the outputs move, RMS, where inputs move by RMS 1 the way their gradient points.

    An estimate, by one step of the power iteration, of the norm from RMS to RMS.
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
