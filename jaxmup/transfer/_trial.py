"""One run of a measurement."""

import dataclasses
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
      TypeError: if a number is none.
      ValueError: if one is not finite, `width` is below 1 or `seed` below 0.
    """

    parametrization: str
    width: int
    learning_rate: float
    seed: int
    loss: float | None
    others: Setting = ()
    curve: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        _check.size("width", self.width)
        _check.number("learning_rate", self.learning_rate)
        _check.size("seed", self.seed, at_least=0)
        if self.loss is not None:
            _check.number("loss", self.loss, remedy="`None` marks a diverged run.")
