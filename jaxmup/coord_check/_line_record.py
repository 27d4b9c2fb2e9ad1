"""The result of a line check as JSON lines."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from jaxmup import _check
from jaxmup._files import write_atomically
from jaxmup._records import read_lines
from jaxmup.coord_check._lines import LineCheck, LineGrowth

FORMAT = "jaxmup.line_check"
VERSION = 1


def write_line_record(check: LineCheck, path: str | os.PathLike[str]) -> None:
    """Writes a line check to `path`, one JSON object a line: what was run, then every value.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
      TypeError: if `check` is no `LineCheck`.
    """
    _check.made("check", check, "LineCheck", "jaxmup.coord_check.line_check")
    run = {f.name: getattr(check, f.name) for f in dataclasses.fields(check) if f.name != "values"}
    first = {"format": FORMAT, "version": VERSION, **run}
    lines = [json.dumps(line, allow_nan=False) for line in (first, *map(_line, check.values))]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_line_record(path: str | os.PathLike[str]) -> LineCheck:
    """Reads what `write_line_record` wrote.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming the file and the line, if the file is no record of this version.
    """
    first, *lines = read_lines(Path(path))
    first.require_format(FORMAT, VERSION, "`jaxmup.coord_check.write_line_record`")
    values = []
    for line in lines:
        with line.building("a value"):
            values.append(_value(line.value))
    with first.building("what was run"):
        names = [f.name for f in dataclasses.fields(LineCheck) if f.name != "values"]
        run: dict[str, Any] = {name: _tuple(first.value[name]) for name in names}
        return LineCheck(**run, values=tuple(values))


def _line(one: LineGrowth) -> dict[str, Any]:
    """A value as JSON types; what is not finite is `None`."""
    line = dataclasses.asdict(one)
    for name in ("start_rms", "end_rms"):
        line[name] = [value if math.isfinite(value) else None for value in line[name]]
    return line


def _value(line: dict[str, Any]) -> LineGrowth:
    sizes = {
        name: tuple(math.nan if value is None else value for value in line[name])
        for name in ("start_rms", "end_rms")
    }
    fields: dict[str, Any] = {**line, **sizes, "shapes": tuple(map(tuple, line["shapes"]))}
    return LineGrowth(**fields)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
