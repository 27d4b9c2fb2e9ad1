"""One way to write a file: it appears whole or not at all, and never over what it was made from."""

import contextlib
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn, TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]
_PART = ".part"  # ends the name of a file that is being written


def write_atomically(path: PathLike, content: bytes, inputs: Iterable[PathLike] = ()) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new.

    Args:
      path: File to write.
      content: All that it holds.
      inputs: Files that it is made from, none of which it may replace.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
      ValueError: if `path` is one of `inputs`.
    """
    with open_atomically(path, inputs) as file:
        file.write(content)


@contextmanager
def open_atomically(path: PathLike, inputs: Iterable[PathLike] = ()) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block is left, or not at all if the block raises.

    A process that is terminated in the block leaves nothing behind. One that is killed leaves
    nothing either where the system knows files without a name, as Linux does on most disks;
    elsewhere the next write to `path` removes what it has left.

    Args:
      path: File to write, in a folder that is there.
      inputs: Files that it is made from, none of which it may replace.

    Raises:
      OSError: if it cannot be written, or no file of its own stands there, such as a folder, a link
        or a device; what was at `path` is then as it was.
      ValueError: if `path` is one of `inputs`.
    """
    path = Path(path)
    inputs = tuple(inputs)
    require_replaceable(path, inputs)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"A file must be written into a folder. {path.parent} is none.")
    _remove_left_parts(path)
    with _until_terminated(), _open_part(path) as part:
        file = part.file
        yield file
        file.flush()
        if path.exists():
            os.chmod(part.name or file.fileno(), stat.S_IMODE(path.stat().st_mode))
        os.fsync(file.fileno())  # or a crash could leave the name without its bytes
        require_replaceable(path, inputs)  # writing takes minutes, in which another may have come
        part.publish(path)
        sync_folder(path.parent)


def require_replaceable(path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Refuses a path at which no file can be written without the loss of something else.

    Args:
      path: File that is to be written; it need not be there yet.
      inputs: Files that it is made from.

    Raises:
      OSError: if a symbolic link, a folder or a device stands there.
      ValueError: if it is one of `inputs`, by this name or another.

    Example:
      >>> require_replaceable(__file__, ["/dev/null", __file__])
      Traceback (most recent call last):
      ...
      ValueError: A file must not be written over what it is made from. ...
    """
    path = Path(path)
    if path.is_symlink():
        raise OSError(
            f"A file must not be written through a symbolic link. {path} is one, to "
            f"{os.readlink(path)}. Name the file itself."
        )
    for one in inputs:
        if path.exists() and os.path.exists(one) and os.path.samefile(path, one):
            raise ValueError(
                f"A file must not be written over what it is made from. {path} is the same file "
                f"as {one}. Name another file."
            )
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise OSError(f"A file must not be written over anything else. {path} is {what}.")


def sync_folder(folder: PathLike) -> None:
    """Waits until the disk knows the names of new files."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Part:
    """A file under construction.

    Args:
      file: The open file.
      name: Its temporary name; `None` as long as it has none.
    """

    def __init__(self, file: BinaryIO, name: Path | None):
        self.file = file
        self.name = name

    def publish(self, path: Path) -> None:
        """Gives the file the name that it is for, and takes the one that it had."""
        if self.name is None:
            self.name = _name_of_part(path)
            _link(self.file.fileno(), self.name)
        if os.name == "nt":  # where an open file keeps its name
            self.file.close()
        os.replace(self.name, path)
        self.name = None


@contextmanager
def _open_part(path: Path) -> Iterator[_Part]:
    """A new file beside `path`: only within one file system is a replacement atomic."""
    part = _unnamed(path.parent) or _named(path)
    try:
        with part.file:
            yield part
    finally:
        if part.name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part.name)


def _unnamed(folder: Path) -> _Part | None:
    """A file that is gone with its process until it is linked; `None` where there are none."""
    if not (hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")):
        return None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:  # the file system has none, or nothing can be written: then `_named` says why
        return None
    _lock(descriptor)
    return _Part(os.fdopen(descriptor, "w+b"), None)


def _named(path: Path) -> _Part:
    while True:
        name = _name_of_part(path)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor)
        if name.exists():  # else another process has removed it, before it was locked, as left over
            return _Part(os.fdopen(descriptor, "w+b"), name)
        os.close(descriptor)


def _name_of_part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}")


def _link(descriptor: int, name: Path) -> None:
    folder = os.open(name.parent, os.O_RDONLY)
    try:
        # With a descriptor of the folder, Python follows the link that /proc is made of.
        os.link(f"/proc/self/fd/{descriptor}", name.name, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _lock(descriptor: int) -> bool:
    """Marks a part as being written, and says if no other process does."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _remove_left_parts(path: Path) -> None:
    """Removes what processes that were killed have left of this file; those that live lock it."""
    # Matched by hand: a name may hold what a pattern takes for a wildcard.
    start, length = f".{path.name}.", len(_name_of_part(path).name)
    for one in path.parent.iterdir():
        name = one.name
        if not (name.startswith(start) and name.endswith(_PART) and len(name) == length):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(one, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _lock(descriptor):
                    os.unlink(one)
            finally:
                os.close(descriptor)


class _TerminatedError(BaseException):
    """The process was asked to end."""


@contextmanager
def _until_terminated() -> Iterator[None]:
    """Has SIGTERM end the block by an exception, so that it cleans up, and then the process."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_ours:  # the program has a way of its own to end
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _TerminatedError

    signal.signal(signal.SIGTERM, end)
    terminated = False
    try:
        yield
    except _TerminatedError:
        terminated = True
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if terminated:
            os.kill(os.getpid(), signal.SIGTERM)
