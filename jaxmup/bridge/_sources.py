"""Tensors of PyTorch, from a state dict or a file of one."""

import json
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxmup._check import listed
from jaxmup.bridge import _pickle, _safetensors
from jaxmup.bridge._plan import Source
from jaxmup.bridge._tensors import TensorLike, TorchTensor, dtype_of, shape_of, to_numpy

INDEX = ".index.json"
_NAMED_IN_ERRORS = 8  # tensors, of a file that may hold thousands


StateDict: TypeAlias = Mapping[str, TensorLike]
StateDictOrFile: TypeAlias = StateDict | str | os.PathLike[str]


class Checkpoint(NamedTuple):
    """Tensors that can be read one at a time.

    Args:
      where: File that holds them, for messages; empty for a state dict.
      sources: Names, shapes and dtypes of the tensors.
      read: Function from the name of a tensor to its values, a view of a memory-mapped file where
        there is one.
      tied: Names of tensors that share their memory.
      files: Every file that is read, which none that is written may replace.
    """

    where: str
    sources: tuple[Source, ...]
    read: Callable[[str], np.ndarray]
    tied: tuple[tuple[str, ...], ...] = ()
    files: tuple[Path, ...] = ()


def open_checkpoint(source: StateDictOrFile) -> Checkpoint:
    """Opens a state dict, or a file: safetensors, an index of them, or one of `torch.save`.

    Raises:
      OSError: if a file cannot be read.
      TypeError: if `source` is neither a mapping of tensors nor a path.
      ValueError: naming the file and what is wrong with it.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"A state dict must be a mapping or a file. Got {type(source).__name__}.")
    path = Path(source)
    if path.name.endswith(INDEX):
        return _from_index(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return _from_mapping(_pickle.load(path), where=str(path))._replace(files=(path,))
    raise ValueError(
        f"A checkpoint must end in .safetensors, {INDEX}, .pt, .pth or .bin. Got {path}."
    )


def with_aliases(checkpoint: Checkpoint, aliases: Mapping[str, str]) -> Checkpoint:
    """The checkpoint with tensors that it holds under one of their names under the others too.

    Args:
      checkpoint: The checkpoint.
      aliases: Name that the checkpoint has, by the name that it lacks.

    Raises:
      ValueError: if it has both, or neither.
    """
    held = {source.name: source for source in checkpoint.sources}
    wrong = [
        f"{alias} is {name}, and {alias} is there itself" if alias in held else f"{alias} is {name}"
        for alias, name in aliases.items()
        if alias in held or name not in held
    ]
    if wrong:
        raise ValueError(
            f"A second name must be that of a tensor which is there, and be none itself. Got"
            f"{listed(wrong)}"
        )
    if not aliases:
        return checkpoint
    return checkpoint._replace(
        sources=(*checkpoint.sources, *(held[n]._replace(name=a) for a, n in aliases.items())),
        read=lambda name: checkpoint.read(aliases.get(name, name)),
        tied=(*checkpoint.tied, *((name, alias) for alias, name in aliases.items())),
    )


def require_one(
    tied: Iterable[tuple[str, ...]], read: Callable[[str], np.ndarray], names: Collection[str]
) -> None:
    """Refuses tensors that are one in PyTorch and of which each has another value.

    Args:
      tied: Names of tensors that share their memory.
      read: Function from the name of a tensor to its value.
      names: Names of the tensors that have one.

    Raises:
      ValueError: naming them.
    """
    for group in tied:
        first, *others = [name for name in group if name in names] or [""]
        wrong = [name for name in others if not _same(read(first), read(name))]
        if wrong:
            raise ValueError(
                f"{', '.join([first, *wrong])} are one tensor in PyTorch, and their layers of Flax "
                "hold different values: they were trained apart. Convert to a module of PyTorch "
                "that has a tensor for each."
            )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _from_mapping(state: StateDict, where: str = "") -> Checkpoint:
    wrong = [f"{k!r}: {type(v).__name__}" for k, v in state.items() if not _is_tensor(k, v)]
    if wrong:
        prefix = f"{where}: " if where else ""
        raise ValueError(
            f"{prefix}A state dict must map names to tensors. Got "
            f"{', '.join(wrong[:_NAMED_IN_ERRORS])}. "
            "Pass the state dict alone, such as checkpoint['model']."
        )
    sources = []
    for name, tensor in state.items():
        with naming(where, name):
            sources.append(Source(name, shape_of(tensor), dtype_of(tensor)))
    return Checkpoint(where, tuple(sources), lambda name: to_numpy(state[name]), _tied(state))


def _is_tensor(name: object, value: object) -> bool:
    if getattr(value, "is_nested", False):  # a tensor, whose shape raises; see `shape_of`
        return isinstance(name, str)
    return isinstance(name, str) and hasattr(value, "shape") and hasattr(value, "dtype")


def _tied(state: StateDict) -> tuple[tuple[str, ...], ...]:
    """The names of equal memory; arrays of numpy and tensors of PyTorch say where theirs is."""
    by_place: dict[Hashable, list[str]] = {}
    for name, tensor in state.items():
        by_place.setdefault(_memory(tensor), []).append(name)
    return tuple(tuple(names) for names in by_place.values() if len(names) > 1)


def _memory(tensor: TensorLike) -> Hashable:
    """Equal for tensors that are the same elements, which may be several objects in PyTorch."""
    if not hasattr(tensor, "data_ptr"):
        return id(tensor)
    held: TorchTensor = tensor
    if str(held.device) == "meta" or str(held.layout) != "torch.strided":
        return id(held)  # there is no one memory, and its address is 0 or an error
    # A view of part of the elements begins at the same address, so shape and strides belong to it.
    return held.data_ptr(), tuple(held.shape), tuple(held.stride())


def _from_safetensors(path: Path) -> Checkpoint:
    file = _safetensors.Reader(path)
    tied = _tied_by_aliases([file])
    return Checkpoint(str(path), file.sources, file.read, tied, files=(path,))


def _from_index(path: Path) -> Checkpoint:
    """Shards with an index, as Hugging Face saves them."""
    shard_of = _weight_map(path)
    files = {name: _safetensors.Reader(path.parent / name) for name in sorted({*shard_of.values()})}
    found = {s.name: (s, file) for file in files.values() for s in file.sources}
    for name, shard in shard_of.items():
        if name not in found or found[name][1] is not files[shard]:
            raise ValueError(f"{path}: {name} must be in {shard}, and is not.")
    aliases = {alias for file in files.values() for alias in file.aliases}
    if extra := [name for name in found if name not in shard_of and name not in aliases]:
        raise ValueError(
            f"{path}: the shards hold tensors that the index lacks: {extra[:_NAMED_IN_ERRORS]}."
        )
    sources = tuple(found[name][0] for name in (*shard_of, *sorted(aliases)))
    tied = _tied_by_aliases(files.values())
    read = (path, *(path.parent / name for name in files))
    return Checkpoint(str(path), sources, lambda name: found[name][1].read(name), tied, files=read)


def _tied_by_aliases(files: Iterable[_safetensors.Reader]) -> tuple[tuple[str, ...], ...]:
    """The names of each tensor that has several."""
    names: dict[str, list[str]] = {}
    for file in files:
        for alias, name in file.aliases.items():
            names.setdefault(name, [name]).append(alias)
    return tuple(map(tuple, names.values()))


def _weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor by an index."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: an index must be JSON. {error}") from None
    shard_of = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(v, str) for v in shard_of.values()):
        raise ValueError(f"{path}: an index must have a `weight_map` from tensors to files.")
    for shard in shard_of.values():
        # An index may come from anywhere and must not lead out of its folder.
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"{path}: a shard must be a .safetensors file beside it. Got {shard!r}."
            )
    return shard_of


@contextmanager
def naming(where: str, names: str) -> Iterator[None]:
    """Puts the file and the tensors in front of an error."""
    try:
        yield
    except ValueError as error:
        prefix = ": ".join(filter(None, (where, names)))
        raise ValueError(f"{prefix}: {error}" if prefix else str(error)) from None


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a file, as arrays of numpy; see `from_torch` for the formats.

    Values are memory-mapped where the format allows it.

    Args:
      path: Path of the file.

    Raises:
      OSError: if the file cannot be read.
      ValueError: naming the file, if it is damaged or holds more than tensors.

    Example:
      >>> import tempfile
      >>> from jaxmup import bridge
      >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
      >>> bridge.save(path, {"weight": np.ones(2)})
      >>> bridge.load(path)["weight"].tolist()
      [1.0, 1.0]
    """
    checkpoint = open_checkpoint(path)
    arrays = {}
    for source in checkpoint.sources:
        with naming(checkpoint.where, source.name):
            arrays[source.name] = checkpoint.read(source.name)
    return arrays
