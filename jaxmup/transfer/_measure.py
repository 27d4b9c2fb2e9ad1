"""The whole measurement: every sweep of a `Config` in turn, then the analysis."""

import dataclasses
import itertools
from collections.abc import Callable

from jaxmup.data import Dataset, digits
from jaxmup.transfer._analysis import Analysis, analyze
from jaxmup.transfer._config import Config
from jaxmup.transfer._trial import Trial


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a measurement has come.

    Args:
      done: work done so far, in multiply-adds of a training example, summed over runs.
      total: work of the whole measurement, in the same unit.
      parametrization: of the sweep that starts now; `None` at the end.
      width: of the sweep that starts now; `None` at the end.
    """

    done: int
    total: int
    parametrization: str | None = None
    width: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A measurement: what was asked, every run, and one `Analysis` per parametrization."""

    config: Config
    trials: tuple[Trial, ...]
    analyses: tuple[Analysis, ...]


def measure(
    config: Config,
    dataset: Dataset | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Trains every width x learning rate x seed under each parametrization, and analyzes it.

    Uses all local devices. The same configuration on the same machine gives the same bits.

    Args:
      config: what to do.
      dataset: what to train on; `None` for the digits.
      progress: called before each sweep and once at the end.

    Raises:
      ModuleNotFoundError: if the digits are asked for and scikit-learn is not installed.

    Example:
      >>> config = Config(widths=(8, 16), learning_rates=(0.01, 0.1), seeds=(0,), steps=2)
      >>> len(measure(config).trials)
      8
    """
    from jaxmup.transfer._sweep import (
        sweep,
    )  # trains: loads Flax and optax, which reading a record need not

    dataset = digits() if dataset is None else dataset
    sweeps = list(itertools.product(config.parametrizations, sorted(config.widths)))
    costs = [_multiply_adds(config, width, dataset) for _, width in sweeps]
    trials: list[Trial] = []
    for i, (name, width) in enumerate(sweeps):
        progress(Progress(sum(costs[:i]), sum(costs), name, width))
        trials += sweep(config, width, name, dataset)
    progress(Progress(sum(costs), sum(costs)))
    analyses = (
        analyze(t for t in trials if t.parametrization == name) for name in config.parametrizations
    )
    return Result(config, tuple(trials), tuple(analyses))


def _multiply_adds(config: Config, width: int, dataset: Dataset) -> int:
    per_example = width * (dataset.features + (config.depth - 1) * width + dataset.classes)
    return per_example * len(config.grid) * len(config.seeds)
