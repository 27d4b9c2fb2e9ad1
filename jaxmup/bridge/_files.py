"""Files to files, one tensor at a time."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxmup._parameter import gauge_move
from jaxmup._rules import Parametrization
from jaxmup._tree import listed
from jaxmup.bridge import _safetensors, _sources, _target
from jaxmup.bridge._convert import StateDict, converted, plan_of, reverted
from jaxmup.bridge._layouts import Shape
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._plan import Plan

Side = Literal["flax", "torch"]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion of a file that is ready to run.

    Args:
      plan: what becomes of what.
      to: which side is written.
      checkpoint: what is read.
      arrays: shape and dtype of what is written, by name.
    """

    plan: Plan
    to: Side
    checkpoint: _sources.Checkpoint
    arrays: dict[str, tuple[Shape, np.dtype[Any]]]

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        allow_nan: bool = False,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Writes the file, whole or not at all.

        Args:
          path: of the file, which ends in `.safetensors`.
          allow_nan: whether a tensor may hold NaN.
          progress: called with the number of entries that are done.

        Raises:
          OSError: if it cannot be written, or is a symbolic link; what was there is then as it was.
          ValueError: naming the file and the tensors, as `from_torch`.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"A converted file must end in .safetensors. Got {path}.")
        with _safetensors.writing(path, self.arrays, {"format": _FORMAT[self.to]}) as file:
            for done, entry in enumerate(self.plan.entries):
                if self.to == "flax":
                    moved = converted(entry, self.checkpoint, allow_nan=allow_nan)
                    for place, array in zip(entry.targets, moved, strict=True):
                        file.write(place.path, array, place.row)
                else:
                    moved = reverted(entry, self.checkpoint, allow_nan=allow_nan)
                    for source, array in zip(entry.sources, moved, strict=True):
                        file.write(source.name, array)
                progress(done + 1)


_FORMAT = {"flax": "flax", "torch": "pt"}  # the latter is what PyTorch's readers look for


def conversion(
    source: str | os.PathLike[str],
    target: Any,
    *,
    to: Side,
    like: StateDict | None = None,
    pairs: Pairs | None = None,
    gauge: Parametrization | None = None,
    specs: Any = None,
) -> Conversion:
    """What converting a file will do; nothing but headers is read, and nothing written.

    On Flax's side a file is of safetensors too, with the paths of the leaves for names, such as
    `"blocks/0/attention/query/kernel"`; `jaxmup.bridge.load` reads it.

    Args:
      source: the file; to Flax in any format that `from_torch` reads, to PyTorch one of leaves.
      target: the model of Flax, an NNX module or a tree of arrays; may be abstract.
      to: `"flax"` or `"torch"`.
      like: for the way to PyTorch, a state dict or a file with its names and shapes.
      pairs: see `from_torch`.
      gauge: the parametrization in whose gauge the leaves are; `None` for that of the model.
      specs: see `from_torch`.

    Raises:
      As `from_torch`; and `ValueError` if `like` is missing, or the file holds other leaves than
      the model.
    """
    opened = _target.read(target, specs)
    if gauge is not None:
        opened = in_gauge(opened, target, gauge, specs)
    checkpoint = _sources.open_checkpoint(source)
    if to == "flax":
        made = plan_of(checkpoint, opened, pairs)
        return Conversion(made, to, checkpoint, _leaves(made))
    if like is None:
        raise ValueError(
            "To write for PyTorch, its names and shapes must be known. Got no `like`: a state dict "
            "of the module, or a file of one."
        )
    _require_leaves(checkpoint, opened)
    made = plan_of(_sources.open_checkpoint(like), opened, pairs)
    dtypes = {leaf.name: leaf.dtype for leaf in checkpoint.sources}
    arrays = {
        source.name: (
            source.shape,
            dtypes[entry.targets[0].path] if entry.targets else source.dtype,
        )
        for entry in made.entries
        for source in entry.sources
    }
    return Conversion(made, to, checkpoint, arrays)


def in_gauge(
    opened: _target.Target, model: Any, gauge: Parametrization, specs: Any
) -> _target.Target:
    """The leaves with the multipliers of another gauge.

    Raises:
      ValueError: if no specs are known, or `gauge` is another physics than the layers'.
    """
    by_path = _target.specs_by_path(model, specs)
    if not by_path:
        raise ValueError(
            "Weights move between gauges by their specs, and this model has none. Build it of "
            "jaxmup's layers, or pass `specs`."
        )
    leaves = tuple(
        leaf
        if (spec := by_path.get(leaf.path)) is None
        else leaf._replace(multiplier=gauge_move(spec, gauge).multiplier)
        for leaf in opened.leaves
    )
    return opened._replace(leaves=leaves)


def _leaves(made: Plan) -> dict[str, tuple[Shape, np.dtype[Any]]]:
    """Shape and dtype of each leaf that is written."""
    found: dict[str, tuple[Shape, np.dtype[Any]]] = {}
    for entry in made.entries:
        for place in entry.targets:
            dtype = entry.sources[0].dtype
            _, first = found.setdefault(place.path, (made.shapes[place.path], dtype))
            if first != dtype:
                raise ValueError(
                    f"The layers of a stack must have one dtype. {entry.sources[0].name} for "
                    f"{place} has {dtype}, those before it {first}."
                )
    return found


def _require_leaves(checkpoint: _sources.Checkpoint, opened: _target.Target) -> None:
    held = {s.name: s.shape for s in checkpoint.sources}
    asked = {leaf.path: leaf.shape for leaf in opened.leaves}
    wrong = [
        f"{name}: {held.get(name, 'not there')} in the file, {asked.get(name, 'not there')} in "
        "the model"
        for name in [*asked, *(n for n in held if n not in asked)]
        if held.get(name) != asked.get(name)
    ]
    if wrong:
        raise ValueError(f"{checkpoint.where} must hold the leaves of the model:{listed(wrong)}")
