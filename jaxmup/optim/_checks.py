"""Checks of the arguments of optimizers, and values for the leaves of a tree found by path."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from jaxmup._families import Family, in_one_model
from jaxmup._scaling import Scaling
from jaxmup._tree import leaves_by_path, listed, path_name, require_leaves

_RESOLVE = "Use `jaxmup.resolve(specs, parametrization)`."


class Scalings:
    """Scalings of one family by the name of their parameter, checked.

    A family for hidden matrices alone leaves the other parameters to the family `adam`.

    Args:
      tree: a tree with a `Scaling` at each leaf.
      family: the family that they must be for; `None` for any one.

    Raises:
      TypeError: if a leaf is no `Scaling`.
      ValueError: if the scalings are for another family, or for several.
    """

    def __init__(self, tree: Any, family: Family | None = None):
        self.by_name = require_leaves("scalings", tree, Scaling, _RESOLVE)
        families = {scaling.family for scaling in self.by_name.values()}
        candidates = families if family is None else {family}
        if families and not any(families <= in_one_model(one) for one in candidates):
            wanted = "one family" if family is None else f"the family {family.name!r}"
            others = {n: s.family for n, s in self.by_name.items() if s.family != family}
            got = [f"{name}: {_told_apart(other, family)}" for name, other in others.items()]
            raise ValueError(
                f"The scalings must be for {wanted}. Got{listed(got)}\n"
                f"Learning rates of one family are wrong for another. {_RESOLVE}"
            )

    def map(self, function: Callable[..., Any], updates: Any, *rest: Any) -> Any:
        """The tree of `function(scaling, update, *rest)` of each leaf."""
        self.require_match(updates)
        return jax.tree_util.tree_map_with_path(
            lambda path, *leaves: function(self.by_name[path_name(path)], *leaves), updates, *rest
        )

    def require_match(self, tree: Any) -> None:
        """Raises a `ValueError` unless leaves and scalings have the same paths."""
        require_same_paths("scalings", self.by_name, tree)


def _told_apart(other: Family, family: Family | None) -> str:
    """The name of a family, or all of it where another one has that name."""
    return other.name if family is None or other.name != family.name else str(other)


def values_of_leaves(what: str, value: Any, tree: Any) -> list[Any]:
    """One value for each leaf of `tree`: `value` itself, or its leaf of the same path."""
    names = leaves_by_path(tree)
    if _is_number(value):
        return [value] * len(names)
    by_name = leaves_by_path(value)
    require_same_paths(what, by_name, tree)
    return [by_name[name] for name in names]


def require_same_paths(what: str, by_name: Mapping[str, Any], tree: Any) -> None:
    """Raises a `ValueError` unless `by_name` has the paths of the leaves of `tree`."""
    leaves = leaves_by_path(tree)
    missing = [
        f"{name} {getattr(leaf, 'shape', ())}"
        for name, leaf in leaves.items()
        if name not in by_name
    ]
    extra = [] if _is_masked(tree) else [name for name in by_name if name not in leaves]
    if missing or extra:
        raise ValueError(
            f"`{what}` must have the paths of the parameters.\n"
            f"Parameters without an entry:{listed(missing) or ' none'}\n"
            f"Entries without a parameter:{listed(extra) or ' none'}\n"
            "Make the specs from the model that is trained, and resolve those."
        )


def _is_masked(tree: Any) -> bool:
    """Whether `optax.masked` has taken leaves out of `tree`."""
    return any(
        isinstance(leaf, optax.MaskedNode)
        for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    )


def is_plain_number(x: Any) -> bool:
    """Whether `x` is a Python number: known now, and not an array that a program computes."""
    return isinstance(x, int | float)


def _is_number(x: Any) -> bool:
    return is_plain_number(x) or (hasattr(x, "shape") and x.shape == ())


def require_decay_rate(name: str, value: Any) -> None:
    """Raises a `ValueError` if `value` is a Python number outside [0, 1)."""
    if is_plain_number(value) and not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1. Got {value!r}.")


def require_not_negative(name: str, value: Any) -> None:
    """Raises a `ValueError` if a Python number in the tree `value` is negative or not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if is_plain_number(leaf) and not (math.isfinite(leaf) and leaf >= 0):
            where = f" for {path_name(path)}" if path else ""
            raise ValueError(
                f"`{name}` must be a finite number of at least 0. Got {leaf!r}{where}."
            )
