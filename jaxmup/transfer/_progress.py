"""The progress of a measurement."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Work done and work to come.

    Args:
      done: Work done so far: parameters times steps, summed over runs.
      total: Work of the whole measurement, in the same unit; in successive halving, of a round.
      parametrization: Name of the parametrization of the runs that come now; `None` at the end.
      width: Width of the runs that come now; `None` at the end.
    """

    done: int
    total: int
    parametrization: str | None = None
    width: int | None = None
