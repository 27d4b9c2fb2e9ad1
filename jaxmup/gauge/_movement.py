"""The state and the hyper-parameters of an optimizer, moved with the gauge of each parameter."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jax import Array

from jaxmup._opt_state import FIXED, Field, Link, Owners, StatePath, Walked, where, with_fields
from jaxmup._tree import OptState, PathName, Tree
from jaxmup.functional import scale
from jaxmup.gauge._course import Course, has_own_rate, takes_scalings


class MovedState(NamedTuple):
    """The state of an optimizer in another gauge.

    Args:
      opt_state: The state.
      injected: Names of the hyper-parameters that were moved in it.
    """

    opt_state: OptState
    injected: set[str]


# The parameters that pass a transform, by name, with their factor on the updates that come in.
_Passing = Mapping[PathName, tuple[float, Course]]


def moved_state(
    state: OptState,
    walked: Walked,
    courses: Mapping[PathName, Course],
    owners: Owners,
    described: bool,
) -> MovedState:
    """`state` with every field moved, rounded once in the dtype that it has.

    Args:
      state: State of the optimizer.
      walked: Transforms that it is of.
      courses: Way of the updates of each parameter; what belongs to a leaf without one stays.
      owners: Owners of the leaves of the state.
      described: Whether the chain names every transform, so that a hyper-parameter that does not
        move in it is known to stay.

    Raises:
      ValueError: if something that parameters share would have to move differently for each.
    """
    passing = _passing(courses)
    moved: dict[StatePath, Tree] = {}
    injected: set[str] = set()
    for link in walked.links:
        here = passing.get(link.path, {})
        if not here:
            continue
        if link.transform.couples:
            _shared(f"{link.name} {where(link.path)}", {k: c.theta for k, (_, c) in here.items()})
        for field in link.fields:
            if field.kind == "rates":
                # These are arguments of what is inside, so their powers are those of the whole
                # course, from the gradient to the step, and not of this place in the chain.
                factors = hyperparameters({name: c for name, (_, c) in here.items()})
                moved[field.path] = _injected(link, field, here, factors, described)
                injected.update(name for name in factors if name in field.value)
            elif field.movement != FIXED:
                moved[field.path] = _moved_field(field, here, owners)
    return MovedState(with_fields(state, moved), injected)


def _passing(
    courses: Mapping[PathName, Course],
) -> dict[StatePath, dict[PathName, tuple[float, Course]]]:
    """For each transform, by its path, what passes it."""
    passing: dict[StatePath, dict[PathName, tuple[float, Course]]] = {}
    for name, followed in courses.items():
        for link, update in followed.passages:
            passing.setdefault(link.path, {})[name] = (update, followed)
    return passing


def _moved_field(field: Field, passing: _Passing, owners: Owners) -> Tree:
    factors = {
        name: field.movement.at(update, c.theta, c.rate) for name, (update, c) in passing.items()
    }

    def moved(owner: PathName | None, x: Array) -> Array:
        if owner is None:
            return scale(x, _shared(where(field.path), factors))
        # A leaf without a course is no parameter: its moments stay as it does.
        return scale(x, factors[owner]) if owner in factors else x

    return owners.map(moved, field.value)


def _shared(what: str, factors: Mapping[PathName, float]) -> float:
    """The factor on something that several parameters share.

    Raises:
      ValueError: if it is not the same for all of them.
    """
    low, high = min(factors, key=factors.__getitem__), max(factors, key=factors.__getitem__)
    if not math.isclose(factors[low], factors[high], rel_tol=1e-12):
        raise ValueError(
            f"`{what}` is shared by parameters that would move it by different factors: {low!r} by "
            f"{factors[low]:.6g}, {high!r} by {factors[high]:.6g}. Move all by one theta; or use "
            "the chains of `jaxmup.optim`, whose scalings hold a number for each parameter; or "
            "train with `jaxmup.gauge.in_reference_gauge(tx, scalings)`."
        )
    return factors[low]


# Hyper-parameters that stay in every optimizer of optax. Any other name may move by a power that
# depends on the transform: `eps` is Adam's beside the root, and RMSProp's inside it.
_STAY = {"b1", "b2", "b3", "beta", "decay", "rho", "alpha", "momentum", "decay_rate"}


def _injected(
    link: Link,
    rates: Field,
    passing: _Passing,
    factors: Mapping[str, Mapping[PathName, float]],
    described: bool,
) -> dict[str, Array]:
    """The hyper-parameters that `optax.inject_hyperparams` holds, moved."""
    known = described or all(takes_scalings(c) for _, c in passing.values())
    scheduled = getattr(link.state, "hyperparams_states", {})
    moved = dict(rates.value)
    for name, value in rates.value.items():
        # `inject_hyperparams` keeps the last value of a schedule, and overwrites it before use.
        if name in factors and name in scheduled:
            raise ValueError(
                f"A scheduled hyper-parameter cannot be moved in the state: {name!r} at "
                f"{where(link.path)} is computed anew at each step. Build the "
                f"optimizer with the schedule multiplied by {dict(factors[name])}, or use a chain "
                "of `jaxmup.optim`, whose schedule stays."
            )
        if name in factors:
            moved[name] = scale(value, _shared(f"hyperparams[{name!r}]", factors[name]))
        elif not known and name not in _STAY:
            raise ValueError(
                f"The movement of every hyper-parameter must be known. {name!r} at "
                f"{where(link.path)} moves by its place in the chain. Say what the "
                "optimizer is, such as chain='adamw'."
            )
    return moved


def hyperparameters(
    courses: Mapping[PathName, Course],
) -> dict[str, dict[PathName, float]]:
    """The factor on each hyper-parameter that moves, for each parameter."""
    factors: dict[str, dict[PathName, float]] = {}
    for parameter, followed in courses.items():
        if not takes_scalings(followed):
            for name, factor in _factors_of(followed).items():
                factors.setdefault(name, {})[parameter] = factor
    return {name: each for name, each in factors.items() if not _all_one(each.values())}


def _all_one(factors: Iterable[float]) -> bool:
    """True if nothing moves."""
    # Powers that cancel, as those of LAMB's learning rate do, leave a rounding.
    return all(math.isclose(factor, 1.0, rel_tol=1e-12) for factor in factors)


def _factors_of(followed: Course) -> dict[str, float]:
    factors: dict[str, float] = {}
    for link, update in followed.passages:
        for name, power in link.transform.hyperparameters.items():
            if power is not None:
                factor = power.at(update, followed.theta, followed.rate)
                # Two transforms may have one name for theirs, as AdamW with adaptive clipping has
                # two of `eps`; the first keeps the name, which is also that of the optimizer's own.
                factors[f"{link.name}.{name}" if name in factors else name] = factor
    if not has_own_rate(followed):
        factors.setdefault("learning_rate", followed.rate)
    return factors
