"""A conversion as a list of entries, computed from names and shapes alone."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmup.bridge._layouts import Array, Layout, Shape


class Place(NamedTuple):
    """A leaf of Flax, or one row of a leaf that stacks layers.

    Args:
      path: of the leaf, such as `"blocks/attention/query/kernel"`.
      row: index into its leading axes; empty for the whole leaf.
      shape: of what stands there.
    """

    path: str
    row: tuple[int, ...]
    shape: Shape

    def __str__(self) -> str:
        return self.path + (str(list(self.row)) if self.row else "")


class Source(NamedTuple):
    """A tensor of PyTorch: its name, shape and dtype."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """Which tensors become which leaves, and how: `targets = factor · layout(sources)`.

    Args:
      sources: tensors of PyTorch; several where they are tied, or are the two biases of a cell.
      targets: leaves of Flax; several where PyTorch packs them in one tensor; none for a tensor
        that Flax has no place for.
      layout: the transform.
      factor: multiplier of PyTorch's layer over that of Flax's, which keeps the effective weight;
        dimensionless, 1.0 between layers without multipliers.
    """

    sources: tuple[Source, ...]
    targets: tuple[Place, ...]
    layout: Layout
    factor: float = 1.0

    @property
    def transform(self) -> str:
        """What happens, in words."""
        name = self.layout.name
        if len(self.targets) > 1:
            name = f"{name}, cut in {len(self.targets)}"
        return name if self.factor == 1.0 else f"{name}, times {self.factor:g}"

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """What the targets get from the arrays of the sources."""
        moved = self.layout.forward(arrays, [place.shape for place in self.targets])
        return [_scaled(array, self.factor) for array in moved]

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """What the sources get from the arrays of the targets."""
        shapes = [source.shape for source in self.sources]
        arrays = [_scaled(array, 1 / self.factor) for array in arrays]
        return self.layout.backward(arrays, shapes, self.sources[0].dtype)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `jaxmup.bridge.plan` returns: a conversion that can be looked at, run and turned around.

    Args:
      entries: what becomes of what. Every tensor and every leaf is in exactly one, a leaf that
        stacks layers once for each row.
      shapes: of the leaves, by path.
    """

    entries: tuple[Entry, ...]
    shapes: Mapping[str, Shape]

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Source, target, shapes and transform of each entry, in words."""
        for entry in self.entries:
            yield (
                ", ".join(source.name for source in entry.sources),
                ", ".join(map(str, entry.targets)) or "(none)",
                f"{_shapes(s.shape for s in entry.sources)} → "
                f"{_shapes(p.shape for p in entry.targets) or '(none)'}",
                entry.transform,
            )

    def __str__(self) -> str:
        rows = list(self.rows())
        widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def forward(self, read: Callable[[str], Array]) -> dict[str, Array]:
        """The leaves by path, from a function that reads a tensor by its name.

        Serves anything that goes along with the tensors, such as the moments of an optimizer.
        """
        leaves: dict[str, Array] = {}
        for entry in self.entries:
            moved = entry.forward([read(source.name) for source in entry.sources])
            for place, array in zip(entry.targets, moved, strict=True):
                put(leaves, place, self.shapes[place.path], array)
        return leaves

    def backward(self, read: Callable[[str], Array]) -> dict[str, Array]:
        """The tensors by name, from a function that reads a leaf by its path."""
        tensors: dict[str, Array] = {}
        for entry in self.entries:
            moved = entry.backward([read(place.path)[place.row] for place in entry.targets])
            tensors |= zip((source.name for source in entry.sources), moved, strict=True)
        return tensors


def put(leaves: dict[str, Array], place: Place, shape: Shape, array: Array) -> None:
    """Puts what a place gets into the leaves under construction."""
    if not place.row:
        leaves[place.path] = array
        return
    leaf = leaves.setdefault(place.path, np.empty(shape, array.dtype))
    if leaf.dtype != array.dtype:
        raise ValueError(
            f"The layers of a stack must have one dtype. {place} has {array.dtype}, those before "
            f"it {leaf.dtype}. Convert the checkpoint to one dtype."
        )
    leaf[place.row] = array


def _scaled(array: Array, factor: float) -> Array:
    """The product, rounded once in the array's dtype."""
    return array if factor == 1.0 else (array * np.float64(factor)).astype(array.dtype)


def _shapes(shapes: Iterable[Shape]) -> str:
    found = list(shapes)
    if len(found) > 1 and len(set(found)) == 1:
        return f"{len(found)} x {_shape(found[0])}"
    return ", ".join(map(_shape, found))


def _shape(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
