"""An order of operations that XLA's CPU backend keeps."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxmup._program import is_inexact
from jaxmup._tree import Tree


def zero_after(tree: Tree) -> Array:
    """The integer 0, to hold back whatever is computed from it until all arrays of a tree are.

    XLA cannot tell that it is 0 without them. Added to the index of a write in place, it says that
    the write comes after everything that the arrays were computed from. Without that, XLA does not
    see that the old values have been read by then, and copies the whole buffer. Its own
    `optimization_barrier` does not serve: the CPU backend drops the barrier before it looks.

    Args:
      tree: Arrays; those of integers, or without elements, are not waited for.

    Example:
      >>> int(zero_after([jnp.array([-2.5, jnp.nan]), jnp.array([7.0])]))
      0
    """
    zero = jnp.int32(0)
    for x in jax.tree.leaves(tree):
        if x.size and is_inexact(x):
            # The maximum needs every element. A product with 0 would not do: it is NaN where the
            # array has a NaN or an infinity, while an integer clipped to 0 is 0 whatever it was.
            zero += jnp.clip(jnp.max(jnp.real(x)).astype(jnp.int32), 0, 0)
    return zero
