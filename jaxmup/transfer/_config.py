"""What a transfer measurement is to do; stdlib only, so that a command line can read it."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

from jaxmup._families import FamilyName
from jaxmup._rules import ParametrizationName

OptimizerName = Literal["adam", "adamw", "amsgrad", "sgd"]

FAMILY: dict[OptimizerName, FamilyName] = {
    "adam": "adam",
    "adamw": "adam",
    "amsgrad": "adam",
    "sgd": "sgd",
}


def log2_grid(low: float, high: float, step: float = 0.5) -> tuple[float, ...]:
    """Learning rates `2^low, 2^(low + step), ...` up to `2^high`.

    Raises:
      ValueError: if a bound is not finite, `step` is not positive, or the range is empty or beyond
        float32.

    Example:
      >>> log2_grid(-3, -1, 1)
      (0.125, 0.25, 0.5)
    """
    if not (all(map(math.isfinite, (low, high, step))) and step > 0 and -120 <= low <= high <= 120):
        raise ValueError(
            "A range of log2 learning rates must have finite bounds, -120 <= low <= high <= 120, "
            f"and a step above 0. Got low={low:g}, high={high:g}, step={step:g}. "
            "Try low=-10, high=-3, step=0.5."
        )
    count = math.floor((high - low) / step + 1e-9) + 1
    return tuple(2.0 ** (low + i * step) for i in range(count))


# Wide enough that no width from 64 to 512 has its optimum at an edge, under either parametrization.
DEFAULT_GRID: dict[OptimizerName, tuple[float, ...]] = {
    "adam": log2_grid(-11, -3, 0.5),
    "adamw": log2_grid(-11, -3, 0.5),
    "amsgrad": log2_grid(-11, -3, 0.5),
    "sgd": log2_grid(-6, 1, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the outcome; checked in full when it is made.

    The model is `jaxmup.models.MLP` on the digits data. A run takes `steps` steps of the optimizer
    on shuffled batches while the learning rate falls linearly to zero, and its loss is the mean
    cross-entropy over the whole data set at the end, in nats.

    Args:
      widths: at least two different ones; sorted by whoever reads them.
      learning_rates: peak learning rates at base width; `None` for a grid that suits the optimizer.
      seeds: each gives initial values and a data order, the same for every learning rate; at least
        0.
      depth: number of hidden layers.
      batch_size: examples per step.
      steps: optimizer steps of a run.
      optimizer: `adam`, `adamw`, `amsgrad` or `sgd` (with momentum 0.9).
      parametrizations: names of those to compare.
      base_width: width at which every factor of a parametrization is 1; `None` for the smallest of
        `widths`.

    Raises:
      ValueError: if anything is out of range, naming the invariant, what was received and the
        remedy.

    Example:
      >>> Config(widths=(32, 64)).base
      32
      >>> Config(widths=(64,))
      Traceback (most recent call last):
      ...
      ValueError: `widths` must hold at least 2 different values. Got (64,). A drift needs two.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    learning_rates: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    depth: int = 3
    batch_size: int = 128
    steps: int = 20
    optimizer: OptimizerName = "adam"
    parametrizations: tuple[ParametrizationName, ...] = ("standard", "mup")
    base_width: int | None = None

    def __post_init__(self) -> None:
        _require_distinct("widths", self.widths, 2, "A drift needs two.")
        _require_distinct("seeds", self.seeds, 1, "One seed is enough to run, two show the noise.")
        _require_distinct("parametrizations", self.parametrizations, 1, "Try ('standard', 'mup').")
        _require_one_of("optimizer", self.optimizer, get_args(OptimizerName))
        for name in self.parametrizations:
            _require_one_of("parametrizations", name, get_args(ParametrizationName))
        for width in self.widths:
            _require_integer("widths", width, 1)
        for seed in self.seeds:
            _require_integer("seeds", seed, 0)
        for name in ("depth", "batch_size", "steps"):
            _require_integer(name, getattr(self, name), 1)
        if self.base_width is not None:
            _require_integer("base_width", self.base_width, 1)
        _require_distinct("learning_rates", self.grid, 1, "Leave it out for a grid that suits.")
        for rate in self.grid:
            _require_rate(rate)

    @property
    def grid(self) -> tuple[float, ...]:
        """The learning rates to try."""
        return DEFAULT_GRID[self.optimizer] if self.learning_rates is None else self.learning_rates

    @property
    def base(self) -> int:
        """The width at which every factor of a parametrization is 1."""
        return min(self.widths) if self.base_width is None else self.base_width


def _require_distinct(name: str, values: Iterable[Any], least: int, remedy: str) -> None:
    if not isinstance(values, tuple):
        raise ValueError(f"`{name}` must be a tuple. Got {values!r}. {remedy}")
    if len(set(values)) < least:
        plural = "value" if least == 1 else "different values"
        raise ValueError(f"`{name}` must hold at least {least} {plural}. Got {values!r}. {remedy}")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must not repeat a value. Got {values!r}. Drop the duplicates.")


def _require_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be integers of at least {least}. Got {value!r}.")


def _require_rate(rate: object) -> None:
    if not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise ValueError(
            f"`learning_rates` must be finite numbers above 0. Got {rate!r}. "
            "Try powers of two from 2^-10 to 2^-3."
        )


def _require_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}. Got {value!r}.")
