"""Writing files in one piece."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
    """
    path = Path(path)
    # Beside its place and not in /tmp: only within one file system is a rename atomic.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it 0o600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
