"""Layers of models of different depths that stand for one another.

As a network grows deeper, a layer's index says nothing, but the fraction of the depth where it
stands does: the residual stream is a function of that. Layer `i` of `L` reads the stream at `i / L`
and writes it at `(i + 1) / L`. So what is inside of a layer, and its parameters, are compared where
the stream that they read stands at one fraction of the depth: the first layer with the first. The
output of a whole layer is compared where the stream that it writes does: the last with the last.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmup._spec import ParamSpec
from jaxmup._tree import PathName
from jaxmup.coord_check._sums import Measured
from jaxmup.coord_check._training import owner

_NUMBERED = re.compile(r"(?<!\d)\d+(?=[/#[]|$)")  # at the end of a part of a path


def standing_for(layer: int, layers: int, of: int, *, writes: bool) -> int:
    """The index among `of` layers of the one that stands for one of fewer `layers`.

    Args:
      layer: Index among `layers`.
      layers: Number of layers of the smaller model.
      of: Number of layers of the larger one.
      writes: Whether layers are compared by where they write, not by where they read.

    Example:
      >>> [standing_for(i, 2, 8, writes=False) for i in range(2)]
      [0, 4]
      >>> [standing_for(i, 2, 8, writes=True) for i in range(2)]
      [3, 7]
    """
    return (layer + 1) * of // layers - 1 if writes else layer * of // layers


class Matched(NamedTuple):
    """The quantities of models whose layers are known by what they are compared with.

    Args:
      runs: Quantities of the model of each size, by the names of the shallowest.
      first: Names of those of the first layer of a list.
      whole: Names of the modules that are a layer of a list.
    """

    runs: list[list[Measured]]
    first: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


def matched(
    runs: Sequence[Sequence[Measured]], specs: Sequence[Mapping[PathName, ParamSpec]]
) -> Matched:
    """The quantities of the model of each size, by the names of what they are compared with.

    Lists of equal layers, whose number differs between the models, keep the names of the
    shallowest, and of the others the layers that stand for those. All else is as it was.

    Args:
      runs: Quantities of the model of each size.
      specs: Specs of its parameters by name.
    """
    numbers = _numbers_of_layers(specs)
    if not numbers:
        return Matched([list(run) for run in runs])
    shallowest = min(range(len(runs)), key=lambda i: min(of[i] for of in numbers.values()))
    layers = {one.name: _ListedLayer.of(one.name, numbers) for one in runs[shallowest]}
    found: list[list[Measured]] = []
    for i, run in enumerate(runs):
        by_key = {(one.quantity, one.name): one for one in run}
        pairs = [(one, layers[one.name]) for one in runs[shallowest]]
        keys = [(one, one.name if of is None else of.name_at(i)) for one, of in pairs]
        found.append(
            [
                dataclasses.replace(by_key[one.quantity, name], name=one.name)
                for one, name in keys
                if (one.quantity, name) in by_key
            ]
        )
    first = (name for name, of in layers.items() if of and not of.layer)
    whole = (owner(name) for name, of in layers.items() if of and of.writes)
    return Matched(found, frozenset(first), frozenset(whole))


class _ListedLayer(NamedTuple):
    """A value of a layer of a list.

    Args:
      prefix: Name up to the number of the layer.
      layer: Number of the layer in the shallowest model.
      rest: Name from there on.
      numbers: Number of layers in the model of each size.
      writes: Whether the value is the output of the whole layer.
    """

    prefix: str
    layer: int
    rest: str
    numbers: tuple[int, ...]
    writes: bool

    @classmethod
    def of(cls, name: str, numbers: Mapping[str, tuple[int, ...]]) -> "_ListedLayer | None":
        """The layer of a value; `None` if it is in none."""
        for found in _NUMBERED.finditer(name):
            prefix, end = name[: found.start()], found.end()
            if prefix in numbers:
                writes = owner(name) == name[:end]
                return cls(prefix, int(found.group()), name[end:], numbers[prefix], writes)
        return None

    def name_at(self, size: int) -> str:
        """The name at a size of what stands for the value."""
        of = self.numbers
        layer = standing_for(self.layer, min(of), of[size], writes=self.writes)
        return f"{self.prefix}{layer}{self.rest}"


def _numbers_of_layers(
    specs: Sequence[Mapping[PathName, ParamSpec]],
) -> dict[str, tuple[int, ...]]:
    """The number of layers in the model of each size, by what the layers' names begin with.

    Only of lists whose layers are equal, and whose number differs between the models.
    """
    of_sizes = [dict(_equal_layers(of_size)) for of_size in specs]
    everywhere = [prefix for prefix in of_sizes[0] if all(prefix in one for one in of_sizes)]
    numbers = {prefix: tuple(one[prefix] for one in of_sizes) for prefix in everywhere}
    return {prefix: of for prefix, of in numbers.items() if len(set(of)) > 1}


def _equal_layers(specs: Mapping[PathName, ParamSpec]) -> Iterator[tuple[str, int]]:
    """The beginning of the names of layers that hold the same parameters, and their number."""
    held: dict[str, dict[int, dict[str, tuple[tuple[int, ...], float]]]] = {}
    for name, spec in specs.items():
        for found in _NUMBERED.finditer(name):
            inside = held.setdefault(name[: found.start()], {}).setdefault(int(found.group()), {})
            inside[name[found.end() :]] = spec.shape, spec.depth_ratio
    for prefix, layers in held.items():
        first = next(iter(layers.values()))
        if {*layers} == {*range(len(layers))} and all(one == first for one in layers.values()):
            yield prefix, len(layers)


def of_layers(
    of_sizes: Sequence[Measured], step: int, whole: bool = False
) -> Iterable[tuple[int | None, np.ndarray]]:
    """The values of shape `(sizes, seeds)` of each layer of the model that has the fewest layers.

    Args:
      of_sizes: A quantity of the model of each size.
      step: Step of the training run.
      whole: Whether it is the output of a whole layer, which is compared by where it stands when it
        is written.
    """
    if not of_sizes[0].layered:
        yield None, np.stack([one.rms[:, step] for one in of_sizes]).astype(float)
        return
    numbers = [one.rms.shape[2] for one in of_sizes]
    for layer in range(min(numbers)):
        same = [standing_for(layer, min(numbers), of, writes=whole) for of in numbers]
        values = [one.rms[:, step, i] for one, i in zip(of_sizes, same, strict=True)]
        yield layer, np.stack(values).astype(float)


def whole_layers(run: Iterable[Measured]) -> frozenset[str]:
    """The modules of which a scan has stacked one for each layer and that are inside of no other.

    Args:
      run: Outputs of a model.
    """
    owners = {owner(one.name) for one in run if one.layered}
    return frozenset(
        name for name in owners if not any(name.startswith(f"{other}/") for other in owners)
    )
