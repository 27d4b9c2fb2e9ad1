"""Moments of torch's tensors: moved through the layouts of their weights, in units of gradients."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmup._check import listed
from jaxmup._tree import PathName
from jaxmup.bridge._layouts import Layout
from jaxmup.bridge._plan import Entry, Place
from jaxmup.bridge._plan import Plan as Plan
from jaxmup.bridge._torch_run import TorchGroup, TorchRun
from jaxmup.bridge._units import without_collection


class Trained(NamedTuple):
    """The training in torch of what becomes a leaf.

    Args:
      group: Parameter group of the tensor.
      factor: Weight here over the weight in torch. Gradients have its inverse.
    """

    group: TorchGroup
    factor: float


class Tensor(NamedTuple):
    """A tensor that torch trains, with what it becomes.

    A recurrent cell of torch has two biases that are added to each other; here they are one. Both
    have one gradient, so they keep the same moments, and one record stands for the two. Their sum
    makes the steps of both, so the group of the record has twice their learning rate.

    Args:
      names: Name of the tensor, or those of both biases.
      entry: Entry of the plan that it is a source of.
      group: Parameter group that trains it, or that trains the sum as the two train the biases.
    """

    names: tuple[str, ...]
    entry: Entry
    group: TorchGroup

    @property
    def places(self) -> tuple[Place, ...]:
        """The places that it becomes, with the paths of leaves in a tree of parameters alone."""
        return tuple(p._replace(path=without_collection(p.path)) for p in self.entry.targets)

    def to_jax(self, array: np.ndarray, degree: float) -> list[np.ndarray]:
        """A moment at each place; `degree` is the power of the gradient that it has the unit of."""
        moved = self._layout.forward([array], [place.shape for place in self.entry.targets])
        return [_scaled(part, self.entry.factor**-degree) for part in moved]

    def to_torch(self, arrays: list[np.ndarray], degree: float) -> np.ndarray:
        """The moment of the tensor, from those at its places."""
        arrays = [_scaled(array, self.entry.factor**degree) for array in arrays]
        return self._layout.backward(arrays, [self.shape])[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return next(s.shape for s in self.entry.sources if s.name == self.names[0])

    @property
    def _layout(self) -> Layout:
        # Weights of the two biases add up; their moments are equal, so that one of them is taken.
        return dataclasses.replace(self.entry.layout, join="one")


def tensors_of(plan: Plan, run: TorchRun) -> list[Tensor]:
    """The tensors of an optimizer, with their entries in the plan.

    Raises:
      ValueError: if the plan lacks one, a moment has another shape than its tensor, tensors that
        become one leaf are trained apart, or a tensor that is trained as one becomes two leaves.
    """
    entries = {source.name: entry for entry in plan.entries for source in entry.sources}
    groups = run.group_of()
    _require_planned(groups, entries)
    _require_tied(plan, groups, entries)
    tensors: list[Tensor] = []
    for entry in plan.entries:
        names = tuple(source.name for source in entry.sources if source.name in groups)
        if names and entry.targets:
            _require_shapes(entry, run)
            _require_one(names, entry, run)
            tensors.append(Tensor(names, entry, _together(groups[names[0]], len(names))))
    return tensors


def trained_by_path(tensors: list[Tensor]) -> dict[PathName, Trained]:
    """The training of each leaf in torch; a leaf that is missing is not trained.

    Raises:
      ValueError: if the rows of a leaf that stacks layers are trained differently.
    """
    found: dict[PathName, Trained] = {}
    for tensor in tensors:
        trained = Trained(tensor.group, tensor.entry.factor)
        for place in tensor.places:
            other = found.setdefault(place.path, trained)
            if _numbers(other) != _numbers(trained):
                raise ValueError(
                    "The layers of a stack are trained alike here. In torch those of "
                    f"{place.path} have other hyper-parameters: {_numbers(other)} and "
                    f"{_numbers(trained)}. Make the model with layers that are not stacked."
                )
    return found


def _numbers(trained: Trained) -> tuple[dict[str, Any], float]:
    return dict(trained.group.hyperparameters), trained.factor


def _require_planned(groups: Mapping[str, TorchGroup], entries: Mapping[str, Entry]) -> None:
    unknown = [name for name in groups if name not in entries]
    if unknown:
        raise ValueError(
            f"The optimizer must train tensors of the plan. Not in it:{listed(unknown)}\n"
            f"The plan has{listed(entries)}"
        )


def _require_tied(
    plan: Plan, groups: Mapping[str, TorchGroup], entries: Mapping[str, Entry]
) -> None:
    """Raises a `ValueError` if a tensor of two names, which torch trains, is two leaves here."""
    for names in plan.tied:
        held = [name for name in names if name in entries and entries[name].targets]
        leaves = {str(place): None for name in held for place in entries[name].targets}
        if len({id(entries[name]) for name in held}) > 1 and any(name in groups for name in names):
            raise ValueError(
                f"{', '.join(held)} are one tensor in torch, with one gradient and one state. Here "
                f"{', '.join(leaves)} are trained apart, so that no state makes the same steps. "
                "Convert to a model that ties them, or start the optimizer anew."
            )


def _require_shapes(entry: Entry, run: TorchRun) -> None:
    for source in entry.sources:
        for key, array in run.moments.get(source.name, {}).items():
            if array.shape != source.shape:
                raise ValueError(
                    f"A moment has the shape of its tensor. {source.name} has {source.shape}, its "
                    f"`{key}` {array.shape}. Are `names` in the optimizer's order?"
                )


def _require_one(names: tuple[str, ...], entry: Entry, run: TorchRun) -> None:
    """Raises a `ValueError` unless what becomes one leaf is trained as one."""
    size = math.prod(next(s.shape for s in entry.sources if s.name == names[0]))
    alike = all(_alike(run, names[0], name) for name in names[1:])
    if not alike or size != sum(math.prod(place.shape) for place in entry.targets):
        raise ValueError(
            f"{', '.join(names)} become {', '.join(map(str, entry.targets))}, and torch trains "
            "them apart: their moments or hyper-parameters differ. Freeze all but one in torch."
        )


def _alike(run: TorchRun, first: str, second: str) -> bool:
    """True if two tensors have been trained as one, up to rounding."""
    groups, moments = run.group_of(), (run.moments[first], run.moments[second])
    return (
        groups[first].hyperparameters == groups[second].hyperparameters
        and moments[0].keys() == moments[1].keys()
        and all(_close(array, moments[1][key]) for key, array in moments[0].items())
    )


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    largest = np.max(np.abs(one), initial=0.0)
    return bool(np.all(np.abs(one - other) <= 1e3 * np.finfo(one.dtype).eps * largest))


def _together(group: TorchGroup, number: int) -> TorchGroup:
    """The group that trains the sum of several tensors as `group` trains each of them.

    All have the gradient of the sum, which moves by the steps of all. Its decay adds up from theirs
    and must not grow with their number.
    """
    if number == 1:
        return group
    held = group.hyperparameters
    changed = {"lr": number * held["lr"], "weight_decay": held["weight_decay"] / number}
    return group._replace(hyperparameters={**held, **changed})


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return array if factor == 1.0 else (array * np.float64(factor)).astype(array.dtype)
