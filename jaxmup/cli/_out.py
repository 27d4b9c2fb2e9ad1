"""The folder that a command writes to: made for it, and gone again if nothing comes of it."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxmup._files import PathLike, require_replaceable
from jaxmup.cli._errors import bad_input

_PREFIX = "`--out` must be a folder that can be written. "


@contextlib.contextmanager
def out_folder(
    folder: Path, names: Iterable[str], inputs: Iterable[PathLike] = ()
) -> Iterator[None]:
    """Makes a folder and sees that files can be written in it, so that no work is for nothing.

    If the block raises, folders that were made and are empty still are removed.

    Args:
      folder: Folder that `--out` names.
      names: Files that will be written in it.
      inputs: Files that the command reads, none of which it may write over.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        with bad_input(
            OSError, ValueError, prefix="`--out` must be a folder that can be written. "
        ):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            for name in names:
                require_replaceable(folder / name, inputs)
        yield
    except BaseException:
        for one in missing:  # the innermost first
            with contextlib.suppress(OSError):  # it was not made, or holds something
                one.rmdir()
        raise
