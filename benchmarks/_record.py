"""How every benchmark writes what it measured: beside the machine and the versions it ran with."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_record(path: Path, measured: Mapping[str, Any], *packages: str) -> None:
    """Writes a JSON record; packages that are not installed are left out of its versions."""
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
    path.write_text(json.dumps(record, indent=1) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
