"""The programs of a model at several sizes, all with the base model's structure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxmup._check import is_number
from jaxmup._infer._leaf import Leaf
from jaxmup._inputs import take_arrays
from jaxmup._model import Instance, call_with_size
from jaxmup._program import ClosedJaxpr, one_order_of_products
from jaxmup._tree import PathName, Size


class Programs(NamedTuple):
    """The programs of a model at several sizes.

    Args:
      programs: At base, delta and target.
      names: Names of the parameters, which are the first inputs, in their order.
      knows_target: True if the last program grows as the target does.
      numbers: Numbers among the inputs that the model is made with, at base, delta and target.
      scales: Size of the coordinates of each argument at each size, if they are not all of order 0.
    """

    programs: Sequence[ClosedJaxpr]
    names: Sequence[PathName]
    knows_target: bool
    numbers: Mapping[int, tuple[Any, ...]]
    scales: Sequence[tuple[float, ...]] = ()


def programs_of(
    small: Instance,
    other: Instance,
    large: Instance,
    with_depth: Callable[[Size], Instance],
    input_scale: Callable[..., Any] | None = None,
) -> Programs:
    """The programs of a model, all with the base model's structure.

    A target of another depth stands for itself with the base model's depth: whatever base and delta
    have alike does not belong to the width.

    Args:
      small: The base model.
      other: The model beside it.
      large: The target.
      with_depth: Function of a size to the model of that size.
      input_scale: Function of a size to the size of the coordinates of the inputs.

    Raises:
      TypeError: if the model is nothing that can be called.
      ValueError: if the model refuses its inputs.
    """
    names = list(small.parameters)
    alike: Instance | None = large
    if list(large.parameters) != names:
        like = _with_depth_of_base(small.size, other.size, large.size)
        alike = None if like is None else with_depth(like)
        if alike is not None and list(alike.parameters) != names:
            alike = None
    instances = (small, other, other if alike is None else alike)
    scales = []
    if input_scale is not None:
        scales = list(zip(*(_scales_of(one, input_scale) for one in instances), strict=True))
    return traced(instances)._replace(knows_target=alike is not None, scales=scales)


def traced(instances: Sequence[Instance]) -> Programs:
    """The programs of a model at each size, of which the last is the one to train."""
    programs: dict[int, ClosedJaxpr] = {}
    # The last one's order of products comes first: what JAX keeps of it, training uses too.
    with one_order_of_products():
        for instance in reversed(instances):
            if id(instance) not in programs:
                programs[id(instance)] = instance.program()
    of_each = [programs[id(instance)] for instance in instances]
    return Programs(of_each, list(instances[0].parameters), True, _numbers(*instances))


def _numbers(*instances: Instance) -> dict[int, tuple[Any, ...]]:
    """Numbers that a model is made with, at each size, by their position among its inputs."""
    number = len(instances[0].parameters)
    found = [instance.numbers() for instance in instances]
    common = set(found[0]).intersection(*found[1:])
    return {number + i: tuple(values[i] for values in found) for i in common}


def _scales_of(instance: Instance, input_scale: Callable[..., Any]) -> list[float]:
    """The size of the coordinates of each argument of a call."""
    number = len(take_arrays(instance.inputs)[0])
    found = jax.tree.leaves(call_with_size(input_scale, instance.size, {}))
    if len(found) == 1:
        found *= number
    if len(found) != number or not all(is_number(x) and x > 0 for x in found):
        raise ValueError(
            "`input_scale` must return a positive number, or one for each array of `inputs`, of "
            f"which there are {number}. For `{instance.what}` = {instance.size!r} it returned "
            f"{found}."
        )
    return [float(x) for x in found]


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
    """Multipliers of jaxmup layers' parameters at three sizes, by the base model's names.

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
