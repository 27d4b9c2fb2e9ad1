"""Turns that benchmarks take, and records of what they measured beside machine and versions."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def take_turns(
    sides: Mapping[str, Callable[[int], None]], pairs: int, steps: int
) -> dict[str, list[float]]:
    """Milliseconds a step of each side, `pairs` samples of `steps` steps, in turn and back."""
    milliseconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(steps)  # compiles and warms up
    for pair in range(pairs):
        order = list(sides.items())
        for name, run in order if pair % 2 else reversed(order):
            start = time.perf_counter()
            run(steps)
            milliseconds[name].append((time.perf_counter() - start) / steps * 1e3)
    return milliseconds


def write_record(path: Path, measured: Mapping[str, Any], *packages: str) -> None:
    """Writes a JSON record, in which a number that is not finite is null.

    Packages that are not installed are left out of its versions.
    """
    machine = {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "load": round(os.getloadavg()[0], 2),
    }
    versions = {"python": platform.python_version()} | {
        package: found for package in packages if (found := _version(package)) is not None
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "versions": versions, **measured}
    path.write_text(json.dumps(_with_nulls(record), indent=1, allow_nan=False) + "\n")


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
