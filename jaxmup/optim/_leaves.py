"""Trees of updates in which some leaves have no gradient.

What does not train has the gradient `None`, as the integers and functions in Equinox's trees. JAX
takes `None` for an empty subtree, so a map over updates and parameters fails where the parameter is
a leaf; the maps here take `None` for a leaf, and leave it as it is. The derivative that JAX has for
integers, of dtype float0, counts as `None`.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxmup._check import listed
from jaxmup._tree import (
    OptState,
    Params,
    PathName,
    Tree,
    Updates,
    is_floating,
    named_leaves,
    path_name,
)


def is_none(x: object) -> bool:
    """Says if `x` is `None`."""
    return x is None


def without_float0(updates: Updates) -> Updates:
    """`updates` with `None` in place of leaves of dtype float0.

    Example:
      >>> import numpy as np
      >>> without_float0({"w": 1.0, "step": np.zeros(3, jax.dtypes.float0)})
      {'step': None, 'w': 1.0}
    """

    def is_float0(x: object) -> bool:
        return getattr(x, "dtype", None) == jax.dtypes.float0

    if not any(map(is_float0, jax.tree.leaves(updates))):
        return updates
    return jax.tree.map(lambda x: None if is_float0(x) else x, updates)


def leaves_with_none(tree: Tree) -> list[Any]:
    """The leaves of a tree, `None` among them."""
    return jax.tree.leaves(tree, is_leaf=is_none)


def like(tree: Tree, leaves: list[Any]) -> Tree:
    """A tree of the structure of `tree` with other leaves, one for each `None` too."""
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_none), leaves)


def zeros_like(params: Params, dtype: DTypeLike | None = None) -> Params:
    """Zeros for each parameter; `None` for integers, functions and the like, which do not train."""
    trained = without(lambda _, x: not (is_floating(x) or isinstance(x, float)), params)
    return optax.tree.zeros_like(trained, dtype=dtype)


def map_leaves(function: Callable[..., Any], updates: Updates, *rest: Tree) -> Tree:
    """Maps `function(update, *rest)` over the leaves of `updates` that are not `None`, in order.

    Example:
      >>> map_leaves(lambda u, w: u + w, {"w": 1, "step": None}, {"w": 2, "step": print})
      {'step': None, 'w': 3}
    """
    return jax.tree.map(
        lambda u, *leaves: None if u is None else function(u, *leaves),
        updates,
        *rest,
        is_leaf=is_none,
    )


def without(is_left_out: Callable[[PathName, Any], bool], params: Params) -> Params:
    """`params` with `None` in place of some leaves.

    Example:
      >>> without(lambda name, _: name == "step", {"w": 1.0, "step": 3})
      {'step': None, 'w': 1.0}
    """
    leaves = [None if is_left_out(name, x) else x for name, x in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def alongside(updates: Updates, params: Params | None) -> Params | None:
    """`params` with `None` where the update is `None`, so that both have one structure."""
    if params is None or not any(map(is_none, leaves_with_none(updates))):
        return params
    return map_leaves(lambda u, w: w, updates, params)


def passing_over(
    tx: optax.GradientTransformation, trained: Callable[[Params], Params]
) -> optax.GradientTransformationExtraArgs:
    """`tx`, which sees `None` for what does not train, in its parameters as in its updates.

    Args:
      tx: Transform that passes over updates that are `None`, as those of optax do.
      trained: Function from parameters to the same with `None` for what no optimizer trains.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: Params) -> OptState:
        return tx.init(trained(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        updates = without_float0(updates)
        return tx.update(updates, state, alongside(updates, params), **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def standing_still(
    tx: optax.GradientTransformation, names: Collection[PathName]
) -> optax.GradientTransformationExtraArgs:
    """`tx`, which sees zeros for the gradient of a parameter that has none, and leaves it.

    optax's transforms drop the moment of such a parameter, or fail. Of a gradient of zeros they
    keep it, and the update that they make of it is not passed on.

    Args:
      tx: Transform that may not know `None`.
      names: Names of the parameters, all of which have a state.
    """
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        given = without_float0(updates)
        if params is None:
            _require_gradients(given, names)
            return tx.update(given, state, params, **extra_args)
        # Zeros for the parameter too, which else would decay into the moments.
        weights = jax.tree.map(
            lambda u, w: _zeros(w) if u is None else w, given, params, is_leaf=is_none
        )
        filled = jax.tree.map(lambda u, w: w if u is None else u, given, weights, is_leaf=is_none)
        updates, state = tx.update(filled, state, weights, **extra_args)
        return map_leaves(lambda u, new: new, given, updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _zeros(params: Params) -> Params:
    """Zeros for the parameters below a `None`; `None` for what does not train."""
    return jax.tree.map(lambda w: jnp.zeros_like(w) if is_floating(w) else None, params)


def _require_gradients(updates: Updates, names: Collection[PathName]) -> None:
    """Raises a `ValueError` if a parameter has no gradient."""
    paths = jax.tree_util.tree_leaves_with_path(updates, is_leaf=is_none)
    passed = [path_name(path) for path, leaf in paths if leaf is None]
    found = [name for name in names if any(is_in(name, path) for path in passed)]
    if found:
        raise ValueError(
            "An optimizer needs the parameters where some of them have no gradient. Without one:"
            f"{listed(found)}\nCall `update(gradients, state, params)`."
        )


def is_in(name: PathName, path: PathName) -> bool:
    """Says if a leaf is at `path` or below it."""
    return name == path or path == "" or name.startswith(f"{path}/")
