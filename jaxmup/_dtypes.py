"""Dtypes of leaves: which are numbers that train, and in which to compute."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def is_floating(leaf: object) -> bool:
    """Says if a leaf is an array of floating-point numbers, real or complex, abstract or not.

    Example:
      >>> is_floating(jnp.ones(2)), is_floating(jnp.arange(2)), is_floating(jnp.tanh)
      (True, False, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def wide(dtype: DTypeLike) -> jnp.dtype:
    """The dtype to compute in: `dtype`, or float32 if it has fewer bits.

    Example:
      >>> wide(jnp.bfloat16), wide(jnp.float8_e4m3fn), wide(jnp.complex128)
      (dtype('float32'), dtype('float32'), dtype('complex128'))
    """
    held = jnp.dtype(dtype)
    # JAX promotes floats of eight bits to nothing.
    return jnp.dtype(jnp.float32) if held.itemsize < 2 else jnp.promote_types(held, jnp.float32)
