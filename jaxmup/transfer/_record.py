"""The JSON record of a measurement: versioned, strict JSON, written in one piece."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxmup import _check
from jaxmup._files import PathLike, write_atomically
from jaxmup._records import Document, read_document
from jaxmup.transfer._config import Config
from jaxmup.transfer._identity import config_from_json, config_to_json, versions
from jaxmup.transfer._measure import Result, result_of
from jaxmup.transfer._store import trial_from_json, trial_to_json
from jaxmup.transfer._trial import Trial

FORMAT = "jaxmup.transfer"
VERSION = 2
_FIELDS = ("format", "version", "config", "versions", "trials", "analysis")


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


def write_record(
    result: Result, path: str | os.PathLike[str], inputs: Iterable[PathLike] = ()
) -> None:
    """Writes `to_record(result)` to `path`, all or nothing.

    Args:
      result: Measurement to write.
      path: File to write.
      inputs: Files that the measurement read, such as a text, none of which is replaced.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
      ValueError: if `path` is one of `inputs`.
    """
    text = json.dumps(to_record(result), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode(), inputs)


def read_record(path: str | os.PathLike[str]) -> Result:
    """Reads what `write_record` wrote; the analysis is made anew from the runs.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming the file and the line, if the file is no record of this version, or holds
        what `write_record` does not write.
    """
    document = read_document(Path(path))
    document.require_format(FORMAT, VERSION, "`jaxmup.transfer.write_record`")
    record = document.value
    for name in dict.fromkeys((*_FIELDS, *record)):
        if (name in record) != (name in _FIELDS):
            raise document.error(f"A record must have the fields {', '.join(_FIELDS)}.", (name,))
    with document.building("a configuration", ("config",)):
        config = config_from_json(record["config"])
    document.require_written(config_to_json(config), ("config",))
    trials = _trials(document, config)
    with document.building("the trials of a measurement", ("trials",)):
        result = result_of(config, trials)
    with document.building("a list of analyses", ("analysis",)):
        found = [analysis["parametrization"] for analysis in record["analysis"]]
    if found != list(config.parametrizations):
        raise document.error(
            f"A record must analyze {', '.join(config.parametrizations)}. Got {found}.",
            ("analysis",),
        )
    return result


def _trials(document: Document, config: Config) -> tuple[Trial, ...]:
    """The trials of a record, each of a run that the configuration asks for."""
    trials: list[Trial] = []
    places = {
        "parametrization": config.parametrizations,
        "width": config.widths,
        "learning_rate": config.grid,
        "seed": config.seeds,
    }
    records = document.value["trials"]
    if not isinstance(records, list):
        raise document.error("Trials must be a list.", ("trials",))
    for i, record in enumerate(records):
        at = ("trials", i)
        with document.building("a trial", at):
            trial = trial_from_json(record)
        document.require_written(trial_to_json(trial), at)
        for name, asked in places.items():
            if getattr(trial, name) not in asked:
                raise document.error(
                    f"A trial must be of a run of the configuration, whose `{name}` is one of "
                    f"{list(asked)}. Got {getattr(trial, name)!r}.",
                    (*at, name),
                )
        trials.append(trial)
    return tuple(trials)
