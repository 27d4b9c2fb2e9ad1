"""The result of a coordinate check as JSON lines."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any, Literal

from jaxmup import _check
from jaxmup._families import Family, family_record, read_family
from jaxmup._files import write_atomically
from jaxmup._finding import Finding
from jaxmup._records import as_json, build, read_lines
from jaxmup.coord_check._expected import Expected
from jaxmup.coord_check._result import CoordCheck, Over
from jaxmup.coord_check._slopes import Slope
from jaxmup.coord_check._sums import Quantity
from jaxmup.coord_check._verdict import Outcome, Verdict

FORMAT = "jaxmup.coord_check"
VERSION = 3
_PACKAGES = ("jaxmup", "jax", "jaxlib", "flax", "optax", "numpy")


def to_lines(check: CoordCheck) -> list[dict[str, Any]]:
    """A check as plain dicts: first what was run, then every verdict, then every measurement."""
    _check.made("check", check, "CoordCheck", "jaxmup.coord_check.coord_check")
    run = {
        field.name: getattr(check, field.name)
        for field in dataclasses.fields(check)
        if field.name not in ("verdicts", "rows")
    }
    run["family"] = family_record(check.family)
    run["findings"] = [dataclasses.asdict(one) for one in check.findings]
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    first = {"format": FORMAT, "version": VERSION, **run, "versions": versions}
    verdicts = [{"kind": "verdict", **_verdict_line(one)} for one in check.verdicts]
    return [first, *verdicts, *({"kind": "measurement", **row} for row in check.rows)]


def write_record(check: CoordCheck, path: str | os.PathLike[str]) -> None:
    """Writes `to_lines(check)` to `path`, one JSON object a line, all or nothing.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
    """
    lines = [json.dumps(line, allow_nan=False) for line in to_lines(check)]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_record(path: str | os.PathLike[str]) -> CoordCheck:
    """Reads what `write_record` wrote.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming the file and the line, if the file is no record of this version, or holds
        what `write_record` does not write.
    """
    lines = read_lines(Path(path))
    lines[0].require_format(FORMAT, VERSION, "`jaxmup.coord_check.write_record`")
    with lines[0].building("what was run"):
        run: _Run = build(_Run, lines[0].value, {Family: _read_family})
    verdicts: dict[Any, Verdict] = {}
    rows: dict[Any, dict[str, Any]] = {}
    for line in lines[1:]:
        with line.building("a verdict or a measurement"):
            if line.value["kind"] == "verdict":
                place, made = _verdict(build(_VerdictLine, line.value, {}), run)
                _put(verdicts, place, made)
            else:
                place = _place(build(_MeasurementLine, line.value, {}), run)
                _put(rows, place, {name: x for name, x in line.value.items() if name != "kind"})
    fields = {name: getattr(run, name) for name in _RUN_FIELDS}
    check = CoordCheck(**fields, verdicts=tuple(verdicts.values()), rows=tuple(rows.values()))
    first, *rest = to_lines(check)
    for line, written in zip(lines, [first | {"versions": run.versions}, *rest], strict=True):
        line.require_written(as_json(written))
    return check


@dataclasses.dataclass(frozen=True)
class _Run:
    """The first line."""

    format: str
    version: int
    over: Over
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    parametrization: str
    family: Family
    follows_parametrization: bool
    findings: tuple[Finding, ...]
    versions: dict[str, str]


_RUN_FIELDS = [f.name for f in dataclasses.fields(CoordCheck) if f.name not in ("verdicts", "rows")]


@dataclasses.dataclass(frozen=True)
class _SlopeLine:
    """A slope; `None` for a half-width that is infinite."""

    value: float
    half_width: float | None


@dataclasses.dataclass(frozen=True)
class _VerdictLine:
    """A line of a verdict; `None` for what is not finite."""

    kind: Literal["verdict"]
    quantity: Quantity
    name: str
    layer: int | None
    step: int
    slope: _SlopeLine | None
    expected: Expected
    outcome: Outcome
    values: tuple[float | None, ...]
    needs: int | None
    line: str
    source: str


@dataclasses.dataclass(frozen=True)
class _MeasurementLine:
    """A line of a measurement; `None` for what is not finite."""

    kind: Literal["measurement"]
    quantity: Quantity
    name: str
    layer: int | None
    size: int
    seed: int
    step: int
    rms: float | None
    mean_abs: float | None


def _put(held: dict[Any, Any], place: Any, value: Any) -> None:
    if place in held:
        raise ValueError(f"A line before it is of {place} already.")
    held[place] = value


def _place(line: _MeasurementLine, run: _Run) -> Any:
    """Everything of a measurement but what was measured."""
    if not (line.size in run.sizes and line.seed in run.seeds and 0 <= line.step < run.steps):
        raise ValueError(
            f"Its sizes are {run.sizes}, its seeds {run.seeds}, its steps {run.steps}. Got size "
            f"{line.size}, seed {line.seed}, step {line.step}."
        )
    return line.quantity, line.name, line.layer, line.size, line.seed, line.step


def _verdict(line: _VerdictLine, run: _Run) -> tuple[Any, Verdict]:
    """A verdict, and all of it that tells it from others."""
    if len(line.values) != len(run.sizes):
        raise ValueError(f"It must have a value for each of the sizes {run.sizes}.")
    slope = line.slope and Slope(
        line.slope.value, math.inf if line.slope.half_width is None else line.slope.half_width
    )
    values = tuple(math.nan if value is None else value for value in line.values)
    names = ("quantity", "name", "layer", "step", "expected", "outcome", "needs", "line", "source")
    made = Verdict(**{n: getattr(line, n) for n in names}, slope=slope, values=values)
    return (line.quantity, line.name, line.layer, line.step), made


def _read_family(record: Any) -> Family:
    return read_family(record) if isinstance(record, str) else build(Family, record, {})


def _verdict_line(one: Verdict) -> dict[str, Any]:
    """A verdict as JSON types; what is not finite is `None`."""
    line = dataclasses.asdict(one)
    line["values"] = [value if math.isfinite(value) else None for value in one.values]
    if one.slope is not None and math.isinf(one.slope.half_width):
        line["slope"]["half_width"] = None
    return line
