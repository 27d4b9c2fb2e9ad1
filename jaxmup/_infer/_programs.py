"""The programs of a model at several sizes, all with the base model's structure."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxmup._infer._leaf import Leaf
from jaxmup._model import Instance
from jaxmup._program import ClosedJaxpr
from jaxmup._tree import PathName, Size


class Programs(NamedTuple):
    """The programs of a model at several sizes.

    Args:
      programs: At base, delta and target.
      names: Names of the parameters, which are the first inputs, in their order.
      knows_target: True if the last program grows as the target does.
    """

    programs: Sequence[ClosedJaxpr]
    names: Sequence[PathName]
    knows_target: bool


def programs_of(
    small: Instance, other: Instance, large: Instance, with_depth: Callable[[Size], Instance]
) -> Programs | None:
    """The programs of a model, all with the base model's structure.

    A target of another depth stands for itself with the base model's depth: whatever base and delta
    have alike does not belong to the width.

    Args:
      small: The base model.
      other: The model beside it.
      large: The target.
      with_depth: Function of a size to the model of that size.

    Returns:
      `None` if nobody has said what the model is called with.

    Raises:
      ValueError: if the model cannot be called with its inputs.
    """
    if not small.is_callable:
        return None
    names = list(small.parameters)
    alike: Instance | None = large
    if list(large.parameters) != names:
        like = _with_depth_of_base(small.size, other.size, large.size)
        alike = None if like is None else with_depth(like)
        if alike is not None and list(alike.parameters) != names:
            alike = None
    programs = [small.program(), other.program()]
    programs.append(programs[1] if alike is None else alike.program())
    return Programs(programs, names, alike is not None)


def _with_depth_of_base(base: Size, delta: Size, target: Size) -> Size | None:
    """The target where base and delta differ, the base model elsewhere."""
    if not all(isinstance(size, Mapping) for size in (base, delta, target)):
        return None
    grown = [name for name in (base.keys() | delta.keys()) if base.get(name) != delta.get(name)]
    kept = {name: value for name, value in base.items() if name not in grown}
    return {**kept, **{name: target[name] for name in grown if name in target}}


def multipliers_of(
    small: Mapping[PathName, Leaf],
    other: Mapping[PathName, Leaf],
    large: Mapping[PathName, Leaf],
    names: Mapping[PathName, PathName],
) -> dict[PathName, tuple[float, ...]] | None:
    """What jaxmup layers multiply their parameters by, at three sizes, by the base model's names.

    It is `None` if some do not say: then the user's own code multiplies.
    """
    found: dict[PathName, tuple[float, ...]] = {}
    for name, source in names.items():
        target = large[name] if name in large else large[source]
        applied = [
            leaf.spec.applied for leaf in (small[source], other[source], target) if leaf.spec
        ]
        if None in applied:
            return None
        if applied:
            found[source] = tuple(one.multiplier for one in applied if one is not None)
    return found
