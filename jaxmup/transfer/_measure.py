"""The whole measurement: every sweep of a `Config` in turn, then the analysis."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from jaxmup import _check
from jaxmup.transfer._analysis import analyze
from jaxmup.transfer._config import Config
from jaxmup.transfer._findings import Analysis
from jaxmup.transfer._progress import Progress
from jaxmup.transfer._task import Task
from jaxmup.transfer._trial import Trial


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A measurement.

    Args:
      config: Configuration that was measured.
      trials: Every run.
      analyses: One analysis per parametrization, in the order of the configuration.
    """

    config: Config
    trials: tuple[Trial, ...]
    analyses: tuple[Analysis, ...]


def measure(
    config: Config,
    task: Task | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    directory: str | os.PathLike[str] | None = None,
) -> Result:
    """Trains every width x learning rate x seed under each parametrization, and analyzes it.

    Uses all local devices, and all processes that `jax.distributed` has joined: each calls this
    with the same arguments, takes its share, and gets the whole result. The same configuration on
    the same machine gives the same bits.

    Args:
      config: Widths, hyper-parameters, seeds and parametrizations to try.
      task: Model, data and loss; `None` for those that `config.model` names.
      progress: Function that is called before the runs of each width, between them, and once at
        the end.
      directory: Directory of `trials.jsonl`, which records each trial at once. A measurement that
        was killed loses those in flight, one on each device or, where runs are so small that they
        are vectorized, a batch of them; called again with the same arguments it goes on, and ends
        with the same bits. Its first line says what is measured: the configuration, digests of the
        programs of model, loss, optimizer and initial values, of the first batch and of the
        evaluation, versions and devices. `None` to record nothing.

    Raises:
      ModuleNotFoundError: if the digits are asked for and scikit-learn is not installed.
      OSError: if the directory cannot be written; what was recorded before is kept.
      ValueError: if the task is not fit to be trained, another measurement is running in the
        directory, or its trials are of another one, naming what differs.

    Example:
      >>> config = Config(widths=(8, 16), learning_rates=(0.01, 0.1), seeds=(0,), steps=2)
      >>> len(measure(config).trials)
      8
    """
    _check.made("config", config, "Config", "jaxmup.transfer.Config")
    if task is not None:
        _check.made("task", task, "Task", "jaxmup.transfer.Task")
    _check.function("progress", progress)
    # What trains loads Flax and optax, which reading a record need not.
    from jaxmup.transfer._models import task_of
    from jaxmup.transfer._train import train_all

    task = task_of(config) if task is None else task
    return result_of(config, train_all(task, config, progress, directory))


def result_of(config: Config, trials: Sequence[Trial]) -> Result:
    """The result that trials of a configuration make."""
    analyses = (
        analyze(t for t in trials if t.parametrization == name) for name in config.parametrizations
    )
    return Result(config, tuple(trials), tuple(analyses))
