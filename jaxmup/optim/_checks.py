"""Refusals of what optimizers are given: hyper-parameters, masks, dtypes, scalings."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from jaxmup import _check
from jaxmup._families import Family, in_one_model
from jaxmup._scaling import Scaling
from jaxmup._tree import (
    Params,
    PathName,
    Scalings,
    Tree,
    Updates,
    is_floating,
    leaves_by_path,
    named_leaves,
    path_name,
    require_floating,
    require_leaves,
)
from jaxmup.optim._leaves import is_in, is_none, leaves_with_none, map_leaves, without

Mask = Tree | Callable[[Params], Tree]
"""Booleans, in a tree like the parameters or a prefix of one, or a function that makes them."""

_RESOLVE = "Use `jaxmup.resolve(specs, parametrization)`."
_ANEW = "Make the specs from the model that is trained, and resolve those."
_NO_SPEC = "Give integers and flags no spec: a leaf without a scaling does not train."
_TRIAL = 2  # elements of a parameter in the trials of `jaxmup.lint`


class CheckedScalings:
    """Scalings of one family by the name of their parameter.

    A family for hidden matrices alone leaves the other parameters to the family `adam`.

    Args:
      tree: Tree with a `Scaling` at each leaf.
      family: Family that they must be for; `None` for any one.

    Raises:
      TypeError: if a leaf is no `Scaling`.
      ValueError: if the scalings are for another family, or for several.
    """

    def __init__(self, tree: Scalings, family: Family | None = None):
        self.by_name = require_leaves("scalings", tree, Scaling, _RESOLVE)
        families = {scaling.family for scaling in self.by_name.values()}
        candidates = families if family is None else {family}
        if families and not any(families <= in_one_model(one) for one in candidates):
            wanted = "one family" if family is None else f"the family {family.name!r}"
            others = {n: s.family for n, s in self.by_name.items() if s.family != family}
            got = [f"{name}: {_told_apart(other, family)}" for name, other in others.items()]
            raise ValueError(
                f"The scalings must be for {wanted}. Got{_check.listed(got)}\n"
                f"Learning rates of one family are wrong for another. {_RESOLVE}"
            )

    def map(self, function: Callable[..., Any], updates: Updates, *rest: Tree) -> Tree:
        """The tree of `function(scaling, update, *rest)` of each leaf that is not `None`."""
        self.require_names(updates)
        scalings = iter([self.by_name[name] for name, _ in named_leaves(updates)])
        return map_leaves(lambda *leaves: function(next(scalings), *leaves), updates, *rest)

    def require_names(self, tree: Tree) -> None:
        """Raises unless leaves and scalings have the same names, and the leaves are floats."""
        # Not the same shapes: inside `shard_map` or `vmap` an update is a part of its parameter.
        require_names("scalings", self.by_name, tree)
        require_floating("updates", leaves_by_path(tree), _NO_SPEC)

    def require_parameters(self, params: Params) -> None:
        """Raises unless the scalings are those of the parameters, by name and shape, all floats.

        A model all of whose parameters have one or two elements is a trial of the transform, as
        `jaxmup.lint` makes; its shapes are not compared.
        """
        leaves = leaves_by_path(self.trained(params))
        if all(np.size(leaf) <= _TRIAL for leaf in leaves.values()):
            leaves = dict.fromkeys(leaves)
        _same_tree("scalings", self.by_name, leaves, params)
        require_floating("params", leaves_by_path(self.trained(params)), _NO_SPEC)

    def trained(self, params: Params) -> Params:
        """`params` with `None` in place of what no optimizer trains.

        That are the leaves without a scaling which are no floating-point arrays: step counters,
        functions, strings, as Equinox's trees hold them. A floating-point array without a scaling
        stays, to be refused.
        """
        return without(lambda name, x: name not in self.by_name and not is_floating(x), params)


def _told_apart(other: Family, family: Family | None) -> str:
    """The name of a family, or all of it where another one has that name."""
    return other.name if family is None or other.name != family.name else str(other)


def values_of_leaves(name: str, value: Tree, tree: Tree) -> list[Any]:
    """One value for each leaf of `tree`: `value` itself, or its leaf of the same name.

    A leaf that is `None` has the value `None`.
    """
    leaves = leaves_with_none(tree)
    if _check.is_number(value) or _check.is_traced(value):
        return [value] * len(leaves)
    by_name = leaves_by_path(value)
    require_names(name, by_name, tree)
    names = iter(leaves_by_path(tree))
    return [None if leaf is None else by_name[next(names)] for leaf in leaves]


def require_names(name: str, by_name: Mapping[PathName, Any], tree: Tree) -> None:
    """Raises a `ValueError` unless `by_name` has the names of the leaves of `tree`."""
    _same_tree(name, dict.fromkeys(by_name), leaves_by_path(tree), tree)


def _same_tree(
    name: str, by_name: Mapping[PathName, Any], leaves: Mapping[PathName, Any], tree: Tree
) -> None:
    passed = list(_passed_over(tree)) if by_name.keys() != leaves.keys() else []
    entries = {
        entry: value
        for entry, value in by_name.items()
        if entry in leaves or not any(is_in(entry, path) for path in passed)
    }
    _check.same_tree(name, entries, leaves, may_have_more=_is_masked(tree), remedy=_ANEW)


def _passed_over(tree: Tree) -> Iterator[PathName]:
    """The names of what is `None`: leaves without a gradient, or subtrees of them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none):
        if leaf is None:
            yield path_name(path)


def _is_masked(tree: Tree) -> bool:
    """Says if `optax.masked` has taken leaves out of `tree`."""
    return any(
        isinstance(leaf, optax.MaskedNode)
        for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    )


def require_learning_rate(learning_rate: optax.ScalarOrSchedule) -> None:
    """Raises unless it is a schedule, or a finite number of at least 0.

    Zero passes: it is where a warm-up starts.
    """
    if not callable(learning_rate):
        remedy = "It is the base model's, as a number or a schedule."
        _check.number("learning_rate", learning_rate, at_least=0, remedy=remedy)


def require_gradients(updates: Updates) -> None:
    """Raises a `TypeError` unless every update is an array of floating-point numbers, or `None`."""
    require_floating("updates", leaves_by_path(updates), "Integers have the gradient `None`.")


def require_decay_rate(name: str, value: ArrayLike) -> None:
    """Raises unless `value` is a number in [0, 1), such as the decay of a moment."""
    _check.number(name, value, at_least=0, below=1)


def require_not_negative(name: str, value: Tree) -> None:
    """Raises unless `value` is a finite number of at least 0, or a tree of them."""
    leaves = named_leaves(value) if value is not None else [("", None)]
    for path, leaf in leaves:
        _check.number(f"{name} of {path}" if path else name, leaf, at_least=0)


def require_dtype(
    name: str, dtype: DTypeLike | None, reason: str = "A moment is a mean, which integers lose."
) -> None:
    """Raises unless `dtype` is one of floating-point numbers, or `None`."""
    what = f"`{name}` must be a dtype of floating-point numbers, or `None`. Got {dtype!r}."
    try:
        is_floating = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:
        raise TypeError(f"{what} Use `jax.numpy.float32`, say.") from None
    if not is_floating:
        raise ValueError(f"{what} {reason}")


def checked_mask(name: str, mask: Mask | None) -> Mask | None:
    """The mask, whose leaves are booleans or will be when its function is called.

    Raises:
      TypeError: if a leaf is no boolean.
    """
    if mask is None:
        return None
    leaves = jax.tree.leaves(mask)
    # A module of Equinox may be callable and yet be a tree of booleans.
    if leaves and all(map(callable, leaves)):
        return lambda params: _booleans(name, mask(params))
    return _booleans(name, mask)


def _booleans(name: str, mask: Tree) -> Tree:
    wrong = [f"{path or '(the mask)'}: {x!r}" for path, x in named_leaves(mask) if not _is_bool(x)]
    if wrong:
        raise TypeError(
            f"`{name}` must be a tree of booleans, or a function of the parameters that returns"
            f" one. Got{_check.listed(wrong)}\nTrue is for a leaf whose weight decays."
        )
    return mask


def _is_bool(x: object) -> bool:
    if isinstance(x, bool | np.bool_):
        return True
    return getattr(x, "shape", None) == () and getattr(x, "dtype", None) == np.bool_
