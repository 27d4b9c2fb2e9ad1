"""Files of safetensors: read one tensor at a time, written one array at a time.

A file is eight bytes with the length of the header, the header, which is JSON with the dtype, shape
and place of every tensor, and the bytes of the tensors one after another.
"""

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypedDict

import ml_dtypes
import numpy as np

from jaxmup import _extras
from jaxmup._files import open_atomically
from jaxmup.bridge._layouts import Shape
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
_LONGEST_HEADER = 100_000_000  # bytes, as the package `safetensors` has it
_NAMES = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})


class ShapeDtype(NamedTuple):
    """Shape and dtype of an array that is to be written."""

    shape: Shape
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Slot(NamedTuple):
    """The part of a file that is for one array.

    Args:
      start: Byte of the file at which it begins.
      form: Shape and dtype of the array.
    """

    start: int
    form: ShapeDtype


class _Tensor(TypedDict):
    """The entry of one tensor in a header."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


class Reader:
    """The tensors of one file.

    The package `safetensors` checks the header. The values are read through a memory map of one
    tensor, which goes with the array: what has been converted takes no memory any more.

    Args:
      path: Path of the file.

    Attributes:
      aliases: Names that the header has for tensors which share their memory, with the name that
        the tensor is stored under.

    Raises:
      OSError: if the file cannot be read.
      ValueError: naming the file, if it is no whole file of safetensors, or an alias is of no
        tensor.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries, metadata, self._start = _header(path)
        self.aliases = _aliases(path, metadata, self._entries.keys())
        self._entries |= {alias: self._entries[name] for alias, name in self.aliases.items()}
        self.sources = tuple(
            Source(name, tuple(entry["shape"]), _dtype(path, name, entry["dtype"]))
            for name, entry in self._entries.items()
        )

    def read(self, name: str) -> np.ndarray:
        """The values of a tensor."""
        entry = self._entries[name]
        first, last = entry["data_offsets"]
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        if first == last:
            return np.empty(shape, dtype)  # of no elements, which no system maps
        # A map of its own for each tensor: one of the whole file would keep every page that was
        # read resident until the last array of it is gone.
        return np.memmap(self.path, dtype, "r", self._start + first, shape)


def _header(path: Path) -> tuple[dict[str, _Tensor], dict[str, str], int]:
    """The entries of the header, its metadata, and the byte at which the data begins."""
    safetensors = _extras.require("safetensors", "Reading safetensors", _REQUIREMENT)
    with path.open("rb"):  # an error of the system names the file; that of safetensors does not
        pass
    try:
        # It checks that the header is sound, and that the tensors fill the file without overlap or
        # gap: so what is read below by the header's word is inside the file.
        with safetensors.safe_open(path, framework="np"):
            pass
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} must be a whole file of safetensors. {error}") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length), object_pairs_hook=_once(path))
    metadata = entries.pop("__metadata__", None) or {}
    return entries, metadata, 8 + length


def _aliases(path: Path, metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Other names of stored tensors, as `safetensors.torch.save_model` notes them.

    The metadata may hold anything; a name of a weight or a bias is an alias.
    """
    aliases = {alias: name for alias, name in metadata.items() if name in names}
    for alias, name in metadata.items():
        if alias in aliases and alias in names:
            raise ValueError(
                f"{path}: a tensor must not be an alias as well. The metadata say that {alias} is "
                f"{name}, and the file holds both."
            )
        if alias not in aliases and _LOOKS_LIKE_A_TENSOR.fullmatch(alias):
            raise ValueError(
                f"{path}: an alias must be of a tensor in the file. The metadata say that {alias} "
                f"is {name}, which is not there."
            )
    return aliases


_LOOKS_LIKE_A_TENSOR = re.compile(r"(.+\.)?(weight|bias)")


def _once(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A hook that refuses JSON in which a name stands twice.

    Readers differ in which of the two they take, so such a file is two models.
    """

    def mapping(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"{path}: a header must name each tensor once. Twice: {twice}.")
        return found

    return mapping


def _dtype(path: Path, name: str, dtype: str) -> np.dtype:
    if dtype not in DTYPES:
        raise ValueError(f"{path}: {name} must have one of the dtypes {list(DTYPES)}. Got {dtype}.")
    return DTYPES[dtype]


class Writer:
    """A file under construction, of which any part can be written in any order."""

    def __init__(self, file: BinaryIO, slots: Mapping[str, _Slot]):
        self._file = file
        self._slots = slots

    def write(self, name: str, array: np.ndarray, row: tuple[int, ...] = ()) -> None:
        """Writes an array, or a row of it."""
        start, (shape, dtype) = self._slots[name]
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
    path: Path,
    arrays: Mapping[str, ShapeDtype],
    metadata: Mapping[str, str] = MappingProxyType({}),
    inputs: Iterable[Path] = (),
) -> Iterator[Writer]:
    """A file of safetensors that appears whole when all is written, or not at all.

    Args:
      path: Path of the file.
      arrays: Shape and dtype of each array, by name.
      metadata: Entries of the header that say what the file is.
      inputs: Files that the arrays are from, none of which is replaced.

    Raises:
      OSError: if it cannot be written, or is a symbolic link.
      TypeError: if a name is no string.
      ValueError: if safetensors has no such name or dtype, or the file is one of `inputs`.
    """
    header, slots = _laid_out(arrays, metadata)
    with open_atomically(path, inputs) as file:
        file.write(header)
        end = max((start + form.nbytes for start, form in slots.values()), default=0)
        # The full size at once: bytes that are never written are zeros, and take no room.
        file.truncate(max(end, len(header)))
        yield Writer(file, slots)


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a file of safetensors, all or nothing; PyTorch and JAX read it alike.

    Args:
      path: Path of the file, which ends in `.safetensors`.
      arrays: Arrays by name.

    Raises:
      OSError: if it cannot be written, or is a symbolic link; what was there is then as it was.
      TypeError: if a name is no string.
      ValueError: if the path ends otherwise, or safetensors has no such name or dtype.

    Example:
      >>> import tempfile
      >>> from jaxmup import bridge
      >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
      >>> save(path, {"fc.weight": np.ones((3, 2), ml_dtypes.bfloat16)})
      >>> bridge.load(path)["fc.weight"].dtype
      dtype(bfloat16)
    """
    require_suffix(path)
    held = {name: np.asarray(array) for name, array in arrays.items()}
    forms = {name: ShapeDtype(array.shape, array.dtype) for name, array in held.items()}
    with writing(Path(path), forms) as file:
        for name, array in held.items():
            file.write(name, array)


def require_suffix(path: str | os.PathLike[str]) -> None:
    """Refuses a path by whose ending no reader would know what the file is."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(
            f"A file of safetensors must end in .safetensors. Got {os.fspath(path)!r}."
        )


def _require_name(name: object) -> None:
    """Refuses a name that no reader of safetensors finds again."""
    if not isinstance(name, str):
        raise TypeError(f"The names of arrays must be strings. Got {name!r}.")
    if name == "__metadata__":
        raise ValueError(
            "No array may be named '__metadata__': there safetensors keeps what a file says about "
            "itself. Name it otherwise."
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The names of arrays must be text that UTF-8 can write. Got {name!r}: {error.reason}."
        ) from None


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive pieces of an array, so that no transposed copy of a large one is made at once."""
    if array.ndim == 0 or array.nbytes <= _PIECE:
        yield array
        return
    rows = max(1, _PIECE * len(array) // array.nbytes)
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def _laid_out(
    arrays: Mapping[str, ShapeDtype], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, _Slot]]:
    """The first bytes of a file, up to the data, and the part of the file for each array."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in arrays:
        _require_name(name)
    for name, form in _wide_first(arrays.items()):
        if form.dtype not in _NAMES:
            raise ValueError(
                f"{name} must have one of the dtypes {list(DTYPES)}. Got {form.dtype}."
            )
        offsets = [offset, offset + form.nbytes]
        entries[name] = _Tensor(
            dtype=_NAMES[form.dtype], shape=list(form.shape), data_offsets=offsets
        )
        offset = offsets[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    if len(text) > _LONGEST_HEADER:
        raise ValueError(
            f"The names and shapes of a file must fit in {_LONGEST_HEADER} bytes, or no reader "
            f"takes it. Got {len(arrays)} arrays, whose take {len(text)}. Write several files."
        )
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    start = 8 + len(text)
    slots = {
        name: _Slot(start + entries[name]["data_offsets"][0], form) for name, form in arrays.items()
    }
    return len(text).to_bytes(8, "little") + text, slots


def _wide_first(items: Iterable[tuple[str, ShapeDtype]]) -> list[tuple[str, ShapeDtype]]:
    """Wide dtypes first, so that every array is aligned."""
    return sorted(items, key=lambda item: (-item[1].dtype.itemsize, item[0]))
