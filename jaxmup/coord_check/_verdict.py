"""Does a quantity grow as it should? The slope over sizes against what theory expects."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from jaxmup.coord_check._expected import Expected
from jaxmup.coord_check._sizes import Quantity
from jaxmup.coord_check._slopes import Slope, fit

Outcome = Literal["pass", "fail", "not enough seeds"]

# The least that a wrong power of the width does to an exponent.
LEAST_MISTAKE = 0.5
# Nearer to what is right than to that. A random readout is why it is not less: the logits that it
# starts with fall as n^-1/2, so what the steps add to them is a + b n^-1/2, whose slope is 0 in the
# limit only. For a GPT of widths 64 to 512 it is -0.19, and -0.08 if the readout starts at zero.
# Where b is large, see `verdict`.
TOLERANCE = LEAST_MISTAKE / 2


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on one quantity of one module or parameter.

    Args:
      quantity: what was measured.
      name: of the module or parameter.
      layer: of a scanned stack, of the model that has fewest; `None` elsewhere.
      step: of the training run.
      slope: its exponent over the sizes that it was judged by, as in `verdict`; `None` where a
        value is zero or not finite.
      expected: the exponents that theory expects.
      outcome: `pass`, `fail` or `not enough seeds`.
      values: mean over seeds, one for each size.
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
      slope: with its interval.
      expected: what theory expects.
      tolerance: what a finite size may do to an exponent; dimensionless.

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

    What is zero or not finite at some sizes has no slope, and is as it should be nowhere.

    An exponent is that of a limit, which what fades as :math:`n^{-1/2}` hides from small sizes: the
    gain of a GPT's last norm, behind a random readout, moves as 0.021 - 0.086 n^-1/2, of slope 0.30
    from 64 to 256 and 0.12 from 256 to 512. The slope of a wrong power does the opposite, for what
    fades leaves more of it. So what fails is judged by the larger half of three or more sizes, if
    there it is nearer to what is right than to a mistake, and excludes one.
    """
    if not (np.isfinite(values).all() and (values > 0).all()):
        return None, "fail"
    slope = fit(sizes, values, confidence)
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
