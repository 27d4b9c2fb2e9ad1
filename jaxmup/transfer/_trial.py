"""One run of a measurement."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One run and how it ended.

    Args:
      parametrization: name of the parametrization.
      width: of the network.
      learning_rate: peak learning rate at base width.
      seed: of the initial values and the data order.
      loss: at the end, in nats; `None` if the run diverged to a loss that is no finite number.
      others: the other hyper-parameters that the sweep varies, by increasing name.
      curve: training loss at equally spaced steps of the run, in nats; `None` where it is no finite
        number; empty if it was not recorded.

    Raises:
      ValueError: if `loss` is NaN or infinite.
    """

    parametrization: str
    width: int
    learning_rate: float
    seed: int
    loss: float | None
    others: tuple[tuple[str, float], ...] = ()
    curve: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        if self.loss is not None and not math.isfinite(self.loss):
            raise ValueError(
                f"`loss` must be finite. Got {self.loss}. `None` marks a diverged run."
            )
