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

from jaxmup._correction import Correction, Site
from jaxmup._families import Family, family_record, read_family
from jaxmup._files import write_atomically
from jaxmup._parametrization import Parametrization, Row
from jaxmup._power import Power
from jaxmup._spec import Applied, Axis, ParamSpec
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
    record = {
        "format": FORMAT,
        "version": VERSION,
        "jaxmup": importlib.metadata.version("jaxmup"),
        "parametrization": _fields(parametrization),
        "specs": {name: _record(spec) for name, spec in by_name.items()},
    }
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read(path: str | os.PathLike[str]) -> Manifest:
    """Reads what `write` wrote; every number is the one that was written.

    Raises:
      OSError: if it cannot be read.
      ValueError: if the file is no manifest of this version.

    Example:
      >>> import tempfile
      >>> import jaxmup
      >>> path = Path(tempfile.mkdtemp(), "manifest.json")
      >>> write(path, {}, jaxmup.parametrization("mup", "sgd", gauge="table9"))
      >>> print(read(path).parametrization)
      mup/table9 (sgd)
    """
    try:
        record = json.loads(Path(path).read_bytes())
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} must be a manifest, which is JSON. {error}") from None
    found = (record.get("format"), record.get("version")) if isinstance(record, dict) else None
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"A manifest must be of format {FORMAT!r}, version {VERSION}. Got {found} in {path}. "
            "Read it with the version of jaxmup that wrote it, or write it anew with "
            "`jaxmup.manifest.write`."
        )
    try:
        return Manifest(
            {name: _spec(fields) for name, fields in record["specs"].items()},
            _parametrization(record["parametrization"]),
            record["jaxmup"],
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no whole manifest of version {VERSION}: {error!r}. Write it anew with "
            "`jaxmup.manifest.write`."
        ) from error


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
        if field.compare and _essence(before) != _essence(now):
            shown = f"{_text(before)} in the manifest, {_text(now)} in the model"
            yield f"{name}, {field.name}: {shown}"


def _essence(value: Any) -> Any:
    """A value without what may differ though the numbers are the same, as lines of code."""
    if isinstance(value, tuple) and value and isinstance(value[0], Correction):
        return [(one.site.op, one.site.operands, one.factor) for one in value]
    return value


def _text(value: Any) -> Any:
    """A value as it stands in the file."""
    if isinstance(value, tuple) and value and isinstance(value[0], Correction):
        return ", ".join(map(str, value))
    return family_record(value) if isinstance(value, Family) else value


def _record(spec: ParamSpec) -> dict[str, Any]:
    """A spec for JSON; what `lint` says of a program is no part of it."""
    fields = dataclasses.asdict(spec)
    del fields["findings"]
    return fields


def _spec(fields: Mapping[str, Any]) -> ParamSpec:
    applied = None if fields["applied"] is None else Applied(**fields["applied"])
    axes = tuple(Axis(**axis) for axis in fields["axes"])
    corrections = tuple(map(_correction, fields["corrections"]))
    return ParamSpec(**{**fields, "axes": axes, "applied": applied, "corrections": corrections})


def _correction(fields: Mapping[str, Any]) -> Correction:
    site = dict(fields["site"])
    lines = tuple((file, line, function) for file, line, function in site.pop("lines"))
    tuples = {name: tuple(site.pop(name)) for name in ("operands", "which")}
    return Correction(**{**fields, "site": Site(**site, **tuples, lines=lines)})


def _fields(parametrization: Parametrization) -> dict[str, Any]:
    """A parametrization for JSON; families are their names, but for the user's own."""
    rows = [
        dataclasses.asdict(row) | {"family": family_record(row.family)}
        for row in parametrization.rows
    ]
    family = family_record(parametrization.family)
    return dataclasses.asdict(parametrization) | {"family": family, "rows": rows}


def _parametrization(fields: Mapping[str, Any]) -> Parametrization:
    rows = tuple(_row(row) for row in fields["rows"])
    return Parametrization(**{**fields, "family": read_family(fields["family"]), "rows": rows})


def _row(fields: Mapping[str, Any]) -> Row:
    values: dict[str, Any] = {
        name: Power(**value) if isinstance(value, dict) and name != "family" else value
        for name, value in fields.items()
    }
    return Row(**{**values, "family": read_family(fields["family"])})
