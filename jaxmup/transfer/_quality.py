"""A stricter verdict: what transfer is worth, beyond a best value that stays where it is."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from scipy import special

from jaxmup import _check
from jaxmup.transfer import _statistics as statistics
from jaxmup.transfer._analysis import Study, analyze_by_width
from jaxmup.transfer._findings import Analysis, Interval
from jaxmup.transfer._trial import Trial

Answer = Literal["yes", "no", "undecided"]
OFF = 0.5
"""The distance from a best value whose cost is told, in octaves."""
_LEAST_WIDTHS = 4  # for the three numbers of a power law and one to contradict it
# Exponents of width at which a power law is tried.
_EXPONENTS = np.linspace(0.1, 2.5, 97)


@dataclasses.dataclass(frozen=True, slots=True)
class Robustness:
    """The cost of a hyper-parameter that is half an octave off, at one width.

    Args:
      width: Width of the network.
      below: Extra loss at half an octave below the best value, in percent; `None` if nothing was
        tried as far.
      above: Extra loss at half an octave above it; `None` likewise, or if a run diverged there.
    """

    width: int
    below: float | None
    above: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """The loss of infinitely wide networks, by the power law `loss = limit + c · width^-power`.

    Args:
      tuned: Limit of the loss at the best value of each width, in nats.
      reused: Limit of the loss at the best value of the smallest width.
      power: Exponent of the law, fitted to the tuned losses.
      penalty: Excess of `reused` over `tuned`, in percent.
      penalty_interval: Interval of the penalty; `None` with one seed.
    """

    tuned: float
    reused: float
    power: float
    penalty: float
    penalty_interval: Interval | None


@dataclasses.dataclass(frozen=True, slots=True)
class Tuning:
    """Tuning a small network for the largest, beside tuning the largest, at equal compute.

    Args:
      width: Width of the small network.
      runs: Number of runs of the largest network that cost as much as the whole grid at the small
        width and one run of the largest.
      small: Loss of the largest network at the best value of the small one; infinite if it
        diverged.
      large: Median of the best loss of so many runs of it at values of the grid at random.
      pays: `yes` if `small` is below `large` by more than the seeds explain, `no` if above.
    """

    width: int
    runs: int
    small: float
    large: float
    pays: Answer


@dataclasses.dataclass(frozen=True, slots=True)
class Wider:
    """One width against the next, both at the best value of the smallest.

    Args:
      narrow: Smaller width.
      wide: Larger width.
      excess: Final loss of the wider network less the narrower one's, mean over seeds, in nats;
        infinite if the wider one diverged.
      interval: Interval of the excess, all pairs together at 95 %; `None` with one seed.
      better: `yes` if the interval is below zero, `no` if it is above.
    """

    narrow: int
    wide: int
    excess: float
    interval: Interval | None
    better: Answer


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """The worth of transfer.

    `print(quality)` shows it.

    Args:
      analysis: Analysis that it goes beyond.
      robustness: Cost of half an octave, at each width.
      limit: Losses of infinite width; `None` where they cannot be told.
      why_no_limit: Reason for that; empty where there is a limit.
      tuning: Tuning each smaller width for the largest, at equal compute.
      wider: Each pair of neighboring widths.
    """

    analysis: Analysis
    robustness: tuple[Robustness, ...]
    limit: Limit | None
    why_no_limit: str
    tuning: tuple[Tuning, ...]
    wider: tuple[Wider, ...]

    @property
    def wider_is_better(self) -> Answer:
        """`yes` if it is for every pair of widths, `no` if for some it is not.

        Where training curves were recorded, a wider network that was worse for a tenth of the run,
        by more than the seeds explain, is a `no` too.
        """
        crossed = any(one.certain for one in self.analysis.crossings or ())
        return "no" if crossed else _all(one.better for one in self.wider)

    @property
    def tuning_small_pays(self) -> Answer:
        """`yes` if tuning the smallest width is better than tuning the largest at equal compute."""
        return self.tuning[0].pays

    def __str__(self) -> str:
        lines = [self.analysis.verdict, "What half an octave off costs:"]
        for one in self.robustness:
            costs = ", ".join(
                f"{'not known' if cost is None else f'{cost:.2g} %'} {side}"
                for side, cost in (("below", one.below), ("above", one.above))
            )
            lines.append(f"  width {one.width}: {costs}")
        lines += [self._limit(), f"Tuning small pays: {self.tuning_small_pays}"]
        lines += [
            f"  width {one.width}: a loss of {one.small:.4g}, beside {one.large:.4g} from "
            f"{one.runs} runs of the largest: {one.pays}"
            for one in self.tuning
        ]
        lines.append(f"Wider is better: {self.wider_is_better}")
        lines += [
            f"  {one.narrow} to {one.wide}: {one.excess:+.3g}{_range(one.interval)}: {one.better}"
            for one in self.wider
        ]
        return "\n".join(lines)

    def _limit(self) -> str:
        one = self.limit
        if one is None:
            return f"The penalty at infinite width is not known: {self.why_no_limit}"
        return (
            f"At infinite width the small network's value costs {one.penalty:.2g} %"
            f"{_range(one.penalty_interval)}: {one.reused:.4g} instead of {one.tuned:.4g}, by "
            f"width^-{one.power:.2g}"
        )


def quality(
    trials: Iterable[Trial],
    over: str = "learning_rate",
    *,
    cost: Callable[[int], float] = lambda width: float(width) ** 2,
) -> Quality:
    r"""The worth of transfer, from the trials of one parametrization.

    Beyond the best value that stays, which `analyze` looks at:

    - what half an octave off costs at each width;
    - the penalty of the small network's value where networks are infinitely wide, by a power law
      :math:`loss = limit + c \cdot width^{-power}` in the tuned and in the reused losses;
    - whether the grid at a small width and one large run are a better use of compute than as many
      large runs as that would pay for, at values of the grid at random;
    - whether each width ends better than the one before, both at the value of the smallest.

    Args:
      trials: Runs of every width x point x seed, as for `analyze`, over a log2 scale.
      over: Name of the hyper-parameter to analyze.
      cost: Function from a width to the cost of a run, in any unit; by default its square, as that
        of matrix products.

    Raises:
      TypeError: if `cost` is no function.
      ValueError: if `analyze` refuses the trials, or a cost is not a positive number.

    Example:
      >>> rates = [2.0**k for k in range(-4, 5)]
      >>> trials = [
      ...     Trial("mup", n, rate, seed, 1 + 8 / n + 0.1 * math.log2(rate) ** 2)
      ...     for n in (8, 16, 32, 64) for rate in rates for seed in (0, 1)
      ... ]
      >>> found = quality(trials)
      >>> round(found.robustness[0].above, 2), round(found.limit.tuned, 3)
      (1.25, 1.0)
      >>> found.tuning_small_pays, found.wider_is_better
      ('yes', 'yes')

    References:
      Kalra and Barkeshli, arXiv:2605.21486 (robustness and asymptotic penalty). Ghosh, Wu and
      Bietti, arXiv:2512.22768 (equal compute).
    """
    _check.function("cost", cost)
    trials = list(trials)
    analysis, studies = analyze_by_width(trials, over)
    if analysis.scale != "log2":
        raise ValueError(
            f"`quality` measures distances in octaves. `{over}` has a linear scale. Use `analyze`."
        )
    costs = [cost(study.curve.width) for study in studies]
    for one in costs:
        _check.number("cost", one, above=0)
    limit, why = _limit_of(studies, analysis.seeds)
    return Quality(
        analysis,
        tuple(_robustness(study) for study in studies),
        limit,
        why,
        tuple(_tuning(studies, costs, i, analysis.seeds) for i in range(len(studies) - 1)),
        tuple(_wider(analysis, trials)),
    )


def _all(answers: Iterable[Answer]) -> Answer:
    found = set(answers)
    return "no" if "no" in found else "undecided" if "undecided" in found else "yes"


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval.low:+.2g} to {interval.high:+.2g})"


def _robustness(study: Study) -> Robustness:
    curve = study.curve
    if curve.optimum is None:
        return Robustness(curve.width, None, None)
    best = _loss_at(study, curve.optimum)

    def cost(at: float) -> float | None:
        loss = _loss_at(study, at)
        return None if best is None or loss is None else 100 * (loss - best) / best

    return Robustness(curve.width, cost(curve.optimum - OFF), cost(curve.optimum + OFF))


def _loss_at(study: Study, at: float) -> float | None:
    """The loss at a value: of the parabola where it was fitted, else between the points tried."""
    curve, fit = study.curve, study.curve.fit
    if fit is not None and fit.low <= at <= fit.high:
        return fit.minimum + fit.curvature * (at - fit.vertex) ** 2
    x = np.log2(curve.values)
    if not x[0] <= at <= x[-1]:
        return None
    losses = np.array([math.inf if one is None else one for one in curve.losses])
    found = float(np.interp(at, x, losses))
    return found if math.isfinite(found) else None


def _limit_of(studies: Sequence[Study], seeds: int) -> tuple[Limit | None, str]:
    if len(studies) < _LEAST_WIDTHS:
        return None, f"a power law takes {_LEAST_WIDTHS} widths, there are {len(studies)}."
    widths = np.array([study.curve.width for study in studies], float)
    tuned = np.stack([study.losses.min(axis=1) for study in studies])
    reused = np.stack([_at(study, studies[0].best) for study in studies])
    if not (np.isfinite(tuned).all() and np.isfinite(reused[:, 0]).all()):
        return None, "a network diverged."
    power, known = _power(widths, tuned[:, 0])
    if not known:
        return None, "the losses of these widths follow no power law that settles."
    limits = [_intercepts(widths**-power, losses) for losses in (tuned, reused)]
    if limits[0][0] <= 0:
        return None, "the power law settles at no positive loss."
    percent = 100 * (limits[1] / limits[0] - 1)
    interval = statistics.interval(percent[None], seeds)
    at = (float(limits[0][0]), float(limits[1][0]))
    return Limit(*at, power, float(percent[0]), interval), ""


def _at(study: Study, points: np.ndarray) -> np.ndarray:
    """The loss at a point of each resample."""
    return np.take_along_axis(study.losses, points[:, None], axis=1)[:, 0]


def _power(widths: np.ndarray, losses: np.ndarray) -> tuple[float, bool]:
    """The exponent that fits best, and whether it is within those tried."""
    errors = [_residual(widths**-power, losses) for power in _EXPONENTS]
    best = int(np.argmin(errors))
    return float(_EXPONENTS[best]), 0 < best < len(_EXPONENTS) - 1


def _residual(x: np.ndarray, losses: np.ndarray) -> float:
    design = np.stack([np.ones_like(x), x], axis=1)
    left = losses - design @ np.linalg.lstsq(design, losses, rcond=None)[0]
    return float(left @ left)


def _intercepts(x: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The value at zero of the line through each column of `losses`."""
    slopes = statistics.slope_weights(x) @ losses
    return losses.mean(axis=0) - slopes * x.mean()


def _tuning(studies: Sequence[Study], costs: Sequence[float], i: int, seeds: int) -> Tuning:
    small, large = studies[i], studies[-1]
    points = large.losses.shape[1]
    # Where a run of the largest alone is all that is affordable, its value is one at random.
    runs = min(points, max(1, int((points * costs[i] + costs[-1]) / costs[-1])))
    reused = _at(large, small.best)
    direct = np.sort(large.losses, axis=1)[:, _median_rank(points, runs)]
    return Tuning(
        small.curve.width,
        runs,
        float(reused[0]),
        float(direct[0]),
        _pays(reused, direct, seeds),
    )


def _median_rank(points: int, runs: int) -> int:
    """The rank, from 0, that the best of some runs at random points reaches half of the time.

    Example:
      >>> _median_rank(9, 1), _median_rank(9, 2), _median_rank(9, 9)
      (4, 2, 0)
    """
    for rank in range(points):
        if math.comb(points - rank - 1, runs) / math.comb(points, runs) <= 0.5:
            return rank
    return points - 1


def _pays(reused: np.ndarray, direct: np.ndarray, seeds: int) -> Answer:
    if math.isinf(reused[0]) or math.isinf(direct[0]):
        return "undecided" if reused[0] == direct[0] else "no" if math.isinf(reused[0]) else "yes"
    interval = statistics.interval((reused - direct)[None], seeds)
    return _sign(interval, float(reused[0] - direct[0]))


def _sign(interval: Interval | None, value: float) -> Answer:
    """`yes` if a difference is certainly negative, `no` if it is certainly positive."""
    if interval is None or not math.isfinite(value):
        return "no" if value == math.inf else "undecided"
    return "yes" if interval.high < 0 else "no" if interval.low > 0 else "undecided"


def _wider(analysis: Analysis, trials: Sequence[Trial]) -> Iterable[Wider]:
    first = analysis.curves[0]
    if first.best is None:
        return
    point = dict(first.others) | {analysis.over: first.values[first.best]}
    losses: dict[int, dict[int, float]] = {}
    for t in trials:
        if {"learning_rate": t.learning_rate} | dict(t.others) == point:
            losses.setdefault(t.width, {})[t.seed] = math.inf if t.loss is None else t.loss
    widths = sorted(losses)
    # All pairs are judged: each at the level that leaves 5 % for any of them to err by chance.
    level = 1 - (1 - statistics.LEVEL) / 2 / max(1, len(widths) - 1)
    for narrow, wide in itertools.pairwise(widths):
        seeds = sorted(losses[narrow].keys() & losses[wide].keys())
        excess = np.array([losses[wide][s] - losses[narrow][s] for s in seeds])
        mean, interval = _paired(excess, level)
        yield Wider(narrow, wide, mean, interval, _sign(interval, mean))


def _paired(excess: np.ndarray, level: float) -> tuple[float, Interval | None]:
    """The mean of differences, with Student's interval; none where one is not finite."""
    if len(excess) == 0 or np.isnan(excess).any():
        return math.nan, None
    mean = float(excess.mean())
    if len(excess) < 2 or not np.isfinite(excess).all():
        return mean, None
    error = float(excess.std(ddof=1)) / math.sqrt(len(excess))
    half = float(special.stdtrit(len(excess) - 1, level)) * error
    return mean, Interval(mean - half, mean + half)
