"""Finished trials in a file of JSON lines, from which a sweep that was killed goes on.

The first line says what the sweep is, each further one is a trial. Lines are appended and synced
to the disk as trials finish. A crash can leave a last line without an end, which is cut.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxmup.transfer._trial import Trial

FORMAT = "jaxmup.transfer.trials"
VERSION = 1
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
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ("trials.jsonl" if process == 0 else f"trials.{process}.jsonl")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, directory)
        _begin(descriptor, path, identity)
        known: dict[Trial, Trial] = {}
        for file in sorted(directory.glob("trials*.jsonl")):
            known |= {key_of(trial): trial for trial in _read(file, identity)}
        yield Store(known, descriptor)
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
    """The trial of which `trial_to_json` made a record."""
    fields = dict(record)
    fields["loss"] = None if fields["loss"] == _DIVERGED else fields["loss"]
    fields["others"] = tuple(sorted(fields.get("others", {}).items()))
    fields["curve"] = tuple(fields.get("curve", ()))
    return Trial(**fields)


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
    return [] if found == wanted else [f"{name}: {found} there, {wanted} here"]


def _lock(descriptor: int, directory: Path) -> None:
    import fcntl  # not on Windows, where the rest of the package works

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"A directory must have one sweep at a time. Another one is running in {directory}. "
            "Wait for it, or take another directory."
        ) from None


def _begin(descriptor: int, path: Path, identity: Mapping[str, Any]) -> None:
    """Cuts a last line without an end, and writes the first line if there is none."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.ftruncate(descriptor, whole)
    if whole == 0:
        _append(descriptor, _line(_header(identity)))
        _sync_directory(path.parent)


def _header(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, **identity}


def _read(path: Path, identity: Mapping[str, Any]) -> list[Trial]:
    lines = path.read_bytes().split(b"\n")[:-1]  # another process may be writing the last
    if not lines:
        return []
    try:
        first, *rest = map(json.loads, lines)
        trials = [trial_from_json(record) for record in rest]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold JSON with a trial in every line. It does not: {error}. Take another "
            "directory, or remove the file."
        ) from error
    if found := differences(first, json.loads(_line(_header(identity)))):
        raise ValueError(
            f"The trials in {path} must be of this very measurement, to go on with it. It differs "
            f"in {'; '.join(found)}. Take another directory, or remove the file."
        )
    return trials


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


def _sync_directory(directory: Path) -> None:
    """Waits until the disk knows the names of new files."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
