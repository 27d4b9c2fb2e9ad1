"""Files that are written in one piece."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
    """
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block is left, or not at all if the block raises.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
    """
    path = Path(path)
    # In the folder of the file, since only within one file system is a replacement atomic.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a crash could leave the name without its bytes
        os.chmod(temporary, 0o644)  # mkstemp makes it 0o600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
