"""Shapes, dtypes and shardings of values, before there are any."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxmup._program._jax import ShapedArray

Shaped: TypeAlias = jax.Array | jax.ShapeDtypeStruct | ShapedArray
"""What has a shape and a dtype, whether or not it has values."""


def type_of(x: Any, drop: int = 0) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array without some leading axes, and its sharding if it is explicit.

    Example:
      >>> type_of(jnp.ones((3, 2)), drop=1)
      ShapeDtypeStruct(shape=(2,), dtype=float32)
    """
    kind = x if isinstance(x, jax.ShapeDtypeStruct | ShapedArray) else jax.typeof(x)
    # That of an abstract array is part of its type in an explicit mesh alone; elsewhere its mesh is
    # empty, and tracing with it would fail.
    sharding = kind.sharding if isinstance(kind, ShapedArray) else None
    if sharding is None or sharding.mesh.empty:
        return jax.ShapeDtypeStruct(x.shape[drop:], x.dtype)
    spec = PartitionSpec(*sharding.spec[drop:])
    return jax.ShapeDtypeStruct(x.shape[drop:], x.dtype, sharding=sharding.update(spec=spec))


def is_inexact(x: Any) -> bool:
    """True if `x` is of real or complex numbers, which have gradients."""
    return jnp.issubdtype(x.dtype, jnp.inexact)
