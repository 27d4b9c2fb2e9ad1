"""The result of a coordinate check, or of a line check, as JSON lines."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

from jaxmup._families import family_record, read_family
from jaxmup._files import write_atomically
from jaxmup.coord_check._coord_check import CoordCheck
from jaxmup.coord_check._expected import Expected
from jaxmup.coord_check._lines import LineCheck, LineGrowth
from jaxmup.coord_check._slopes import Slope
from jaxmup.coord_check._verdict import Verdict

FORMAT, FORMAT_OF_LINES = "jaxmup.coord_check", "jaxmup.line_check"
VERSION = 1
_PACKAGES = ("jaxmup", "jax", "jaxlib", "flax", "optax", "numpy")


def to_lines(check: CoordCheck | LineCheck) -> list[dict[str, Any]]:
    """A check as plain dicts: first what was run, then what was found.

    What was found is every verdict and every measurement of a coordinate check, every value of a
    line check.
    """
    run = {
        field.name: getattr(check, field.name)
        for field in dataclasses.fields(check)
        if field.name not in ("verdicts", "rows", "values")
    }
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    if isinstance(check, LineCheck):
        first = {"format": FORMAT_OF_LINES, "version": VERSION, **run, "versions": versions}
        return [first, *map(_value_line, check.values)]
    run["family"] = family_record(check.family)
    first = {"format": FORMAT, "version": VERSION, **run, "versions": versions}
    verdicts = [{"kind": "verdict", **_verdict_line(one)} for one in check.verdicts]
    return [first, *verdicts, *({"kind": "measurement", **row} for row in check.rows)]


def write_record(check: CoordCheck | LineCheck, path: str | os.PathLike[str]) -> None:
    """Writes `to_lines(check)` to `path`, one JSON object a line, all or nothing.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
    """
    lines = [json.dumps(line, allow_nan=False) for line in to_lines(check)]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_record(path: str | os.PathLike[str]) -> CoordCheck:
    """Reads what `write_record` wrote.

    Raises:
      ValueError: if the file is no record of this version.
    """
    run, lines = _read(path, FORMAT)
    run["family"] = read_family(run["family"])
    of_kind: dict[str, list[dict[str, Any]]] = {"verdict": [], "measurement": []}
    for line in lines:
        of_kind[line.pop("kind")].append(line)
    verdicts = tuple(map(_verdict, of_kind["verdict"]))
    return CoordCheck(**run, verdicts=verdicts, rows=tuple(of_kind["measurement"]))


def read_line_record(path: str | os.PathLike[str]) -> LineCheck:
    """Reads what `write_record` wrote of a line check.

    Raises:
      ValueError: if the file is no record of this version.
    """
    run, lines = _read(path, FORMAT_OF_LINES)
    return LineCheck(**run, values=tuple(map(_value, lines)))


def _read(
    path: str | os.PathLike[str], expected: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was run, as keyword arguments, and the other lines of a record of a format."""
    text = Path(path).read_text()
    try:
        first, *lines = map(json.loads, text.splitlines())
    except ValueError:
        first, lines = {}, []
    found = (first.get("format"), first.get("version")) if isinstance(first, dict) else None
    if found != (expected, VERSION):
        raise ValueError(
            f"A record must be of format {expected!r}, version {VERSION}. Got {found} in {path}. "
            "Write it with `jaxmup.coord_check.write_record`."
        )
    run: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in first.items()
        if name not in ("format", "version", "versions")
    }
    return run, lines


def _value_line(one: LineGrowth) -> dict[str, Any]:
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
    return LineGrowth(**line | sizes | {"shapes": tuple(map(tuple, line["shapes"]))})


def _verdict_line(one: Verdict) -> dict[str, Any]:
    """A verdict as JSON types; what is not finite is `None`."""
    line = dataclasses.asdict(one)
    line["values"] = [value if math.isfinite(value) else None for value in one.values]
    if one.slope is not None and math.isinf(one.slope.half_width):
        line["slope"]["half_width"] = None
    return line


def _verdict(line: dict[str, Any]) -> Verdict:
    slope = line["slope"]
    if slope is not None:
        half_width = math.inf if slope["half_width"] is None else slope["half_width"]
        slope = Slope(slope["value"], half_width)
    values = tuple(math.nan if value is None else value for value in line["values"])
    parts = {"slope": slope, "expected": Expected(**line["expected"]), "values": values}
    return Verdict(**line | parts)
