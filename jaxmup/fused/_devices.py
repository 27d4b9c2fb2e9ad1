"""Bytes and elements of arrays as one device of a mesh holds them."""

import itertools
import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxmup._tree import Tree


def size_on_device(tree: Tree) -> int:
    """Bytes of the arrays of a tree, on one device."""
    return sum(
        math.prod(_shard_shape(x.shape, getattr(x, "sharding", None))) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def is_spread(tree: Tree) -> bool:
    """True if a leaf of the tree lies over several devices."""
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(tree)]
    return any(isinstance(x, NamedSharding) and x.mesh.size > 1 for x in shardings)


def element_counts(x: Any, *, without_first: bool = False) -> set[int]:
    """Numbers of elements that a device may hold of a gradient, from an array of its layout.

    Until devices have exchanged it, a gradient is whole along the axes of the mesh over which its
    terms are: every choice of axes that split it counts.

    Args:
      x: Array, or its shape and dtype, with its sharding if it has one.
      without_first: Whether the first axis is left out, as in a loop over layers.
    """
    shape, sharding = x.shape[without_first:], getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return {math.prod(shape)}
    spec = tuple(sharding.spec) + (None,) * (len(x.shape) - len(sharding.spec))
    by_axis = [
        (axis, position)
        for position, entry in enumerate(spec[without_first:])
        for axis in (entry if isinstance(entry, tuple) else (entry,))
        if axis is not None
    ]
    counts = set[int]()
    for chosen in itertools.product((False, True), repeat=len(by_axis)):
        part = list(shape)
        for (axis, position), is_split in zip(by_axis, chosen, strict=True):
            part[position] //= sharding.mesh.shape[axis] if is_split else 1
        counts.add(math.prod(part))
    return counts


def _shard_shape(shape: tuple[int, ...], sharding: Any) -> tuple[int, ...]:
    return shape if sharding is None else sharding.shard_shape(shape)
