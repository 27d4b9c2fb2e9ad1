"""The verdict on one quantity: its slope over sizes against the exponents that theory expects."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from jaxmup.coord_check._expected import Expected
from jaxmup.coord_check._slopes import Slope, fit
from jaxmup.coord_check._sums import Quantity

Outcome = Literal["pass", "fail", "not enough seeds"]

# The least that a wrong power of the width does to an exponent.
LEAST_MISTAKE = 0.5
# Halfway from what is right to the least mistake. It cannot be less because of a random readout:
# the logits that it starts with fall as n^-1/2, so the steps add a + b n^-1/2 to them, whose slope
# is 0 in the limit only. For a GPT of widths 64 to 512 it is -0.19, and -0.08 if the readout starts
# at zero. Where b is large, see `verdict`.
TOLERANCE = LEAST_MISTAKE / 2


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on one quantity of one module or parameter.

    Args:
      quantity: Quantity that was measured.
      name: Name of the module or parameter.
      layer: Index of the layer where a scan has stacked layers, counted in the model with the
        fewest of them; `None` elsewhere.
      step: Step of the training run.
      slope: Exponent over the sizes that the verdict rests on, as in `verdict`; `None` where a
        value is zero or not finite.
      expected: Exponents that theory expects.
      outcome: `pass`, `fail` or `not enough seeds`.
      values: Mean over seeds, one for each size.
    """

    quantity: Quantity
    name: str
    layer: int | None
    step: int
    slope: Slope | None
    expected: Expected
    outcome: Outcome
    values: tuple[float, ...]

    @property
    def title(self) -> str:
        """The name, with the layer of a stack."""
        return self.name if self.layer is None else f"{self.name} (layer {self.layer})"


def judge(slope: Slope, expected: Expected, tolerance: float = TOLERANCE) -> Outcome:
    """The verdict on a slope.

    - `fail`: the whole interval is further than `tolerance` from every expected exponent.
    - `pass`: it is not, and the interval excludes exponents that are off by 1/2, the least that a
      wrong power of the width can do.
    - `not enough seeds`: it is so wide that it excludes neither.

    Args:
      slope: Slope with its interval.
      expected: Exponents that theory expects.
      tolerance: Largest effect of a finite size on an exponent; dimensionless.

    Example:
      >>> flat = Expected.exactly(0.0)
      >>> judge(Slope(0.05, 0.1), flat), judge(Slope(0.5, 0.1), flat), judge(Slope(0.3, 0.4), flat)
      ('pass', 'fail', 'not enough seeds')
    """
    if slope.low > expected.high + tolerance or slope.high < expected.low - tolerance:
        return "fail"
    excluded = (
        expected.low - LEAST_MISTAKE < slope.low and slope.high < expected.high + LEAST_MISTAKE
    )
    return "pass" if excluded else "not enough seeds"


def verdict(
    sizes: Sequence[float],
    values: np.ndarray,
    expected: Expected,
    tolerance: float,
    confidence: float,
) -> tuple[Slope | None, Outcome]:
    """The slope of values of shape `(sizes, seeds)` and the verdict on it.

    Values that are zero or not finite at some size have no slope, and fail.

    Theory speaks of the limit of large sizes. A part that fades as :math:`n^{-1/2}` hides the
    exponent of that limit from small sizes, but a wrong power stands out the more the larger they
    are. So values that fail over three or more sizes get a second chance on the larger half of
    them: they pass if their slope there is within `tolerance` and excludes a mistake.
    """
    if not (np.isfinite(values).all() and (values > 0).all()):
        return None, "fail"
    slope = fit(sizes, values, confidence)
    # The gain of a GPT's last norm, behind a random readout, is what the second chance is for: it
    # moves as 0.021 - 0.086 n^-1/2, of slope 0.30 from 64 to 256 and 0.12 from 256 to 512.
    outcome = judge(slope, expected, tolerance)
    if outcome == "fail" and len(sizes) > 2:
        larger = np.argsort(sizes)[len(sizes) // 2 :]
        settled = fit(np.asarray(sizes)[larger], values[larger], confidence)
        near = expected.low - tolerance <= settled.value <= expected.high + tolerance
        if near and judge(settled, expected, tolerance) == "pass":
            return settled, "pass"
    return slope, outcome


def overall(verdicts: Iterable[Verdict]) -> Outcome:
    """`fail` if anything fails, else `not enough seeds` if anything is open, else `pass`."""
    outcomes = {one.outcome for one in verdicts}
    for outcome in ("fail", "not enough seeds"):
        if outcome in outcomes:
            return outcome
    return "pass"
