"""Files of `torch.save`, of which nothing but tensors is read."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmup import _extras


def load(path: Path) -> Mapping[str, Any]:
    """The state dict of a file, its tensors memory-mapped.

    PyTorch's own restricted unpickler reads it, which knows tensors and containers and calls
    nothing else.

    Raises:
      OSError: if the file cannot be read.
      ModuleNotFoundError: if PyTorch is not installed.
      ValueError: naming the file, if it holds anything else, or is damaged.
    """
    torch = _extras.require("torch", "Reading a file of torch.save", "torch")
    with path.open("rb"):  # an error of the system names the file
        pass
    try:
        is_zip = zipfile.is_zipfile(path)  # those of PyTorch before 1.6 are none
        if is_zip:
            _require_checksums(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} must hold tensors alone. {_first_line(error)}") from None
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(f"{path} must be a whole file of torch.save. {error!r}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold a state dict. Got {type(found).__name__}.")
    return found


def _require_checksums(path: Path) -> None:
    """Raises a `ValueError` if a part of the file is not what was written; PyTorch doesn't look."""
    with zipfile.ZipFile(path) as file:
        if (damaged := file.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _first_line(error: BaseException) -> str:
    return next(io.StringIO(str(error)), "").strip()
