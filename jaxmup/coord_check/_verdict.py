"""The verdict on one quantity: its slope over sizes against the exponents that theory expects."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxmup.coord_check._expected import Expected
from jaxmup.coord_check._slopes import Slope, fit, student
from jaxmup.coord_check._sums import Quantity

Outcome = Literal["pass", "fail", "too small", "not enough seeds"]

# The least that a wrong power of the width does to an exponent.
LEAST_MISTAKE = 0.5
# Halfway from what is right to the least mistake. It cannot be less because of a random readout:
# the logits that it starts with fall as n^-1/2, so the steps add a + b n^-1/2 to them, whose slope
# is 0 in the limit only. For a GPT of widths 64 to 512 it is -0.19, and -0.08 if the readout starts
# at zero. Where b is large, see `verdict`.
TOLERANCE = LEAST_MISTAKE / 2
# Times the largest size: what fades more slowly is called a failure.
_FURTHEST = 16.0
_MOST_SEEDS = 1000


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
      outcome: `pass`, `fail`, `too small` or `not enough seeds`.
      values: Mean over seeds, one for each size.
      needs: Where it is `too small`, the size that decides it by estimate; where there are `not
        enough seeds`, their number; else `None`.
      line: Line of the user's code that the output comes from, or that the parameter is first used
        at, such as `"model.py:115"` or `"In[5]:3"`; empty where none is known.
      source: That line as it stands in the source; empty likewise.
    """

    quantity: Quantity
    name: str
    layer: int | None
    step: int
    slope: Slope | None
    expected: Expected
    outcome: Outcome
    values: tuple[float, ...]
    needs: int | None = None
    line: str = ""
    source: str = ""

    @property
    def title(self) -> str:
        """The name, with the layer of a stack."""
        return self.name if self.layer is None else f"{self.name} (layer {self.layer})"


def judge(slope: Slope, expected: Expected, tolerance: float = TOLERANCE) -> Outcome:
    """The verdict on a slope.

    - `fail`: it is further than `tolerance` from every expected exponent, and its interval holds
      none of them.
    - `pass`: it is within `tolerance`, and its interval excludes exponents that are off by 1/2, the
      least that a wrong power of the width can do.
    - `not enough seeds`: the interval is too wide for either.

    Args:
      slope: Slope with its interval.
      expected: Exponents that theory expects.
      tolerance: Largest effect of a finite size on an exponent; dimensionless.

    Example:
      >>> flat = Expected.exactly(0.0)
      >>> judge(Slope(0.05, 0.1), flat), judge(Slope(0.5, 0.1), flat), judge(Slope(0.3, 0.4), flat)
      ('pass', 'fail', 'not enough seeds')
    """
    off = expected.off(slope.value)
    if off > tolerance:
        return "fail" if slope.half_width < off else "not enough seeds"
    return "pass" if slope.half_width < LEAST_MISTAKE - off else "not enough seeds"


class Judged(NamedTuple):
    """A verdict on values, as in `Verdict`."""

    slope: Slope | None
    outcome: Outcome
    needs: int | None = None


def verdict(
    sizes: Sequence[float],
    values: np.ndarray,
    expected: Expected,
    tolerance: float,
    confidence: float,
) -> Judged:
    """The slope of values of shape `(sizes, seeds)` and the verdict on it.

    Values that are zero or not finite at some size have no slope, and fail.

    Theory speaks of the limit of large sizes. A part that fades as :math:`n^{-1/2}` hides the
    exponent of that limit from small sizes, but a wrong power stands out the more the larger they
    are. So values that fail over three or more sizes get a second chance on the larger half of
    them: they pass if their slope there is within `tolerance` and excludes a mistake. If they do
    not, but are nearer to what is expected there than among the smaller, the sizes are `too small`:
    a mistake would be as far off, or further.
    """
    if not (np.isfinite(values).all() and (values > 0).all()):
        return Judged(None, "fail")
    order = np.argsort(sizes)
    ordered, values = np.asarray(sizes, float)[order], values[order]
    slope = fit(ordered, values, confidence)
    # The gain of a GPT's last norm, behind a random readout, is what the second chance is for: it
    # moves as 0.021 - 0.086 n^-1/2, of slope 0.30 from 64 to 256 and 0.12 from 256 to 512.
    outcome = judge(slope, expected, tolerance)
    if outcome == "not enough seeds":
        return Judged(slope, outcome, _seeds(slope, expected, tolerance, values.shape, confidence))
    if outcome == "pass" or len(sizes) < 3:
        return Judged(slope, outcome)
    half = len(sizes) // 2
    settled = fit(ordered[half:], values[half:], confidence)
    if judge(settled, expected, tolerance) == "pass":
        return Judged(settled, "pass")
    size = _size_that_decides(ordered, values, expected, tolerance, confidence)
    return Judged(slope, "fail") if size is None else Judged(slope, "too small", size)


def _seeds(
    slope: Slope,
    expected: Expected,
    tolerance: float,
    shape: tuple[int, ...],
    confidence: float,
) -> int | None:
    """The number of seeds whose interval would be narrow enough; `None` where one seed says not."""
    sizes, seeds = shape
    if math.isinf(slope.half_width):
        return None
    off = expected.off(slope.value)
    enough = off if off > tolerance else LEAST_MISTAKE - off
    each = slope.half_width / student(sizes, seeds, confidence) * math.sqrt(seeds)
    for more in range(seeds + 1, _MOST_SEEDS):
        if each / math.sqrt(more) * student(sizes, more, confidence) < enough:
            return more
    return _MOST_SEEDS


def _size_that_decides(
    sizes: np.ndarray,
    values: np.ndarray,
    expected: Expected,
    tolerance: float,
    confidence: float,
) -> int | None:
    """The size by which what is off will have faded, if it fades for certain; else `None`.

    What is off between the largest two sizes is compared with what is between the smallest two. It
    fades if the interval of the difference excludes that it stays, and if it is on its way below
    half a mistake: at the pace seen, a power of the size, within `_FURTHEST` times the largest.
    """
    pairs = ((0, 1), (len(sizes) - 2, len(sizes) - 1))
    first, last = (fit(sizes[list(pair)], values[list(pair)], confidence) for pair in pairs)
    near, far = expected.off(last.value), expected.off(first.value)
    same_side = (last.value > expected.high) == (first.value > expected.high)
    if not (same_side and far - near > math.hypot(first.half_width, last.half_width)):
        return None
    # Deviations stand at the middle of their sizes, by the logarithm.
    first_at, last_at = (math.sqrt(sizes[i] * sizes[j]) for i, j in pairs)
    power = math.log(far / near) / math.log(last_at / first_at)
    grows = (near / tolerance) ** (1 / power) if tolerance else math.inf
    if near <= tolerance:  # the larger half is undecided for its noise alone
        grows = 1.0
    if grows > _FURTHEST:
        return None
    return int(sizes[-1]) * 2 ** max(1, math.ceil(math.log2(grows)))
