"""The configuration of a measurement; standard library alone, so that help comes quickly."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jaxmup import _check
from jaxmup._families import FamilyName
from jaxmup._parametrization import ParametrizationName

OptimizerName = Literal["adam", "adamw", "amsgrad", "sgd"]
SearchName = Literal["grid", "random", "halving"]
# The models that have a name, and the data that each is for.
MODELS = {"mlp": "digits", "cnn": "images", "gpt": "text"}

FAMILY: dict[OptimizerName, FamilyName] = {
    "adam": "adam",
    "adamw": "adam",
    "amsgrad": "adam",
    "sgd": "sgd",
}

_ADAM = ("b1", "b2", "eps", "weight_decay")
STDS = ("input_std", "hidden_std", "output_std")
# Hyper-parameters that are numbers of a compiled program: all their values share one.
NUMBERS: dict[OptimizerName, tuple[str, ...]] = {
    "adam": _ADAM + STDS,
    "adamw": _ADAM + STDS,
    "amsgrad": _ADAM + STDS,
    "sgd": ("momentum", "weight_decay", *STDS),
}
# Hyper-parameters that have a field of their own, for when they are not swept.
_SIZES = ("depth", "batch_size", "steps")
_SWEPT_ALWAYS = {"width": "widths", "learning_rate": "learning_rates", "seed": "seeds"}


def log2_grid(low: float, high: float, step: float = 0.5) -> tuple[float, ...]:
    """Learning rates `2^low, 2^(low + step), ...` up to `2^high`.

    Raises:
      ValueError: if a bound is not finite, `step` is not positive, or the range is empty or beyond
        float32.

    Example:
      >>> log2_grid(-3, -1, 1)
      (0.125, 0.25, 0.5)
    """
    for name, value in {"low": low, "high": high, "step": step}.items():
        if not _check.is_number(value):
            raise TypeError(f"`{name}` must be a real number, a log2. Got {value!r}.")
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

    A run takes `steps` steps of the optimizer while the learning rate falls linearly to zero, after
    it has risen linearly for the first `warmup` of them. Its loss is that at the end, on data of
    its own, in nats for the models that are named here.

    Args:
      widths: Widths of the networks, at least two, in any order.
      learning_rates: Peak learning rates at base width; `None` for a grid that fits the optimizer.
      seeds: Seeds of initial values and data order, of at least 0; the same at every learning rate.
      depth: Number of hidden layers, convolutions or blocks; a factory of one's own gets it if it
        has a parameter `depth`.
      batch_size: Examples per step; data of one's own get it if they have a parameter of that name.
      steps: Optimizer steps of a run.
      warmup: Steps in which the learning rate rises; 0 for none.
      optimizer: Name of the optimizer: `adam`, `adamw`, `amsgrad` or `sgd` (with momentum 0.9).
      parametrizations: Names of the parametrizations to compare.
      base_width: Width at which every factor of a parametrization is 1; `None` for the smallest of
        `widths`.
      model: Name of the model. `mlp` and `cnn` classify the digits and have their loss on all of
        them; `gpt` predicts the next byte of a text, and has its loss on text that was held out.
        Any other name stands in the record for the model of a `Task`.
      data: Name of the data: `digits`, `images` (the digits, of shape 8 x 8 x 1) or `text`; `None`
        for those that suit the model. Any other name stands in the record for those of a `Task`.
      loss_fn: Name of the loss function, for the record; `None` for the cross-entropy.
      text: File with the text; `None` for Python's standard library.
      context: Length of a sequence of text, in bytes.
      sweep: Values of other hyper-parameters, by name: `b1`, `b2`, `eps`, `weight_decay` or
        `momentum` of the optimizer; `input_std`, `hidden_std`, `output_std`, a factor on the
        initial values of all matrices of a role (σ); `depth`, `batch_size`, `steps`; or a parameter
        of the model's factory.
      search: Way through the settings of `sweep`. `grid` tries all of them, `random` tries
        `samples` of them, each with every learning rate at every width. `halving` starts with
        `samples` of them at the smallest width and a fraction of the steps, trains the better half
        of them twice as long, and so on; the last one is tried at every width.
      samples: Number of settings that are drawn; `None` for all of them.

    Raises:
      TypeError: if anything is of another type.
      ValueError: if anything is out of range.

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
    warmup: int = 0
    optimizer: OptimizerName = "adam"
    parametrizations: tuple[ParametrizationName, ...] = ("standard", "mup")
    base_width: int | None = None
    model: str = "mlp"
    data: str | None = None
    loss_fn: str | None = None
    text: str | None = None
    context: int = 64
    sweep: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    search: SearchName = "grid"
    samples: int | None = None

    def __post_init__(self) -> None:
        _require_distinct("widths", self.widths, 2, "A drift needs two.")
        _require_distinct("seeds", self.seeds, 1, "One seed is enough to run, two show the noise.")
        _require_distinct("parametrizations", self.parametrizations, 1, "Try ('standard', 'mup').")
        _check.one_of("optimizer", self.optimizer, get_args(OptimizerName))
        for name in self.parametrizations:
            _check.one_of("parametrizations", name, get_args(ParametrizationName))
        for width in self.widths:
            _check.size("widths", width)
        for seed in self.seeds:
            _check.size("seeds", seed, at_least=0)
        for name in (*_SIZES, "context"):
            _check.size(name, getattr(self, name))
        _check.size("warmup", self.warmup, at_least=0)
        if self.warmup > self.steps:
            raise ValueError(
                f"`warmup` must be at most `steps`, or the learning rate never gets to its value. "
                f"Got {self.warmup} of {self.steps}."
            )
        if self.base_width is not None:
            _check.size("base_width", self.base_width)
        _require_distinct("learning_rates", self.grid, 1, "Leave it out for a grid that suits.")
        for rate in self.grid:
            _require_rate(rate)
        for name, values in self.sweep.items():
            _require_swept(name, values, self.optimizer)
        if self.data is not None and self.model in MODELS:
            raise ValueError(
                f"`data` must be left out: {self.model} has its own. Got {self.data!r}."
            )
        _check.one_of("search", self.search, get_args(SearchName))
        _require_search(self)

    @property
    def grid(self) -> tuple[float, ...]:
        """The learning rates to try."""
        return DEFAULT_GRID[self.optimizer] if self.learning_rates is None else self.learning_rates

    @property
    def base(self) -> int:
        """The width at which every factor of a parametrization is 1."""
        return min(self.widths) if self.base_width is None else self.base_width

    def of(self, name: str, setting: Mapping[str, float]) -> int:
        """The value of `depth`, `batch_size` or `steps` under a setting of the sweep."""
        return int(setting.get(name, getattr(self, name)))


def _require_swept(name: str, values: tuple[float, ...], optimizer: OptimizerName) -> None:
    if field := _SWEPT_ALWAYS.get(name):
        raise ValueError(f"`sweep` is for other hyper-parameters. Got {name!r}. Use `{field}`.")
    _require_distinct(f"sweep[{name!r}]", values, 1, "Try {'b2': (0.95, 0.999)}.")
    known_elsewhere = {known for numbers in NUMBERS.values() for known in numbers}
    if name in known_elsewhere - set(NUMBERS[optimizer]):
        raise ValueError(
            f"`sweep` must name hyper-parameters that {optimizer} has: "
            f"{', '.join(NUMBERS[optimizer])}. Got {name!r}."
        )
    for value in values:
        if name in _SIZES:
            _check.size(f"sweep[{name!r}]", value)
        else:
            _check.number(f"sweep[{name!r}]", value, **_RANGES.get(name, {}))


# What has no range here is a parameter of the model's factory, and may be any number.
_RANGES: dict[str, dict[str, Any]] = {
    **{name: {"at_least": 0, "below": 1} for name in ("b1", "b2", "momentum")},
    **{name: {"at_least": 0} for name in ("eps", "weight_decay")},
    **{name: {"above": 0} for name in STDS},
}


def _require_search(config: Config) -> None:
    settings = math.prod(map(len, config.sweep.values()))
    if config.samples is not None:
        _check.size("samples", config.samples)
        if config.search == "grid" or config.samples > settings:
            raise ValueError(
                f"`samples` must be at most the {settings} settings of `sweep`, of which `random` "
                f"and `halving` draw some. Got {config.samples} for the search {config.search!r}."
            )
    if config.search == "random" and config.samples is None:
        raise ValueError("A random search must have `samples`, a number of settings. Got none.")
    if config.search == "halving" and (settings < 2 or "steps" in config.sweep):
        raise ValueError(
            "Halving must have at least 2 settings of `sweep` to choose from, and sets the steps "
            f"itself. Got {dict(config.sweep)!r}. Try {{'b2': (0.9, 0.99)}}, or the search 'grid'."
        )


def _require_distinct(name: str, values: object, least: int, remedy: str) -> None:
    if not isinstance(values, tuple):
        raise TypeError(f"`{name}` must be a tuple. Got {values!r}. {remedy}")
    if len(set(values)) < least:
        plural = "value" if least == 1 else "different values"
        raise ValueError(f"`{name}` must hold at least {least} {plural}. Got {values!r}. {remedy}")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must not repeat a value. Got {values!r}. Drop the duplicates.")


def _require_rate(rate: object) -> None:
    remedy = "Try powers of two from 2^-10 to 2^-3."
    _check.number("learning_rates", rate, above=0, remedy=remedy)
    # Rates are numbers of a compiled program in float32, where others would be 0 or infinite.
    _check.number("learning_rates", rate, at_least=2.0**-126, at_most=2.0**127, remedy=remedy)
