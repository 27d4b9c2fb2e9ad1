"""Exponents of growth: slopes in log-log coordinates and their confidence intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

Floats = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Slope:
    """An exponent, with a confidence interval.

    Args:
      value: Exponent β of `size^β`; dimensionless.
      half_width: Half-width of the interval; infinite where one seed gives none.
    """

    value: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + self.half_width


def log_slope(sizes: Floats, values: Floats) -> float:
    """The least-squares slope of log value over log size.

    Example:
      >>> round(log_slope([2, 4, 8], [3.0, 12.0, 48.0]), 6)
      2.0
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    x = x - x.mean()
    return float(x @ y / (x @ x))


def fit(sizes: Floats, values: np.ndarray, confidence: float) -> Slope:
    """The mean over seeds of each seed's slope, with Student's interval for that mean.

    Seeds are independent replicates, so the interval needs no model of the noise within one.

    Args:
      sizes: Widths or depths.
      values: Positive values of shape `(sizes, seeds)`.
      confidence: Confidence of the interval, such as 0.95.

    Example:
      >>> slope = fit([1, 2], np.array([[1.0, 1.0], [2.0, 4.0]]), confidence=0.95)
      >>> slope.value, round(slope.half_width, 3)  # slopes 1 and 2, t = 12.706 with one degree
      (1.5, 6.353)
    """
    slopes = [log_slope(sizes, column) for column in values.T]
    n = len(slopes)
    if n < 2:
        return Slope(slopes[0], math.inf)
    error = float(np.std(slopes, ddof=1)) / math.sqrt(n)
    t = float(special.stdtrit(n - 1, (1 + confidence) / 2))
    return Slope(float(np.mean(slopes)), t * error)
