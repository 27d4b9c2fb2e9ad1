"""Checks of the state of a running optimizer."""

from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp

from jaxmup._lint._finding import Finding
from jaxmup._opt_state import FIXED, SQUARE, Link, Owners, walk
from jaxmup._scaling import Scaling
from jaxmup._tree import OptState, PathName, Tree, wide

_SHARE = 0.25  # of the entries that have had a gradient


def check_state(
    scalings: Mapping[PathName, Scaling], opt_state: OptState, eps: float, b2: float
) -> Iterator[Finding]:
    """Finds parameters whose eps is larger than the root of their second moment.

    Entries whose second moment is zero have had no gradient, and do not count.
    """
    shares: dict[PathName, float] = {}
    for path, second_moment, count in _second_moments(opt_state, scalings):
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


def has_started(opt_state: OptState) -> bool:
    """True if a counter of the state is above zero, or may be, as there is none."""
    counters = [
        _number(field.value)
        for link in _links(opt_state)
        for field in link.fields
        if field.kind in ("steps", "position")
    ]
    return not counters or max(counters) > 0


def _links(opt_state: OptState) -> Iterator[Link]:
    """All transforms of an optimizer, those too whose state is in units of their own."""
    for link in walk(opt_state).links:
        yield link
        for field in link.fields:
            if field.kind == "apart":
                yield from _links(field.value)


def _second_moments(
    opt_state: OptState, parameters: Iterable[PathName]
) -> Iterator[tuple[PathName, jax.Array, int | None]]:
    """Name of the parameter, its second moment, and the count of steps beside it if it has one."""
    owners = Owners(parameters)
    for link in _links(opt_state):
        # Of what returns a ratio without a unit: Adadelta's squares are of steps too.
        divides = link.transform.returns == FIXED
        squares = [field for field in link.fields if divides and field.movement == SQUARE]
        counts = [_number(field.value) for field in link.fields if field.kind == "steps"]
        # AMSGrad divides by the maximum of its second moments, which is the last of them.
        for owner, leaf in owners.leaves(squares[-1].value) if squares else ():
            if owner is not None:
                yield owner, leaf, counts[0] if counts else None


def _number(counter: Tree) -> int:
    (leaf,) = jax.tree.leaves(counter)  # Flax puts a variable around it
    return int(leaf)


def _share_below(nu: jax.Array, count: int | None, limit: float, b2: float) -> float:
    """The share of entries whose root is below the limit, of those that have a second moment."""
    if count == 0:
        return 0.0
    correction = 1.0 if count is None else 1 - b2**count
    nu = nu.real.astype(wide(nu.real.dtype))
    positive = nu > 0
    small = positive & (jnp.sqrt(nu / correction) < limit)
    return int(jnp.sum(small)) / max(int(jnp.sum(positive)), 1)
