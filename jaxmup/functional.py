"""Pure array functions: where a multiplier is applied, and how."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def scale(x: Array, factor: float | Array) -> Array:
    """`factor · x` in the dtype of `x`, rounded once.

    A Python float would first be rounded to the dtype of `x`: in bfloat16 that is one common
    relative error of up to 0.4 % on every entry. Here the product is taken in float32 at least.

    Args:
      x: floating-point array of any shape.
      factor: a Python number, of which 1.0 returns `x` itself, or a scalar array, which is always
        multiplied by; dimensionless.

    Example:
      >>> scale(jnp.array(3.0, jnp.bfloat16), 1 / 3)
      Array(1, dtype=bfloat16)
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if isinstance(factor, float | int):
        return x if factor == 1.0 else (x.astype(wide) * factor).astype(x.dtype)
    return (x.astype(wide) * factor.astype(wide)).astype(x.dtype)


def scale_smaller(inputs: Array, kernel: Array, multiplier: float | Array) -> tuple[Array, Array]:
    """Puts the multiplier of `W = multiplier · kernel` on the smaller operand of `inputs · W`.

    Either gives the same product; scaling the smaller one writes less memory.

    Args:
      inputs: activations of any shape.
      kernel: weights of any shape.
      multiplier: dimensionless.

    Returns:
      `inputs` and `kernel`, one of them scaled.

    Example:
      >>> inputs, kernel = scale_smaller(jnp.ones((1, 8)), jnp.ones((8, 8)), 0.5)
      >>> float(inputs[0, 0]), float(kernel[0, 0])
      (0.5, 1.0)
    """
    if inputs.size < kernel.size and jnp.issubdtype(inputs.dtype, jnp.floating):
        return scale(inputs, multiplier), kernel
    return inputs, scale(kernel, multiplier)


def dense(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    *,
    kernel_multiplier: float | Array = 1.0,
    bias_multiplier: float | Array = 1.0,
    promote: Callable[..., tuple[Any, ...]],
    dot_general: Callable[..., Array] = lax.dot_general,
    **dot_general_kwargs: Any,
) -> Array:
    """`inputs · (kernel_multiplier · kernel) + bias_multiplier · bias`, on the last axis.

    The multipliers act before the promotion, so they see the parameters in the dtype that they are
    stored in. With both at 1.0 these are the operations of Flax's own layer, in its order.

    Args:
      inputs: shape `(..., in_features)`.
      kernel: shape `(in_features, out_features)`.
      bias: shape `(out_features,)`, or `None`.
      kernel_multiplier: factor on the kernel, as of `scale`; dimensionless.
      bias_multiplier: the same on the bias; dimensionless.
      promote: brings the three to the dtype of the computation.
      dot_general: the product, as `jax.lax.dot_general`.
      **dot_general_kwargs: passed on to `dot_general`.

    Returns:
      Shape `(..., out_features)`.

    Example:
      >>> inputs, kernel, same = jnp.ones((1, 4)), jnp.ones((4, 2)), lambda *arrays: arrays
      >>> dense(inputs, kernel, jnp.ones(2), kernel_multiplier=0.25, promote=same)
      Array([[2., 2.]], dtype=float32)
    """
    inputs, kernel = scale_smaller(inputs, kernel, kernel_multiplier)
    bias = None if bias is None else scale(bias, bias_multiplier)
    inputs, kernel, bias = promote(inputs, kernel, bias)
    contract_last_with_first = (((inputs.ndim - 1,), (0,)), ((), ()))
    y = dot_general(inputs, kernel, contract_last_with_first, **dot_general_kwargs)
    return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))
