"""Specs and parametrization of a checkpoint, as a file beside it.

A checkpoint holds weights, which mean nothing without the multipliers and learning rates that they
were trained with. A manifest is versioned, strict JSON and holds every number of both.
"""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmup._families import Family, family_record, read_family
from jaxmup._files import write_atomically
from jaxmup._parametrization import Parametrization
from jaxmup._physics import ROLES
from jaxmup._records import as_json, build, read_document
from jaxmup._spec import ParamSpec
from jaxmup._tree import listed, require_leaves

FORMAT = "jaxmup.manifest"
VERSION = 1
_SPECS = "It is what `jaxmup.infer`, `jaxmup.nnx.specs` or `jaxmup.linen.specs` return."


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Args:
      specs: Spec of every parameter, by name.
      parametrization: Parametrization with all its exponents.
      jaxmup_version: Version of the library that wrote the file.
    """

    specs: dict[str, ParamSpec]
    parametrization: Parametrization
    jaxmup_version: str


def write(path: str | os.PathLike[str], specs: Any, parametrization: Parametrization) -> None:
    """Writes specs and parametrization to `path`, all or nothing.

    Args:
      path: File to write.
      specs: Tree of `ParamSpec`.
      parametrization: Parametrization that the specs are resolved with.

    Raises:
      OSError: if it cannot be written; what was at `path` is then as it was.
      TypeError: if a leaf of `specs` is no `ParamSpec`, or `parametrization` no `Parametrization`.

    Example:
      >>> import tempfile
      >>> import jaxmup
      >>> specs = {"kernel": jaxmup.ParamSpec((jaxmup.Axis("output", 256, base=64),))}
      >>> path = Path(tempfile.mkdtemp(), "manifest.json")
      >>> write(path, specs, jaxmup.parametrization("mup", "adam"))
      >>> read(path).specs == specs
      True
    """
    _require_parametrization(parametrization)
    by_name = require_leaves("specs", specs, ParamSpec, _SPECS)
    record = _record(by_name, parametrization, importlib.metadata.version("jaxmup"))
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read(path: str | os.PathLike[str]) -> Manifest:
    """Reads what `write` wrote; every number is the one that was written.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming the file and the line, if the file is no manifest of this version, or holds
        what `write` does not write.

    Example:
      >>> import tempfile
      >>> import jaxmup
      >>> path = Path(tempfile.mkdtemp(), "manifest.json")
      >>> write(path, {}, jaxmup.parametrization("mup", "sgd", gauge="table9"))
      >>> print(read(path).parametrization)
      mup/table9 (sgd)
    """
    document = read_document(Path(path))
    document.require_format(FORMAT, VERSION, "`jaxmup.manifest.write`")
    with document.building("a manifest"):
        read: _File = build(_File, document.value, _READERS)
    parametrization = read.parametrization
    document.require_written(_record(read.specs, parametrization, read.jaxmup))
    return Manifest(read.specs, parametrization, read.jaxmup)


def check(path: str | os.PathLike[str], specs: Any, parametrization: Parametrization) -> None:
    """Raises a `ValueError` unless the manifest at `path` is that of this model.

    Args:
      path: File that `write` wrote.
      specs: Tree of `ParamSpec` of the model that is to take over the checkpoint.
      parametrization: Parametrization that the model is trained with.

    Raises:
      OSError: if it cannot be read.
      TypeError: if a leaf of `specs` is no `ParamSpec`, or `parametrization` no `Parametrization`.
      ValueError: if the file is no manifest of this version, or naming every difference:
        parameters that one of the two lacks, and values that differ, with both.

    Example:
      >>> import tempfile
      >>> import jaxmup
      >>> path = Path(tempfile.mkdtemp(), "manifest.json")
      >>> rule = jaxmup.parametrization("mup", "adam")
      >>> write(path, {"bias": jaxmup.ParamSpec((jaxmup.Axis("output", 256, base=64),))}, rule)
      >>> check(path, {"bias": jaxmup.ParamSpec((jaxmup.Axis("output", 256, base=64),))}, rule)
    """
    _require_parametrization(parametrization)
    mine = require_leaves("specs", specs, ParamSpec, _SPECS)
    manifest = read(path)
    differences = [
        *_changes("parametrization", manifest.parametrization, parametrization),
        *(f"{name}: only in the manifest" for name in manifest.specs if name not in mine),
        *(f"{name}: only in the model" for name in mine if name not in manifest.specs),
    ]
    for name, spec in mine.items():
        differences += _changes(name, manifest.specs.get(name, spec), spec)
    if differences:
        raise ValueError(
            f"The manifest {path} must be that of the model. They differ at{listed(differences)}\n"
            "Build the model with the sizes, the base and the parametrization of the checkpoint."
        )


def _require_parametrization(value: object) -> None:
    if not isinstance(value, Parametrization):
        raise TypeError(f"`parametrization` must be a `Parametrization`. Got {value!r}.")


def _changes(name: str, saved: Any, mine: Any) -> Iterator[str]:
    """The fields of two records that differ."""
    for field in dataclasses.fields(saved):
        before, now = getattr(saved, field.name), getattr(mine, field.name)
        if field.compare and before != now:
            shown = f"{_text(before)} in the manifest, {_text(now)} in the model"
            yield f"{name}, {field.name}: {shown}"


def _text(value: Any) -> Any:
    """A value as it stands in the file."""
    return family_record(value) if isinstance(value, Family) else value


@dataclasses.dataclass(frozen=True)
class _File:
    """The fields of a manifest, in their order."""

    format: str
    version: int
    jaxmup: str
    parametrization: Parametrization
    specs: dict[str, ParamSpec]


def _record(
    specs: Mapping[str, ParamSpec], parametrization: Parametrization, version: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "jaxmup": version,
        "parametrization": _fields(parametrization),
        "specs": {name: as_json(dataclasses.asdict(spec)) for name, spec in specs.items()},
    }


def _fields(parametrization: Parametrization) -> dict[str, Any]:
    """A parametrization for JSON; families are their names, but for the user's own."""
    rows = [
        dataclasses.asdict(row) | {"family": family_record(row.family)}
        for row in parametrization.rows
    ]
    family = family_record(parametrization.family)
    return as_json(dataclasses.asdict(parametrization) | {"family": family, "rows": rows})


def _read_family(record: Any) -> Family:
    return read_family(record) if isinstance(record, str) else build(Family, record, {})


def _read_parametrization(record: Any) -> Parametrization:
    """A parametrization, which has a rule for each role."""
    made: Parametrization = build(Parametrization, record, {Family: _read_family})
    if len(made.rows) != len(ROLES):
        raise ValueError(f"`rows` must be of the roles {', '.join(ROLES)}. Got {len(made.rows)}.")
    return made


_READERS = {Parametrization: _read_parametrization}
