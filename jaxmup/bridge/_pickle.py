"""Files of `torch.save`, of which nothing but tensors is read."""

import pickle
import re
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
    is_zip = zipfile.is_zipfile(path)  # those of PyTorch before 1.6 are none, and cannot be mapped
    try:
        if is_zip:
            _refuse_damage(path)
        # weights_only is the default of some versions of PyTorch alone, and it is what keeps a
        # pickle from running code.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        # PyTorch's own words advise to load the file without the restriction.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"It holds {named[1]}" if named else "It holds something else"
        raise ValueError(
            f"{path} must hold tensors alone. {held}, which could run code and is not read. Save "
            "`model.state_dict()` alone."
        ) from None
    except _DamagedError as error:
        raise ValueError(f"{path} must be a whole file of torch.save. {error}") from None
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(
            f"{path} must be a whole file of torch.save. Its content leads to a "
            f"{type(error).__name__}: it is damaged, or of another program."
        ) from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold a state dict. Got {type(found).__name__}.")
    return found


class _DamagedError(Exception):
    """A part of a file is not what torch.save writes."""


def _refuse_damage(path: Path) -> None:
    """Raises unless every part of the file is as torch.save writes it; PyTorch doesn't look.

    Nothing is unpacked before it is known that nothing is packed: a small file may unpack to any
    size.
    """
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _DamagedError(
                f"torch.save compresses nothing, and {packed[0]!r} is compressed. Save it anew."
            )
        # Parts of one place would be read once for each of their names.
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise _DamagedError("Its parts are larger than the file, so they overlap.")
        if (damaged := file.testzip()) is not None:
            raise _DamagedError(f"The checksum of {repr(damaged)[1:-1]} is wrong.")
