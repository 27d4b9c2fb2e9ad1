"""What a measurement is, as JSON types: for its record, and to know it again."""

import dataclasses
import importlib.metadata
import platform
from typing import Any

from jaxmup.transfer._config import Config

_PACKAGES = ("jaxmup", "jax", "jaxlib", "flax", "optax", "numpy")


def config_to_json(config: Config) -> dict[str, Any]:
    """A configuration, with the grid and the base width also where they were left to the defaults.

    What is read back by `config_from_json` does the same.
    """
    fields = dataclasses.asdict(config)
    sweep = {name: list(values) for name, values in config.sweep.items()}
    return fields | {
        "learning_rates": list(config.grid),
        "base_width": config.base,
        "widths": list(config.widths),
        "seeds": list(config.seeds),
        "parametrizations": list(config.parametrizations),
        "sweep": sweep,
    }


def config_from_json(record: dict[str, Any]) -> Config:
    """The configuration of which `config_to_json` made a record."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    sweep = {name: tuple(values) for name, values in record.get("sweep", {}).items()}
    return Config(**fields | {"sweep": sweep})


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return packages | {"python": platform.python_version()}
