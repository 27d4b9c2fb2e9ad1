"""One run of a measurement."""

import dataclasses
import itertools
from typing import TypeAlias

from jaxmup import _check

Setting: TypeAlias = tuple[tuple[str, float], ...]
"""Values of hyper-parameters other than the learning rate, by increasing name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One run and how it ended.

    Args:
      parametrization: Name of the parametrization.
      width: Width of the network.
      learning_rate: Peak learning rate at base width.
      seed: Seed of the initial values and of the data order.
      loss: Loss at the end, in nats; `None` if the run diverged to what is no finite number.
      others: Values of the other hyper-parameters that the sweep varies, by increasing name.
      curve: Training loss at equally spaced steps of the run, in nats; `None` where it is no finite
        number; empty if it was not recorded.

    Raises:
      TypeError: if a number or a name is none.
      ValueError: if a number is not finite, `width` is below 1 or `seed` below 0, or `others` are
        not by increasing name.
    """

    parametrization: str
    width: int
    learning_rate: float
    seed: int
    loss: float | None
    others: Setting = ()
    curve: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.parametrization, *(name for name, _ in self.others)):
            if not isinstance(name, str):
                raise TypeError(f"A trial must have names that are text. Got {name!r}.")
        _check.size("width", self.width)
        _check.number("learning_rate", self.learning_rate)
        _check.size("seed", self.seed, at_least=0)
        if self.loss is not None:
            _check.number("loss", self.loss, remedy="`None` marks a diverged run.")
        for name, value in self.others:
            _check.number(f"others[{name!r}]", value)
        if any(one >= other for one, other in itertools.pairwise(dict(self.others))):
            raise ValueError(f"`others` must be by increasing name. Got {self.others!r}.")
        for value in self.curve:
            if value is not None:
                _check.number("curve", value, remedy="`None` marks what is no finite number.")
