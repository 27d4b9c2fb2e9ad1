"""Files of `torch.save`, of which nothing but tensors is read."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmup import _extras


def load(path: Path) -> Mapping[str, Any]:
    """The content of a file, its tensors memory-mapped where the format allows it.

    PyTorch's own restricted unpickler reads it, which knows tensors and containers and calls
    nothing else.

    Raises:
      OSError: if the file cannot be read.
      ModuleNotFoundError: if PyTorch is not installed.
      ValueError: naming the file, if it holds anything else, or is damaged.
    """
    torch = _extras.require("torch", "Reading a file of torch.save", "torch")
    with path.open("rb"):  # an error of the system names the file; whatever comes below is a damage
        pass
    try:
        is_zip = zipfile.is_zipfile(
            path
        )  # those of PyTorch before 1.6 are none, and cannot be mapped
        if is_zip:
            _refuse_damage(path)
        # weights_only is the default of some versions of PyTorch alone, and it is what keeps a
        # pickle from running code.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} must hold tensors alone. {_first_line(error)}") from None
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(f"{path} must be a whole file of torch.save. {error!r}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold a state dict. Got {type(found).__name__}.")
    return found


def _refuse_damage(path: Path) -> None:
    """Raises a `ValueError` if a part of the file is not what was written; PyTorch doesn't look."""
    with zipfile.ZipFile(path) as file:
        if (damaged := file.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _first_line(error: BaseException) -> str:
    # PyTorch's message goes on with advice to load the file without the restriction.
    return next(io.StringIO(str(error)), "").strip()
