"""The arguments of a call, taken apart into what a gradient passes through and the rest."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Where each leaf of `(args, kwargs)` goes; compared by its fields.

    Args:
      tree: their structure.
      kinds: `"input"` for a floating-point or complex array, `"array"` for another,
        `"static"` for what is no array.
      static: the leaves that are no arrays.
    """

    tree: Any
    kinds: tuple[str, ...]
    static: tuple[Any, ...]

    def joined(self, inputs: Sequence[Any], arrays: Sequence[Any]) -> tuple[Any, Any]:
        """`(args, kwargs)` with these arrays in their places."""
        sources = {"input": iter(inputs), "array": iter(arrays), "static": iter(self.static)}
        return jax.tree.unflatten(self.tree, [next(sources[kind]) for kind in self.kinds])


def split_arguments(args: Any, kwargs: Any) -> tuple[Split, list[Any], list[Any]]:
    """Where the leaves go, the inputs and the other arrays."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    kinds = tuple(_kind(leaf) for leaf in leaves)
    of: dict[str, list[Any]] = {"input": [], "array": [], "static": []}
    for leaf, kind in zip(leaves, kinds, strict=True):
        of[kind].append(leaf)
    return Split(tree, kinds, tuple(of["static"])), of["input"], of["array"]


def _kind(leaf: Any) -> str:
    if not isinstance(leaf, jax.Array | np.ndarray):
        return "static"
    return "input" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "array"
