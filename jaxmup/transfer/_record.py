"""The JSON record of a measurement: versioned, strict JSON, written in one piece."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from jaxmup._files import write_atomically
from jaxmup.transfer._analysis import analyze
from jaxmup.transfer._config import Config
from jaxmup.transfer._measure import Result
from jaxmup.transfer._trial import Trial

FORMAT = "jaxmup.transfer"
VERSION = 1
_DIVERGED = "diverged"
_PACKAGES = ("jaxmup", "jax", "jaxlib", "flax", "optax", "numpy")


def to_record(result: Result) -> dict[str, Any]:
    """A measurement as JSON types: configuration, versions, every run, and the analysis.

    The grid and the base width are written out also where the configuration left them to the
    defaults.
    """
    config = dataclasses.asdict(result.config)
    config |= {"learning_rates": list(result.config.grid), "base_width": result.config.base}
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": config,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "trials": [
            dataclasses.asdict(trial) | {"loss": _DIVERGED if trial.loss is None else trial.loss}
            for trial in result.trials
        ],
        "analysis": [
            dataclasses.asdict(analysis) | {"transfers": analysis.transfers}
            for analysis in result.analyses
        ],
    }


def write_record(result: Result, path: str | os.PathLike[str]) -> None:
    """Writes `to_record(result)` to `path`, all or nothing.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
    """
    text = json.dumps(to_record(result), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read_record(path: str | os.PathLike[str]) -> Result:
    """Reads what `write_record` wrote; the analysis is made anew from the runs.

    Raises:
      ValueError: if the file is no record of this version.
    """
    record = json.loads(Path(path).read_bytes())
    found = (record.get("format"), record.get("version")) if isinstance(record, dict) else None
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"A record must be of format {FORMAT!r}, version {VERSION}. Got {found} in {path}. "
            "Write it with `jaxmup.transfer.write_record`."
        )
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["config"].items()
    }
    config = Config(**fields)
    trials = tuple(
        Trial(**trial | {"loss": None if trial["loss"] == _DIVERGED else trial["loss"]})
        for trial in record["trials"]
    )
    analyses = (
        analyze(t for t in trials if t.parametrization == name) for name in config.parametrizations
    )
    return Result(config, trials, tuple(analyses))
