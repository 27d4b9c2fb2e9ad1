"""Files to files, one tensor at a time."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from flax import nnx

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._files import require_replaceable
from jaxmup._parameter import gauge_move
from jaxmup._parametrization import Parametrization
from jaxmup._tree import Specs, Tree
from jaxmup.bridge import _pairs, _safetensors
from jaxmup.bridge._convert import converted, held, opened_by, plan_of, reverted
from jaxmup.bridge._flax_model import FlaxModel, open_model
from jaxmup.bridge._model_settings import Settings
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._plan import Place, Plan, put
from jaxmup.bridge._safetensors import ShapeDtype, Writer
from jaxmup.bridge._sources import Checkpoint, StateDictOrFile, open_checkpoint, require_one

Side: TypeAlias = Literal["flax", "torch"]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion of a file that is ready to run.

    Args:
      plan: Tensors with the leaves that they become.
      to: Side that is written.
      checkpoint: File that is read.
      arrays: Shape and dtype of each array that is written, by name.
      inputs: Every file that is read, none of which is replaced.
      tied: Names of tensors of PyTorch that are one, and must have one value.
    """

    plan: Plan
    to: Side
    checkpoint: Checkpoint
    arrays: Mapping[str, ShapeDtype]
    inputs: tuple[Path, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()

    def require_destination(self, path: str | os.PathLike[str]) -> None:
        """Refuses a path that cannot be written, or is a file that is read.

        Raises:
          OSError: if a symbolic link, a folder or a device stands there, or there is no folder.
          ValueError: if it does not end in `.safetensors`, or is a file that is read.
        """
        path = Path(path)
        _safetensors.require_suffix(path)
        require_replaceable(path, self.inputs)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"A file must be written into a folder. {path.parent} is none.")

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        allow_nan: bool = False,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Writes the file, whole or not at all.

        Args:
          path: Path of the file, which ends in `.safetensors`.
          allow_nan: Whether a tensor may hold NaN.
          progress: Function that is called with the number of entries that are done.

        Raises:
          OSError: if it cannot be written, or is a symbolic link; what was there is then as it was.
          ValueError: naming the file and the tensors, as `from_torch`; or if it is one of the files
            that are read.
        """
        self.require_destination(path)
        if self.to == "torch":
            require_one(self.tied, self._tensor, held(self.plan))
        metadata = {"format": _FORMAT[self.to]}
        with _safetensors.writing(Path(path), self.arrays, metadata, self.inputs) as file:
            whole = _Whole(self.plan, file)
            for done, entry in enumerate(self.plan.entries):
                if self.to == "flax":
                    moved = converted(entry, self.checkpoint, allow_nan=allow_nan)
                    for place, array in zip(entry.targets, moved, strict=True):
                        whole.write(place, array)
                else:
                    moved = reverted(entry, self.checkpoint, allow_nan=allow_nan)
                    for source, array in zip(entry.sources, moved, strict=True):
                        if source.name in self.arrays:  # a second name is none of the file's
                            file.write(source.name, array)
                progress(done + 1)

    def _tensor(self, name: str) -> np.ndarray:
        """A tensor of PyTorch, from the leaves."""
        for entry in self.plan.entries:
            names = [source.name for source in entry.sources]
            if name in names:
                return reverted(entry, self.checkpoint, allow_nan=True)[names.index(name)]
        raise KeyError(name)


class _Whole:
    """Writes leaves; one that holds several layers side by side when all of them are there."""

    def __init__(self, plan: Plan, file: Writer):
        places = [place for entry in plan.entries for place in entry.targets]
        self._missing = Counter(place.path for place in places if place.part)
        self._held: dict[str, np.ndarray] = {}
        self._shapes, self._file = plan.shapes, file

    def write(self, place: Place, array: np.ndarray) -> None:
        if place.path not in self._missing:
            self._file.write(place.path, array, place.row)
            return
        put(self._held, place, self._shapes[place.path], array)
        self._missing[place.path] -= 1
        if not self._missing[place.path]:
            self._file.write(place.path, self._held.pop(place.path))


_FORMAT = {"flax": "flax", "torch": "pt"}  # PyTorch's readers look for the latter


def conversion(
    source: str | os.PathLike[str],
    model: nnx.Module | Tree,
    *,
    to: Side,
    like: StateDictOrFile | None = None,
    pairs: Pairs | None = None,
    parametrization: Parametrization | None = None,
    specs: Specs | None = None,
    settings: Settings | None = None,
) -> Conversion:
    """The conversion of a file; nothing but headers is read, and nothing written.

    On Flax's side a file is of safetensors too, with the paths of the leaves for names, such as
    `"blocks/0/attention/query/kernel"`; `jaxmup.bridge.load` reads it.

    Args:
      source: Path of the file that is read: on the way to Flax in any format that `from_torch`
        reads, on the way to PyTorch one of leaves.
      model: NNX module, or a tree with arrays; may be abstract.
      to: Side that is written, `"flax"` or `"torch"`.
      like: On the way to PyTorch, a state dict or a file with the names and shapes to write.
      pairs: Paths of Flax for names that don't say it themselves; see `from_torch`.
      parametrization: Parametrization in whose gauge the leaves are; `None` for that of the model.
      specs: For a tree, the `ParamSpec` of its parameters; see `from_torch`.
      settings: Module of PyTorch or configuration that says what no tensor holds; see `from_torch`.

    Raises:
      As `from_torch`; and `ValueError` if `like` is missing, or the file holds other leaves than
      the model.
    """
    _check.one_of("to", to, get_args(Side))
    opened = open_model(model, specs)
    if parametrization is not None:
        opened = in_gauge(opened, parametrization)
    if to == "flax":
        checkpoint = opened_by(pairs, source)
        made = plan_of(checkpoint, opened, pairs, settings=settings)
        return Conversion(made, to, checkpoint, _leaves(made), checkpoint.files)
    if like is None:
        raise ValueError(
            "To write for PyTorch, its names and shapes must be known. Got no `like`: a state dict "
            "of the module, or a file of one."
        )
    checkpoint, named = open_checkpoint(source), opened_by(pairs, like)
    made = plan_of(named, opened, pairs, settings=settings)
    _require_leaves(checkpoint, opened, made.kept)
    inputs = (*checkpoint.files, *named.files)
    second = _pairs.aliases(pairs)
    tensors = {n: x for n, x in _tensors(made, checkpoint).items() if n not in second}
    return Conversion(made, to, checkpoint, tensors, inputs, named.tied)


def in_gauge(opened: FlaxModel, parametrization: Parametrization) -> FlaxModel:
    """The leaves with the multipliers of another gauge.

    Raises:
      ValueError: if no specs are known, or `parametrization` is another physics than the layers'.
    """
    if not opened.specs:
        raise ValueError(
            "Weights move between gauges by their specs, and this model has none. Build it of "
            "jaxmup's layers, or pass `specs`."
        )
    leaves = tuple(
        leaf
        if (spec := opened.specs.get(leaf.path)) is None
        else leaf._replace(multiplier=gauge_move(spec, parametrization).multiplier)
        for leaf in opened.leaves
    )
    return opened._replace(leaves=leaves)


def _leaves(made: Plan) -> dict[str, ShapeDtype]:
    """Shape and dtype of each leaf that is written."""
    found: dict[str, ShapeDtype] = {}
    for entry in made.entries:
        for place in entry.targets:
            dtype = entry.sources[0].dtype
            leaf = found.setdefault(place.path, ShapeDtype(made.shapes[place.path], dtype))
            if leaf.dtype != dtype:
                raise ValueError(
                    f"The layers of one leaf must have one dtype. {entry.sources[0].name} for "
                    f"{place} has {dtype}, those before it {leaf.dtype}."
                )
    return found


def _tensors(made: Plan, leaves: Checkpoint) -> dict[str, ShapeDtype]:
    """Shape and dtype of each tensor that is written, from a file of leaves."""
    dtypes = {leaf.name: leaf.dtype for leaf in leaves.sources}
    return {
        source.name: ShapeDtype(
            source.shape, dtypes[entry.targets[0].path] if entry.targets else source.dtype
        )
        for entry in made.entries
        for source in entry.sources
    }


def _require_leaves(checkpoint: Checkpoint, opened: FlaxModel, kept: Sequence[str]) -> None:
    held = {s.name: s.shape for s in checkpoint.sources}
    asked = {leaf.path: leaf.shape for leaf in opened.leaves if leaf.path not in kept}
    wrong = [
        f"{name}: {held.get(name, 'not there')} in the file, {asked.get(name, 'not there')} in "
        "the model"
        for name in [*asked, *(n for n in held if n not in asked)]
        if held.get(name) != asked.get(name)
    ]
    if wrong:
        raise ValueError(f"{checkpoint.where} must hold the leaves of the model:{listed(wrong)}")
