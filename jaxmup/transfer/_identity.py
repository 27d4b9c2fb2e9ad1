"""Configuration and versions as JSON types: for the record, and to know a measurement again."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from jaxmup.transfer._config import Config

_PACKAGES = ("jaxmup", "jax", "jaxlib", "flax", "optax", "numpy")


def config_to_json(config: Config) -> dict[str, Any]:
    """A configuration, with the grid and the base width also where they were left to defaults."""
    fields = dataclasses.asdict(config)
    fields |= {"learning_rates": config.grid, "base_width": config.base}
    lists = {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}
    return lists | {"sweep": {name: list(values) for name, values in config.sweep.items()}}


def config_from_json(record: Mapping[str, Any]) -> Config:
    """The configuration of which `config_to_json` made a record."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    fields["sweep"] = {name: tuple(values) for name, values in record.get("sweep", {}).items()}
    return Config(**fields)


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return packages | {"python": platform.python_version()}
