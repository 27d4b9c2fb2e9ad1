"""A conversion as a list of entries, computed from names and shapes alone."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmup.bridge._layouts import Layout, Shape, shown


class Part(NamedTuple):
    """Some of the outputs of a leaf that holds several layers: in each of its groups the same.

    Args:
      name: Name of the layer.
      start: First output of the layer in a group.
      stop: The one behind its last.
      groups: Number of groups.
    """

    name: str
    start: int
    stop: int
    groups: int


class Place(NamedTuple):
    """A leaf of Flax, one row of a leaf that stacks layers, or some of its outputs.

    Args:
      path: Path of the leaf, such as `"blocks/attention/query/kernel"`.
      row: Index into the leading axes of the leaf; empty for the whole leaf.
      shape: Shape of the leaf, of the row, or of the outputs behind the inputs, if there are any.
      part: The outputs that it is, of a leaf that holds several layers; `None` for all.
    """

    path: str
    row: tuple[int, ...]
    shape: Shape
    part: Part | None = None

    def of(self, leaf: np.ndarray) -> np.ndarray:
        """The part of a leaf that stands at this place.

        Example:
          >>> kernel = np.arange(8).reshape(2, 4)  # two groups of two layers with one output each
          >>> Place("kernel", (), (2, 2), Part("key", 1, 2, 2)).of(kernel).tolist()
          [[1, 3], [5, 7]]
        """
        return leaf[self.row] if self.part is None else self._of_part(leaf).reshape(self.shape)

    def fill(self, leaf: np.ndarray, array: np.ndarray) -> None:
        """Puts an array at this place of a leaf."""
        if self.part is None:
            leaf[self.row] = array
        else:
            outputs = self._of_part(leaf)
            outputs[...] = array.reshape(outputs.shape)

    def _of_part(self, leaf: np.ndarray) -> np.ndarray:
        """A view of the outputs (*inputs, groups, outputs of a group)."""
        assert self.part is not None
        row, inputs = leaf[self.row], self.shape[:-1]
        grouped = row.reshape(*inputs, self.part.groups, -1)
        return grouped[..., self.part.start : self.part.stop]

    def __str__(self) -> str:
        name = f"{self.path}[{self.part.name}]" if self.part else self.path
        return name + (str(list(self.row)) if self.row else "")


class Source(NamedTuple):
    """A tensor of PyTorch: its name, shape and dtype."""

    name: str
    shape: Shape
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Entry:
    """Tensors that become leaves: `targets = factor · layout(sources)`.

    Args:
      sources: Tensors of PyTorch; several where they are tied, or are the two biases of a cell.
      targets: Leaves of Flax; several where PyTorch packs them in one tensor; none for a tensor
        that Flax has no place for.
      layout: Transform from one framework's arrays to the other's.
      factor: Multiplier of PyTorch's layer over that of Flax's, which keeps the effective weight;
        dimensionless, 1.0 between layers without multipliers.
    """

    sources: tuple[Source, ...]
    targets: tuple[Place, ...]
    layout: Layout
    factor: float = 1.0

    @property
    def reads(self) -> tuple[Source, ...]:
        """The tensors whose arrays `forward` takes."""
        return self.sources

    @property
    def reads_back(self) -> tuple[Place, ...]:
        """The places whose arrays `backward` takes."""
        return self.targets

    @property
    def transform(self) -> str:
        """The transform in words."""
        name = self.layout.name
        if len(self.targets) > 1:
            name = f"{name}, cut in {len(self.targets)}"
        return name if self.factor == 1.0 else f"{name}, times {self.factor:g}"

    def forward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of the targets, from those of `reads`."""
        moved = self.layout.forward(arrays, [place.shape for place in self.targets])
        return [_scaled(array, self.factor) for array in moved]

    def backward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of the sources, from those of `reads_back`."""
        shapes = [source.shape for source in self.sources]
        arrays = [_scaled(array, 1 / self.factor) for array in arrays]
        return self.layout.backward(arrays, shapes, self.sources[0].dtype)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversion that can be looked at, run and turned around; `jaxmup.bridge.plan` makes it.

    Args:
      entries: Tensors with the leaves that they become. Every tensor and every leaf that is not
        kept is in exactly one entry, a leaf that holds several layers once for each.
      shapes: Shape of each leaf by path.
      kept: Paths of the leaves that keep the values of the model.
      notes: What a person should look at: what names and shapes leave open, and settings that
        differ.
      unsaid: What outputs depend on, no tensor holds, and nothing here could compare.
      tied: Names of tensors that are one in PyTorch.
    """

    entries: tuple[Entry, ...]
    shapes: Mapping[str, Shape]
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()

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
        for path in self.kept:
            yield "(none)", path, f"(none) → {shown(self.shapes[path])}", "kept"

    def __str__(self) -> str:
        rows = list(self.rows())
        widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self.remarks()])

    def remarks(self) -> list[str]:
        """The notes and what is not said by tensors, a line each."""
        return [
            *(f"Look at this: {note}" for note in self.notes),
            *(f"Not in the tensors: {line}" for line in self.unsaid),
        ]

    def forward(self, read: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
        """The leaves by path, from a function that reads a tensor by its name.

        Serves anything that goes along with the tensors, such as the moments of an optimizer.
        """
        return self.leaves(lambda e: e.forward([read(source.name) for source in e.reads]))

    def leaves(self, convert: Callable[[Entry], Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
        """The leaves by path, from a function that makes the arrays of the targets of an entry."""
        found: dict[str, np.ndarray] = {}
        for entry in self.entries:
            for place, array in zip(entry.targets, convert(entry), strict=True):
                put(found, place, self.shapes[place.path], array)
        return found

    def backward(self, read: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors by name, from a function that reads a leaf by its path."""
        tensors: dict[str, np.ndarray] = {}
        for entry in self.entries:
            moved = entry.backward([place.of(read(place.path)) for place in entry.reads_back])
            tensors |= zip((source.name for source in entry.sources), moved, strict=True)
        return tensors


def put(leaves: dict[str, np.ndarray], place: Place, shape: Shape, array: np.ndarray) -> None:
    """Puts the array of a place into the leaves under construction."""
    if not place.row and place.part is None:
        leaves[place.path] = array
        return
    leaf = leaves.setdefault(place.path, np.empty(shape, array.dtype))
    if leaf.dtype != array.dtype:
        raise ValueError(
            f"The layers of one leaf must have one dtype. {place} has {array.dtype}, those before "
            f"it {leaf.dtype}. Convert the checkpoint to one dtype."
        )
    place.fill(leaf, array)


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    """The product, rounded once to the array's dtype."""
    # A Python float would be rounded to bfloat16 before the product, and the product again.
    return array if factor == 1.0 else (array * np.float64(factor)).astype(array.dtype)


def _shapes(shapes: Iterable[Shape]) -> str:
    found = list(shapes)
    if len(found) > 1 and len(set(found)) == 1:
        return f"{len(found)} x {shown(found[0])}"
    return ", ".join(map(shown, found))
