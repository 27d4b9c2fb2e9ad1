"""The optimizer of a run, moved to another gauge."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from jaxmup._check import listed
from jaxmup._opt_state import Description, Owners, Transform, Walked, described, walk, where
from jaxmup._tree import OptState, Params, PathName, leaves_by_path
from jaxmup.gauge._course import Course, course
from jaxmup.gauge._movement import hyperparameters, moved_state

Factors: TypeAlias = dict[str, float | dict[PathName, float]]
"""Factors on hyper-parameters by name: one, or one for each parameter."""


class Shift(NamedTuple):
    """The move of one parameter to another gauge.

    Args:
      theta: The factor on its multiplier.
      gradient: The factor on its `Scaling.grad`.
    """

    theta: float
    gradient: float = 1.0


class MovedOptimizer(NamedTuple):
    """An optimizer in another gauge.

    Args:
      opt_state: Its state.
      courses: The way of the updates of each parameter.
      hyperparameters: The factors on those that the state does not hold.
    """

    opt_state: OptState
    courses: dict[PathName, Course]
    hyperparameters: Factors


def move(
    opt_state: OptState,
    params: Params,
    moves: Mapping[PathName, Shift],
    chain: Description | None,
    transforms: Mapping[str, Transform] | None,
) -> MovedOptimizer:
    """Moves the state of an optimizer with its parameters.

    Args:
      opt_state: State of the optimizer.
      params: Tree that the optimizer updates.
      moves: The move of each parameter by name; other leaves of `params` stay.
      chain: Description of the transforms, where the types of their states leave it open.
      transforms: Transforms that are not in the table, by the name of the type of their state.

    Raises:
      ValueError: if the state holds one of an unknown type, is not that of `chain`, or cannot move.
    """
    walked = _walked(opt_state, chain, transforms)
    # Of all leaves, since what an optimizer keeps for a table of integers has an owner too.
    owners = Owners(leaves_by_path(params))
    courses = {
        name: course(walked.chain, name, owners, theta, gradient)
        for name, (theta, gradient) in moves.items()
    }
    factors = hyperparameters(courses)
    state, injected = moved_state(opt_state, walked, courses, owners, chain is not None)
    left = {name: _one_if_same(each) for name, each in factors.items() if name not in injected}
    return MovedOptimizer(state, courses, left)


def _walked(
    opt_state: OptState, chain: Description | None, transforms: Mapping[str, Transform] | None
) -> Walked:
    """The transforms that the state is of, named by the user where it leaves them open.

    Raises:
      TypeError: if `transforms` holds anything but movements.
      ValueError: if the state holds one of an unknown type, or is not that of `chain`.
    """
    wrong = {} if transforms is None else transforms
    wrong = {name: x for name, x in wrong.items() if not isinstance(x, Transform)}
    if wrong:
        raise TypeError(f"`transforms` must map names to `jaxmup.gauge.Transform`. Got {wrong}.")
    walked = walk(opt_state, transforms)
    unknown = walked.unknown + [f"{where(path)}: a mapping" for path in walked.unordered]
    if unknown:
        raise ValueError(
            "Every field of an optimizer's state must have a known movement. Unknown:"
            f"{listed(unknown)}\nPass `transforms={{'TheState': jaxmup.gauge.Transform(...)}}`, "
            "which says how its fields move, or train with `jaxmup.gauge.in_reference_gauge(tx, "
            "scalings)`, whose state is the same in every gauge."
        )
    return walked if chain is None else walked._replace(chain=described(walked.chain, chain))


def _one_if_same(each: dict[PathName, float]) -> float | dict[PathName, float]:
    values = set(each.values())
    return values.pop() if len(values) == 1 else each
