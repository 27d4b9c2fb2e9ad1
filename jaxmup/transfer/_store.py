"""Finished trials in a file of JSON lines, from which a sweep that was killed goes on.

The first line says what the sweep is, each further one is a trial. Lines are appended and synced
to the disk as trials finish. A crash can leave a last line without an end, which is cut: but only
once the file is known to be of this very sweep.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxmup._files import sync_folder
from jaxmup._records import Document, parse, same
from jaxmup.transfer._trial import Trial

FORMAT = "jaxmup.transfer.trials"
VERSION = 2
_DIVERGED = "diverged"


class Store:
    """The trials of a sweep on disk: those that are known, and a place for more.

    Args:
      known: Trials that any process has finished, by their key.
      descriptor: File descriptor that this process appends to; `None` to keep trials in memory
        alone.
    """

    def __init__(
        self, known: Mapping[Trial, Trial] = MappingProxyType({}), descriptor: int | None = None
    ):
        self.known = dict(known)
        self._descriptor = descriptor

    def append(self, trials: Sequence[Trial]) -> None:
        """Records trials that are not known yet; they are on disk when it returns.

        Raises:
          OSError: if they cannot be written; what was recorded before stays as it was.
        """
        new = [trial for trial in trials if key_of(trial) not in self.known]
        if self._descriptor is not None:
            _append(self._descriptor, b"".join(_line(trial_to_json(trial)) for trial in new))
        self.known |= {key_of(trial): trial for trial in new}


def key_of(trial: Trial) -> Trial:
    """A trial without its losses: the run that it is of."""
    return dataclasses.replace(trial, loss=None, curve=())


@contextlib.contextmanager
def open_store(
    directory: str | os.PathLike[str], identity: Mapping[str, Any], process: int = 0
) -> Iterator[Store]:
    """Opens the trials of a directory, which is made if it is missing, for one sweep at a time.

    Args:
      directory: Directory of `trials.jsonl`, and of the files of further processes.
      identity: Facts that tell this sweep from others, as JSON types.
      process: Index of this process, which has a file of its own; 0 if there is but one.

    Raises:
      OSError: if the directory or the file cannot be written.
      ValueError: if another sweep has the file open, or the trials are of another sweep, naming
        what differs.
    """
    directory = Path(directory)
    path = directory / ("trials.jsonl" if process == 0 else f"trials.{process}.jsonl")
    _known(directory, identity)  # refuses before anything is made
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, directory)
        known = _known(directory, identity)  # again, now that no other process of ours changes it
        is_new = os.fstat(descriptor).st_size == 0
        size = _begin(descriptor, path, identity)
        try:
            yield Store(known, descriptor)
        except BaseException:
            if is_new and os.fstat(descriptor).st_size == size:
                os.unlink(path)  # the measurement could not be made, and nothing is lost
            raise
    finally:
        os.close(descriptor)  # the lock goes with it, also when the process is killed


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """A trial as JSON types; a diverged loss is a word, since JSON has no NaN."""
    loss = _DIVERGED if trial.loss is None else trial.loss
    return dataclasses.asdict(trial) | {
        "loss": loss,
        "others": dict(trial.others),
        "curve": list(trial.curve),
    }


def trial_from_json(record: Mapping[str, Any]) -> Trial:
    """The trial of which `trial_to_json` made a record.

    Raises:
      AttributeError, KeyError, TypeError, ValueError: if it is no such record.
    """
    if record["loss"] is None:
        raise ValueError(f"The loss of a diverged run must be {_DIVERGED!r}. Got null.")
    loss = None if record["loss"] == _DIVERGED else record["loss"]
    others, curve = tuple(sorted(record["others"].items())), tuple(record["curve"])
    return Trial(**{**record, "loss": loss, "others": others, "curve": curve})


def differences(found: object, wanted: object, name: str = "") -> list[str]:
    """The differences between two trees of JSON types, a line each.

    Example:
      >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
      ['a.c: 2 there, 3 here']
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        ]
    if same(found, wanted):
        return []
    if name in _DIGESTS:  # which say nothing to a person
        return [_DIGESTS[name]]
    return [f"{name}: {found} there, {wanted} here"]


_DIGESTS = {
    "programs.initial": "the initial values",
    "programs.model": "the model's program",
    "programs.loss": "the loss's program",
    "programs.optimizer": "the optimizer's program",
    "first_batch": "the first batch",
    "evaluation": "the evaluation",
}


def _lock(descriptor: int, directory: Path) -> None:
    import fcntl  # not on Windows, where the rest of the package works

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"A directory must have one sweep at a time. Another one is running in {directory}. "
            "Wait for it, or take another directory."
        ) from None


def _known(directory: Path, identity: Mapping[str, Any]) -> dict[Trial, Trial]:
    """The trials of all processes by their key.

    Raises:
      ValueError: naming the file and the line that no sweep has written, or what differs if they
        are of another sweep.
    """
    known: dict[Trial, Trial] = {}
    files = directory.iterdir() if directory.is_dir() else ()
    for file in sorted(file for file in files if _NAME.fullmatch(file.name)):
        if not file.is_file():
            raise OSError(f"Trials must be in a regular file. {file} is none.")
        for document in _read(file, identity):
            with document.building("a trial"):
                trial = trial_from_json(document.value)
            document.require_written(trial_to_json(trial))
            if known.setdefault(key_of(trial), trial) != trial:
                raise document.error(
                    f"A run must have one outcome. Another line says that the loss of this one is "
                    f"{known[key_of(trial)].loss}, this one {trial.loss}. Remove the wrong one."
                )
    return known


_NAME = re.compile(r"trials(\.[1-9]\d*)?\.jsonl")


def _read(path: Path, identity: Mapping[str, Any]) -> list[Document]:
    """The lines of a file with trials, once its first is known to be of this sweep."""
    *lines, rest = path.read_bytes().split(b"\n")
    header = _line(_header(identity))
    if not lines:
        if header.startswith(rest):  # nothing, or what a crash left of the first line
            return []
        raise ValueError(f"{path}, line 1: {_IS_FOREIGN} {_REMEDY}")
    _require_this_sweep(parse(lines[0], path), identity)
    if not _is_whole(rest, path) and not _is_cut(rest):
        raise ValueError(
            f"{path}, line {len(lines) + 1}: A line without an end must be the start of a trial, "
            f"as a crash leaves it. Got {rest[:80]!r}. {_REMEDY}"
        )
    ends = [*lines[1:], *([rest] if _is_whole(rest, path) else [])]
    return [parse(line, path, i + 2) for i, line in enumerate(ends)]


def _is_whole(line: bytes, path: Path) -> bool:
    """True if a line without an end lacks nothing but that."""
    try:
        parse(line, path)
    except ValueError:
        return False
    return True


def _is_cut(line: bytes) -> bool:
    """True if a crash leaves this of a line, which another process may still be writing."""
    # After a loss of power, some disks hold zeros where the last bytes were to be.
    line = line.rstrip(b"\0")
    return line.startswith(_START) or _START.startswith(line)


def _require_this_sweep(first: Document, identity: Mapping[str, Any]) -> None:
    if not isinstance(first.value, dict) or first.value.get("format") != FORMAT:
        raise first.error(f"{_IS_FOREIGN} {_REMEDY}")
    if found := differences(first.value, json.loads(_line(_header(identity)))):
        raise ValueError(
            f"The trials in {first.path} must be of this very measurement, to go on with it. It "
            f"differs in {'; '.join(found)}. {_REMEDY}"
        )


_START = b'{"parametrization": "'
_IS_FOREIGN = "The file must begin with the header of a sweep, and is none of ours."
_REMEDY = "Take another directory, or remove the file."


def _begin(descriptor: int, path: Path, identity: Mapping[str, Any]) -> int:
    """Ends the last line of a file of this sweep, or cuts it; writes the first if there is none.

    Returns:
      The size of the file.
    """
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        if _is_whole(content[whole:], path):  # all of the line is there but its end
            _append(descriptor, b"\n")
            whole = len(content) + 1
        else:
            os.ftruncate(descriptor, whole)
    if whole == 0:
        _append(descriptor, _line(_header(identity)))
        sync_folder(path.parent)
    return os.fstat(descriptor).st_size


def _header(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, **identity}


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _append(descriptor: int, content: bytes) -> None:
    """Appends all of it and waits for the disk, or leaves the file as it was."""
    # One write may take a part of the content, as on a full disk. A line that is cut at the end of
    # the file is what a crash leaves, and the next start cuts it off; with more behind it, it would
    # be damage.
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
