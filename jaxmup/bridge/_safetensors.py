"""Files of safetensors: read one tensor at a time, written one array at a time."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxmup import _extras
from jaxmup.bridge._layouts import Array, Shape
from jaxmup.bridge._plan import Source

_REQUIREMENT = "'jaxmup[bridge]'"
DTYPES = MappingProxyType(
    {
        "F64": np.dtype("float64"),
        "F32": np.dtype("float32"),
        "F16": np.dtype("float16"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "I64": np.dtype("int64"),
        "I32": np.dtype("int32"),
        "I16": np.dtype("int16"),
        "I8": np.dtype("int8"),
        "U64": np.dtype("uint64"),
        "U32": np.dtype("uint32"),
        "U16": np.dtype("uint16"),
        "U8": np.dtype("uint8"),
        "BOOL": np.dtype("bool"),
    }
)
_PIECE = 2**25  # bytes
_NAMES = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})


class File:
    """The tensors of one file.

    The package `safetensors` checks the header. The values are read through a memory map of one
    tensor, which goes with the array: what has been converted takes no memory any more.

    Raises:
      OSError: if the file cannot be read.
      ValueError: naming the file, if it is no whole file of safetensors.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries, self._start = _header(path)
        self.sources = tuple(
            Source(name, tuple(entry["shape"]), _dtype(path, name, entry["dtype"]))
            for name, entry in self._entries.items()
        )

    def read(self, name: str) -> Array:
        """The values of a tensor."""
        entry = self._entries[name]
        first, last = entry["data_offsets"]
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        if first == last:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, "r", self._start + first, shape)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The entries of the header, and where the data begins."""
    safetensors = _extras.require("safetensors", "Reading safetensors", _REQUIREMENT)
    with path.open("rb"):  # an error of the system names the file
        pass
    try:
        with safetensors.safe_open(path, framework="np"):
            pass
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} must be a whole file of safetensors. {error}") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries: dict[str, Any] = json.loads(file.read(length), object_pairs_hook=_unique(path))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def _unique(path: Path) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"{path}: a header must name each tensor once. Twice: {twice}.")
        return found

    return pairs


def _dtype(path: Path, name: str, dtype: str) -> np.dtype[Any]:
    if dtype not in DTYPES:
        raise ValueError(f"{path}: {name} must have one of the dtypes {list(DTYPES)}. Got {dtype}.")
    return DTYPES[dtype]


class Writer:
    """A file under construction, of which any part can be written in any order."""

    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, Shape, np.dtype[Any]]]):
        self._file = file
        self._places = places

    def write(self, name: str, array: Array, row: tuple[int, ...] = ()) -> None:
        """Writes an array, or a row of it."""
        start, shape, dtype = self._places[name]
        if array.shape != shape[len(row) :] or array.dtype != dtype:
            raise ValueError(
                f"{name} must be {shape[len(row) :]} of {dtype}. Got {array.shape} of "
                f"{array.dtype}."
            )
        index = int(np.ravel_multi_index(row, shape[: len(row)])) if row else 0
        self._file.seek(start + index * array.nbytes)
        for part in _parts(array):
            self._file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)


@contextmanager
def writing(
    path: Path, arrays: Mapping[str, tuple[Shape, np.dtype[Any]]], metadata: Mapping[str, str] = {}
) -> Iterator[Writer]:
    """A file of safetensors that appears whole when all is written, or not at all.

    Args:
      path: of the file.
      arrays: shape and dtype of each array, by name.
      metadata: for the header.

    Raises:
      OSError: if it cannot be written, or is a symbolic link.
    """
    refuse_link(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"A file must be written into a folder. {path.parent} is none.")
    header, places = _layout(arrays, metadata)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header)
            end = max((s + _size(shape, dtype) for s, shape, dtype in places.values()), default=0)
            file.truncate(max(end, len(header)))
            yield Writer(file, places)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it 0o600
        refuse_link(path)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def refuse_link(path: Path) -> None:
    """Raises an `OSError` if a symbolic link stands where a file is to be written."""
    if path.is_symlink():
        raise OSError(
            f"A file must not be written through a symbolic link. {path} is one, to "
            f"{os.readlink(path)}. Name the file itself."
        )


def save(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Writes arrays to a file of safetensors, all or nothing; PyTorch and JAX read it alike.

    Raises:
      OSError: if it cannot be written, or is a symbolic link; what was there is then as it was.
      ValueError: if safetensors has no such dtype.

    Example:
      >>> from jaxmup import bridge
      >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
      >>> save(path, {"fc.weight": np.ones((3, 2), ml_dtypes.bfloat16)})
      >>> bridge.load(path)["fc.weight"].dtype
      dtype(bfloat16)
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    with writing(Path(path), shapes) as file:
        for name, array in arrays.items():
            file.write(name, array)


def _parts(array: Array) -> Iterator[Array]:
    """Consecutive pieces of an array, so that no transposed copy of a large one is made at once."""
    if array.ndim == 0 or array.nbytes <= _PIECE:
        yield array
        return
    rows = max(1, _PIECE * len(array) // array.nbytes)
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def _layout(
    arrays: Mapping[str, tuple[Shape, np.dtype[Any]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, Shape, np.dtype[Any]]]]:
    """The header, and for each array where it begins."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (shape, dtype) in _wide_first(arrays.items()):
        if dtype not in _NAMES:
            raise ValueError(f"{name} must have one of the dtypes {list(DTYPES)}. Got {dtype}.")
        end = offset + _size(shape, dtype)
        entries[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    start = 8 + len(text)
    places = {
        name: (start + entries[name]["data_offsets"][0], shape, dtype)
        for name, (shape, dtype) in arrays.items()
    }
    return len(text).to_bytes(8, "little") + text, places


def _wide_first(items: Iterable[tuple[str, tuple[Shape, np.dtype[Any]]]]) -> list[Any]:
    """Wide dtypes first, so that every array is aligned."""
    return sorted(items, key=lambda item: (-item[1][1].itemsize, item[0]))


def _size(shape: Shape, dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
