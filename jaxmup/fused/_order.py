"""An order of operations that XLA's CPU backend keeps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmup._program import is_inexact


def zero_after(tree: Any) -> Array:
    """The integer 0, which XLA knows only when it has all arrays of a tree.

    What uses it comes after all that they are computed from. Where XLA does not see that an array
    is read before it is written in place, it copies the array; the CPU backend drops the barriers
    of `optimization_barrier` before it looks.

    Example:
      >>> int(zero_after([jnp.array([-2.5, jnp.nan]), jnp.array([7.0])]))
      0
    """
    zero = jnp.int32(0)
    for x in jax.tree.leaves(tree):
        if x.size and is_inexact(x):
            zero += jnp.clip(jnp.max(jnp.real(x)).astype(jnp.int32), 0, 0)
    return zero
