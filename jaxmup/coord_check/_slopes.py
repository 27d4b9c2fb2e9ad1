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
    """The least-squares slope of the mean log over seeds, with Student's interval.

    Models of two sizes share no initial value, so every value is a replicate of its own: the noise
    is estimated from all of them, each against the mean at its size. A slope over the means only
    bends with a finite size; it adds nothing to the noise.

    Args:
      sizes: Widths or depths.
      values: Positive values of shape `(sizes, seeds)`.
      confidence: Confidence of the interval, such as 0.95.

    Example:
      >>> slope = fit([1, 2], np.array([[1.0, 1.0], [2.0, 4.0]]), confidence=0.95)
      >>> round(slope.value, 6), round(slope.half_width, 3)  # t is 4.303: two degrees of freedom
      (1.5, 2.151)
    """
    logs = np.log(values)
    number, seeds = logs.shape
    slope = log_slope(sizes, np.exp(logs.mean(1)))
    if seeds < 2:
        return Slope(slope, math.inf)
    return Slope(slope, student(number, seeds, confidence) * _error(sizes, logs))


def student(sizes: int, seeds: int, confidence: float) -> float:
    """Student's t for the noise of some sizes, each with its own mean."""
    return float(special.stdtrit(sizes * (seeds - 1), (1 + confidence) / 2))


def _error(sizes: Floats, logs: np.ndarray) -> float:
    """The standard error of a slope of means over seeds."""
    x = np.log(np.asarray(sizes, float))
    x = x - x.mean()
    variance = float(np.var(logs, axis=1, ddof=1).mean())
    return math.sqrt(variance / logs.shape[1] / float(x @ x))
