"""Shapes, dtypes and shardings of values, before there are any."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from jaxmup._program._jax import Atom, ShapedArray

Shaped: TypeAlias = jax.Array | jax.ShapeDtypeStruct | ShapedArray
"""What has a shape and a dtype, whether or not it has values."""


def type_of(x: ArrayLike | Shaped, drop: int = 0) -> jax.ShapeDtypeStruct:
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
        return jax.ShapeDtypeStruct(kind.shape[drop:], kind.dtype)
    spec = PartitionSpec(*sharding.spec[drop:])
    return jax.ShapeDtypeStruct(kind.shape[drop:], kind.dtype, sharding=sharding.update(spec=spec))


def aval_of(atom: Atom) -> ShapedArray:
    """The shape and dtype of a variable or a number of a program."""
    # JAX's own name for the type of a value. Of what programs hold beside arrays, tokens and
    # references, none has a shape.
    return atom.aval  # type: ignore[return-value]


def is_inexact(x: Shaped) -> bool:
    """True if `x` is of real or complex numbers, which have gradients."""
    return jnp.issubdtype(x.dtype, jnp.inexact)
