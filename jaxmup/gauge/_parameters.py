"""The parameters of a tree, and what belongs to each by its name.

Parameters are the floating-point arrays; tables of integers, flags and functions do not train.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
from jax import Array

from jaxmup._check import number, same_tree
from jaxmup._tree import (
    Params,
    PathName,
    Tree,
    is_floating,
    leaves_by_path,
    named_leaves,
    require_floating,
)

T = TypeVar("T")


def parameters(tree: Params) -> dict[PathName, Array]:
    """The parameters of a tree by name.

    Raises:
      ValueError: if two leaves have one name.
    """
    return {name: leaf for name, leaf in named_leaves(tree) if is_floating(leaf)}


def entries_of(what: str, entries: Mapping[PathName, T], tree: Params) -> dict[PathName, T]:
    """The entry of each parameter of `tree`; entries of its other leaves are left out.

    Raises:
      ValueError: if a parameter has no entry, an entry no leaf, or their shapes differ.
    """
    leaves = leaves_by_path(tree)
    found = {
        name: entry
        for name, entry in entries.items()
        if name not in leaves or is_floating(leaves[name])
    }
    same_tree(what, found, parameters(tree), remedy="Make them from the model that is trained.")
    return found


def require_parameters(entries: Iterable[PathName], tree: Params) -> None:
    """Raises a `TypeError` if a leaf that has an entry is no array of floating-point numbers."""
    leaves = leaves_by_path(tree)
    remedy = "Give integers and flags no spec: a leaf without a scaling stays as it is."
    require_floating("params", {name: leaves[name] for name in entries if name in leaves}, remedy)


def map_parameters(
    function: Callable[[Array, T], Array], tree: Params, entries: Mapping[PathName, T]
) -> Params:
    """Maps `function(parameter, entry)` over `tree`, whose other leaves stay as they are."""
    leaves = [
        function(leaf, entries[name]) if is_floating(leaf) else leaf
        for name, leaf in named_leaves(tree)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def thetas_of(theta: Tree, names: Iterable[PathName]) -> dict[PathName, float]:
    """The gauge moves that `theta` holds by name; a number alone is that of each of `names`.

    Raises:
      TypeError: if a value is no number.
      ValueError: if a value is not finite and positive.

    Example:
      >>> import numpy as np
      >>> thetas_of(2.0, ["w", "b"]), thetas_of({"w": np.float32(4)}, ["w"])
      ({'w': 2.0, 'b': 2.0}, {'w': 4.0})
    """
    given = {name: _number(name, value) for name, value in named_leaves(theta)}
    return dict.fromkeys(names, given[""]) if list(given) == [""] else given


def _number(name: PathName, value: Any) -> float:
    what = f"theta of {name}" if name else "theta"
    number(what, value, above=0, remedy="The multiplier is multiplied by it.")
    return value.item() if hasattr(value, "item") else value
