"""Checks of the state of a running optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmup._lint._finding import Finding
from jaxmup._scaling import Scaling
from jaxmup._tree import path_name

_SHARE = 0.25  # of the entries that have had a gradient


def check_state(
    scalings: Mapping[str, Scaling], opt_state: Any, eps: float, b2: float
) -> Iterator[Finding]:
    """Finds where eps is larger than the root of the second moment.

    Entries whose second moment is zero have had no gradient, and do not count.
    """
    shares: dict[str, float] = {}
    for path, second_moment, count in _second_moments(opt_state):
        if path in scalings:
            limit = eps * scalings[path].eps
            shares[path] = _share_below(second_moment, count, limit, b2)
    found = tuple(path for path, share in shares.items() if share > _SHARE)
    if found:
        worst = max(found, key=shares.__getitem__)
        yield Finding(
            "eps-dominates",
            "eps is larger than the root of the second moment; most of all in "
            f"{worst}, where it is {eps * scalings[worst].eps:.3g} and "
            f"{shares[worst]:.0%} of the entries are below it.",
            found,
            "The optimizer does not normalize such gradients: steps are smaller than the "
            "learning rate says, and by how much depends on the width.",
            "Take a smaller eps, or a gauge whose gradients are larger (`tp4b` scales them to "
            "one size); in the chains of `jaxmup.optim` eps follows the width.",
        )


def has_started(opt_state: Any) -> bool:
    """Says if a step counter of the state is above zero, or may be, as there is none."""
    counters = [int(leaf) for path, leaf in _leaves(opt_state) if _is_counter(path)]
    return not counters or max(counters) > 0


def _second_moments(opt_state: Any) -> Iterator[tuple[str, jax.Array, int | None]]:
    """Path of the parameter, its second moment and the count of steps beside it, if there is one.

    AMSGrad divides by the maximum of its second moments, so that is the one.
    """
    leaves = _leaves(opt_state)
    counts = {path[:-1]: int(leaf) for path, leaf in leaves if _is_counter(path)}
    moments: dict[tuple[Any, str], tuple[jax.Array, int | None]] = {}
    for path, leaf in leaves:
        for name in ("nu", "nu_max"):  # in the order of the fields: the maximum comes last
            key = jax.tree_util.GetAttrKey(name)
            if key in path:
                at = path.index(key)
                moments[path[:at], path_name(path[at + 1 :])] = leaf, counts.get(path[:at])
    for (_, path), (leaf, count) in moments.items():
        yield path, leaf, count


def _leaves(opt_state: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves by path, without the last step into an NNX variable."""
    value = jax.tree_util.GetAttrKey("value")
    return [
        (path[:-1] if path and path[-1] == value else path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
    ]


def _is_counter(path: tuple[Any, ...]) -> bool:
    return bool(path) and path[-1] == jax.tree_util.GetAttrKey("count")


def _share_below(nu: jax.Array, count: int | None, limit: float, b2: float) -> float:
    """The share of entries whose root is below the limit, of those that have a second moment."""
    if count == 0:
        return 0.0
    correction = 1.0 if count is None else 1 - b2**count
    nu = nu.astype(jnp.promote_types(nu.dtype, jnp.float32))
    positive = nu > 0
    small = positive & (jnp.sqrt(nu / correction) < limit)
    return int(jnp.sum(small)) / max(int(jnp.sum(positive)), 1)
