"""Trees of updates in which some leaves have no gradient.

What does not train has the gradient `None`, as the integers and functions in Equinox's trees. JAX
takes `None` for an empty subtree, so a map over updates and parameters fails where the parameter is
a leaf; the maps here take `None` for a leaf, and leave it as it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.typing import DTypeLike

from jaxmup._tree import OptState, Params, PathName, Tree, Updates, is_floating, named_leaves


def is_none(x: object) -> bool:
    """Says if `x` is `None`."""
    return x is None


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
        return tx.update(updates, state, alongside(updates, params), **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)
