"""The settings that are tried at each width: all of them, some, or the better half of a half."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jaxmup._parametrization import ParametrizationName
from jaxmup.transfer._config import Config
from jaxmup.transfer._trial import Setting, Trial


class Cell(NamedTuple):
    """Networks to train at every learning rate and seed of a configuration.

    Args:
      parametrization: Name of the parametrization.
      width: Width of the networks.
      setting: Values of the other hyper-parameters.
    """

    parametrization: ParametrizationName
    width: int
    setting: Setting = ()


Train = Callable[[Sequence[Cell]], Sequence[Trial]]


def settings(config: Config) -> list[Setting]:
    """The settings of `config.sweep` that are tried, in the order of its grid.

    Example:
      >>> settings(Config(sweep={"depth": (2, 3)}))
      [(('depth', 2),), (('depth', 3),)]
    """
    names = sorted(config.sweep)
    grid = list(itertools.product(*(config.sweep[name] for name in names)))
    if config.samples is not None:
        drawn = random.Random(0).sample(range(len(grid)), config.samples)
        grid = [grid[i] for i in sorted(drawn)]
    return [tuple(zip(names, values, strict=True)) for values in grid]


def search(config: Config, train: Train) -> list[Trial]:
    """Every trial of a configuration, in an order that it alone decides.

    Args:
      config: Configuration of the measurement.
      train: Function that trains the networks of some cells, and returns their trials in the order
        of the cells.
    """
    names, widths = config.parametrizations, sorted(config.widths)
    if config.search != "halving":
        return [*train([Cell(*at) for at in itertools.product(names, widths, settings(config))])]
    trials: list[Trial] = []
    left = dict.fromkeys(names, settings(config))
    for steps in budgets(config):
        cells = [
            Cell(name, widths[0], with_steps(setting, steps))
            for name in names
            for setting in left[name]
        ]
        found = train(cells)
        trials += found
        left = {
            name: _better_half(left[name], steps, [t for t in found if t.parametrization == name])
            for name in names
        }
    final = [Cell(name, width, s) for name in names for width in widths for s in left[name]]
    return trials + list(train(final))


def budgets(config: Config) -> list[int]:
    """The steps of each round of halving before the last, which has all of them.

    Example:
      >>> budgets(Config(steps=20, sweep={"b2": (0.9, 0.95, 0.99)}, search="halving"))
      [5, 10]
    """
    # Each round halves the settings and doubles the steps, so that all rounds cost about the same.
    rounds = math.ceil(math.log2(len(settings(config))))
    return [max(config.steps // 2**i, 1) for i in range(rounds, 0, -1)]


def with_steps(setting: Setting, steps: int) -> Setting:
    """A setting of a round of halving: its trials say how long they were."""
    return tuple(sorted((*setting, ("steps", steps))))


def best_loss(trials: Iterable[Trial], width: int) -> float:
    """The smallest loss over the learning rates at a width: sums over seeds; infinite if diverged.

    Example:
      >>> best_loss([Trial("mup", 8, 0.1, 0, 2.0), Trial("mup", 8, 0.2, 0, None)], 8)
      2.0
    """
    by_rate: dict[float, list[float]] = {}
    for t in trials:
        if t.width == width:
            loss = math.inf if t.loss is None else t.loss
            by_rate.setdefault(t.learning_rate, []).append(loss)
    return min(map(math.fsum, by_rate.values()))


def _better_half(tried: list[Setting], steps: int, trials: Sequence[Trial]) -> list[Setting]:
    def loss(setting: Setting) -> float:
        found = [t for t in trials if t.others == with_steps(setting, steps)]
        return best_loss(found, found[0].width)

    kept = sorted(tried, key=loss)[: math.ceil(len(tried) / 2)]
    return [setting for setting in tried if setting in kept]
