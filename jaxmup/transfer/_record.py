"""The JSON record of a measurement: versioned, strict JSON, written in one piece."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from jaxmup import _check
from jaxmup._files import write_atomically
from jaxmup.transfer._identity import config_from_json, config_to_json, versions
from jaxmup.transfer._measure import Result, result_of
from jaxmup.transfer._store import trial_from_json, trial_to_json

FORMAT = "jaxmup.transfer"
VERSION = 2
_READABLE = (1, VERSION)  # the first had no other hyper-parameters and no curves


def to_record(result: Result) -> dict[str, Any]:
    """A measurement as JSON types: configuration, versions, every run, and the analysis.

    The grid and the base width are written out also where the configuration left them to the
    defaults.
    """
    _check.made("result", result, "Result", "jaxmup.transfer.measure")
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": config_to_json(result.config),
        "versions": versions(),
        "trials": [trial_to_json(trial) for trial in result.trials],
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
    if found not in [(FORMAT, version) for version in _READABLE]:
        raise ValueError(
            f"A record must be of format {FORMAT!r}, version {VERSION}. Got {found} in {path}. "
            "Write it with `jaxmup.transfer.write_record`."
        )
    trials = tuple(trial_from_json(trial) for trial in record["trials"])
    return result_of(config_from_json(record["config"]), trials)
