"""Where tensors of PyTorch come from: a state dict, or a file of one."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxmup import _extras
from jaxmup.bridge import _pickle, _safetensors
from jaxmup.bridge._layouts import Array
from jaxmup.bridge._plan import Source

INDEX = ".index.json"


class Checkpoint(NamedTuple):
    """Tensors that can be read one at a time.

    Args:
      where: the file, for messages; empty for a state dict.
      sources: the tensors.
      read: the values of a tensor by its name, a view of a memory-mapped file where there is one.
      tied: names of tensors that share their memory.
    """

    where: str
    sources: tuple[Source, ...]
    read: Callable[[str], Array]
    tied: tuple[tuple[str, ...], ...] = ()


def open_checkpoint(source: Any) -> Checkpoint:
    """Opens a state dict, or a file: safetensors, an index of them, or one of `torch.save`.

    Raises:
      OSError: if a file cannot be read.
      TypeError: if `source` is neither a mapping of tensors nor a path.
      ValueError: naming the file and what is wrong with it.
    """
    if isinstance(source, Mapping):
        return from_mapping(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"A state dict must be a mapping or a file. Got {type(source).__name__}.")
    path = Path(source)
    if path.name.endswith(INDEX):
        return _from_index(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return from_mapping(_pickle.load(path), where=str(path))
    raise ValueError(
        f"A checkpoint must end in .safetensors, {INDEX}, .pt, .pth or .bin. Got {path}."
    )


def from_mapping(state: Mapping[Any, Any], where: str = "") -> Checkpoint:
    """A state dict of tensors of PyTorch, or of arrays; what has no values has shapes at least."""
    wrong = [f"{k!r}: {type(v).__name__}" for k, v in state.items() if not _is_tensor(k, v)]
    if wrong:
        prefix = f"{where}: " if where else ""
        raise ValueError(
            f"{prefix}A state dict must map names to tensors. Got {', '.join(wrong[:8])}. "
            "Pass the state dict alone, such as checkpoint['model']."
        )
    sources = tuple(Source(n, tuple(t.shape), _dtype(t)) for n, t in state.items())
    return Checkpoint(where, sources, lambda name: to_numpy(state[name]), _tied(state))


def _is_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and hasattr(value, "shape") and hasattr(value, "dtype")


def _dtype(tensor: Any) -> np.dtype[Any]:
    name = str(tensor.dtype).removeprefix("torch.")
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def to_numpy(tensor: Any) -> Array:
    """The values of a tensor of PyTorch, or of any array; shared where that is possible."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu().contiguous()
    dtype = _dtype(tensor)
    if dtype.isbuiltin == 1:
        return tensor.numpy()
    # numpy has no bfloat16 of its own: the bytes are taken over.
    raw = tensor.reshape(-1).view(_torch_integer(dtype.itemsize)).numpy()
    return raw.view(dtype).reshape(tuple(tensor.shape))


def _torch_integer(size: int) -> Any:
    torch = _extras.require("torch", "A tensor of PyTorch", "torch")
    return {1: torch.uint8, 2: torch.int16}[size]


def _tied(state: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The names of equal memory; arrays of numpy and tensors of PyTorch say where theirs is."""
    by_place: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        if hasattr(tensor, "data_ptr") and str(tensor.device) != "meta":
            place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        else:
            place = id(tensor)
        by_place.setdefault(place, []).append(name)
    return tuple(tuple(names) for names in by_place.values() if len(names) > 1)


def _from_safetensors(path: Path) -> Checkpoint:
    file = _safetensors.File(path)
    return Checkpoint(str(path), file.sources, file.read)


def _from_index(path: Path) -> Checkpoint:
    """Shards with an index, as Hugging Face saves them."""
    names = _weight_map(path)
    files = {shard: _safetensors.File(path.parent / shard) for shard in sorted(set(names.values()))}
    found = {s.name: (s, file) for file in files.values() for s in file.sources}
    for name, shard in names.items():
        if name not in found or found[name][1] is not files[shard]:
            raise ValueError(f"{path}: {name} must be in {shard}, and is not.")
    if extra := [name for name in found if name not in names]:
        raise ValueError(f"{path}: the shards hold tensors that the index lacks: {extra[:8]}.")
    sources = tuple(found[name][0] for name in names)
    return Checkpoint(str(path), sources, lambda name: found[name][1].read(name))


def _weight_map(path: Path) -> dict[str, str]:
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: an index must be JSON. {error}") from None
    names = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise ValueError(f"{path}: an index must have a `weight_map` from tensors to files.")
    for shard in names.values():
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"{path}: a shard must be a .safetensors file beside it. Got {shard!r}."
            )
    return names


@contextmanager
def naming(where: str, names: str) -> Iterator[None]:
    """Puts the file and the tensors in front of an error."""
    try:
        yield
    except ValueError as error:
        prefix = ": ".join(filter(None, (where, names)))
        raise ValueError(f"{prefix}: {error}" if prefix else str(error)) from None


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of a file, as arrays of numpy; see `from_torch` for the formats.

    Values are memory-mapped where the format allows it.

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
    return {source.name: checkpoint.read(source.name) for source in checkpoint.sources}


def as_tensors(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Tensors of PyTorch with the values of arrays, for `load_state_dict`.

    Mappings in the state are converted too; what is neither stays as it is.

    Raises:
      ModuleNotFoundError: if PyTorch is not installed.
    """
    torch = _extras.require("torch", "A tensor of PyTorch", "torch")

    def tensor(array: Array) -> Any:
        array = np.array(array)  # its own memory, that PyTorch may write to
        if array.dtype.isbuiltin == 1:
            return torch.from_numpy(array)
        raw = torch.from_numpy(array.view(f"u{array.itemsize}" if array.itemsize == 1 else "i2"))
        return raw.view(getattr(torch, array.dtype.name))

    def converted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: converted(held) for name, held in value.items()}
        return tensor(value) if isinstance(value, np.ndarray) else value

    return converted(state)
