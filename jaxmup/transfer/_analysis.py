"""From losses to a verdict: where each width has its best value, and how far it moves."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

import numpy as np

from jaxmup import _check
from jaxmup.transfer import _statistics as statistics
from jaxmup.transfer._findings import Analysis, Curve, Interval, Parabola, Scale
from jaxmup.transfer._optimum import REACH, Minima, minima
from jaxmup.transfer._trial import Setting, Trial
from jaxmup.transfer._verdict import verdict
from jaxmup.transfer._wider import crossings, transferred_curves


class Point(NamedTuple):
    """The hyper-parameters of a run, besides width and seed.

    Args:
      value: Value of the hyper-parameter that is analyzed.
      others: Values of all others that the sweep varies.
    """

    value: float
    others: Setting


def analyze(
    trials: Iterable[Trial], over: str = "learning_rate", scale: Scale | None = None
) -> Analysis:
    """Analyzes the trials of one parametrization.

    At each width, the best of all points tried is found, and a parabola fitted to the points around
    it that differ in `over` alone. Intervals are bootstrapped over the seeds, all widths together,
    since a seed gives every width the same data.

    Every width must have tried the same points. Settings of the other hyper-parameters that were
    not tried at every width, as successive halving leaves them, are left out. A point that lacks
    seeds is compared on the seeds that it has.

    Args:
      trials: Runs of every width x point x seed, in any order.
      over: Name of the hyper-parameter to analyze: `learning_rate`, or another one that varies.
      scale: Scale on which distances are measured; `None` for log2, or for linear where a value is
        not positive or the hyper-parameter is a decay rate of moments (β, momentum).

    Raises:
      ValueError: if the trials are of several parametrizations, of one width, repeated, or not the
        same points at every width; if they do not vary `over`; if `scale` does not suit.

    Example:
      >>> small, large = [(1, 1.5), (2, 1.0), (4, 1.5)], [(1, 1.0), (2, 0.5), (4, 2.0)]
      >>> small = [Trial("mup", 64, rate, 0, loss) for rate, loss in small]
      >>> large = [Trial("mup", 128, rate, 0, loss) for rate, loss in large]
      >>> analysis = analyze(small + large)
      >>> analysis.drift, analysis.transferred_loss
      (-0.25, 0.5)
    """
    return analyze_by_width(trials, over, scale)[0]


def analyze_by_width(
    trials: Iterable[Trial], over: str, scale: Scale | None = None
) -> tuple[Analysis, list["Study"]]:
    """What `analyze` finds, and the study of each width that it rests on, by increasing width."""
    _check.one_of("scale", scale, (None, *get_args(Scale)))
    trials = list(trials)
    for trial in trials:
        _check.made("trials", trial, "Trial", "jaxmup.transfer.Trial")
    trials = _of_every_width(trials)
    table = {(t.width, point_of(t, over), t.seed): t for t in trials}
    widths = sorted({t.width for t in trials})
    points = sorted({point for _, point, _ in table})
    seeds = sorted({t.seed for t in trials})
    _require_grid(trials, len(table), widths, points, {(w, p) for w, p, _ in table})
    scale = _scale(over, [p.value for p in points], scale)
    counts = statistics.resamples(len(seeds))
    studies = []
    for width in widths:
        cells = [[table.get((width, point, seed)) for seed in seeds] for point in points]
        losses = np.array([[_number(trial) for trial in row] for row in cells])
        studies.append(_study(width, points, losses, counts, scale))
    found = _conclude(trials[0].parametrization, over, scale, len(seeds), studies)
    found = dataclasses.replace(found, crossings=crossings(transferred_curves(found, trials)))
    return dataclasses.replace(found, verdict=verdict(found)), studies


def point_of(trial: Trial, over: str) -> Point:
    """The point of a trial, with the hyper-parameter that is analyzed first.

    Raises:
      ValueError: if the trial has none of that name.

    Example:
      >>> point_of(Trial("mup", 64, 0.1, 0, 1.0, others=(("eps", 1e-8),)), "eps")
      Point(value=1e-08, others=(('learning_rate', 0.1),))
    """
    swept = {"learning_rate": trial.learning_rate} | dict(trial.others)
    if over not in swept:
        raise ValueError(
            f"`over` must be a hyper-parameter that the trials vary. Got {over!r}; they vary "
            f"{', '.join(swept)}."
        )
    return Point(swept.pop(over), tuple(sorted(swept.items())))


def _of_every_width(trials: list[Trial]) -> list[Trial]:
    """The trials whose settings every width tried."""
    widths = {t.width for t in trials}
    tried: dict[Setting, set[int]] = {}
    for t in trials:
        tried.setdefault(t.others, set()).add(t.width)
    return [t for t in trials if tried[t.others] == widths]


def _require_grid(
    trials: Sequence[Trial], distinct: int, widths: list[int], points: list[Point], tried: set
) -> None:
    names = sorted({t.parametrization for t in trials})
    whole = len(tried) == len(widths) * len(points)
    if len(names) != 1 or len(widths) < 2 or distinct < len(trials) or not whole:
        raise ValueError(
            "Trials must be of one parametrization, of two widths or more, without repeats, and a "
            "full grid of widths x points (seeds may be missing). Got "
            f"{len(trials)} trials of {names} with {len(widths)} widths and {len(points)} points, "
            f"{distinct} of them different, on {len(tried)} places of the grid."
        )


_DECAY_RATES = ("b1", "b2", "b3", "beta", "momentum")


def _scale(over: str, values: Sequence[float], asked: Scale | None) -> Scale:
    if asked == "log2" and min(values) <= 0:
        raise ValueError(
            f"A log2 scale needs values above 0. Got {min(values):g} for `{over}`. "
            "Use scale='linear'."
        )
    if asked is not None:
        return asked
    return "linear" if min(values) <= 0 or over.startswith(_DECAY_RATES) else "log2"


def _number(trial: Trial | None) -> float:
    if trial is None:
        return math.nan
    return math.inf if trial.loss is None else trial.loss


class Study(NamedTuple):
    """One width in every resample of the seeds, of which the first is the sample itself.

    Args:
      curve: Curve of the sample.
      best: Index of the best point; shape `(resamples,)`.
      optimum: Best value on the scale of the analysis; shape `(resamples,)`.
      uncertainty: Distance that the grid leaves open on either side of the sample's optimum.
      losses: Loss of every point; shape `(resamples, points)`.
    """

    curve: Curve
    best: np.ndarray
    optimum: np.ndarray
    uncertainty: float
    losses: np.ndarray


def _study(
    width: int, points: Sequence[Point], losses: np.ndarray, counts: np.ndarray, scale: Scale
) -> Study:
    """Studies one width; losses of shape `(points, seeds)`."""
    means = statistics.means(losses, counts)
    slices = _slices(points)
    x = _on_scale([point.value for point in points], scale)
    # An octave is a distance whatever the hyper-parameter is. A linear scale has none of its own,
    # so the basin there is the best value and its two neighbors.
    reach = REACH if scale == "log2" else 0.0
    found = [minima(x[indices], means[:, indices], reach) for indices in slices]
    lowest = np.stack([means[:, indices].min(axis=1) for indices in slices])
    # The best setting of the other hyper-parameters is chosen again in each resample: an interval
    # of the optimum must hold what that choice adds to its noise.
    chosen = lowest.argmin(axis=0)
    rows = np.arange(len(counts))
    best = np.stack([i[m.best] for i, m in zip(slices, found, strict=True)])[chosen, rows]
    optimum = np.stack([m.at for m in found])[chosen, rows]
    here, m = slices[chosen[0]], found[chosen[0]]
    curve = _curve(width, [points[i] for i in here], means[0, here], losses[here], m, x)
    uncertainty = float(m.uncertainty[0])
    if curve.optimum is not None and not curve.at_edge:
        interval = statistics.interval(optimum[None], counts.shape[1], uncertainty)
        curve = dataclasses.replace(curve, interval=interval)
    return Study(curve, best, optimum, uncertainty, means)


def _slices(points: Sequence[Point]) -> list[np.ndarray]:
    """Indices of the points that differ in the analyzed value alone, by increasing value."""
    by_others: dict[Setting, list[int]] = {}
    for i, point in enumerate(points):
        by_others.setdefault(point.others, []).append(i)
    return [np.array(indices) for indices in by_others.values()]


def _on_scale(values: Sequence[float], scale: Scale) -> np.ndarray:
    return np.array([math.log2(value) if scale == "log2" else value for value in values])


def _curve(
    width: int,
    points: Sequence[Point],
    means: np.ndarray,
    losses: np.ndarray,
    found: Minima,
    tried: np.ndarray,
) -> Curve:
    """The curve of one width through points that differ in one value."""
    values = tuple(point.value for point in points)
    best = int(found.best[0]) if np.isfinite(means).any() else None
    optimum = None if best is None else float(found.at[0])
    fit = None
    if best is not None and np.isfinite(found.parabola[0]).all():
        fit = Parabola(*map(float, found.parabola[0]))
    return Curve(
        width,
        values,
        _optional(means),
        _optional(statistics.standard_errors(losses)),
        best,
        optimum,
        interval=None,
        fit=fit,
        at_edge=fit is None and optimum in (tried.min(), tried.max()),
        others=points[0].others,
    )


def _optional(numbers: np.ndarray) -> tuple[float | None, ...]:
    return tuple(map(_finite, numbers))


def _conclude(
    parametrization: str, over: str, scale: Scale, seeds: int, studies: Sequence[Study]
) -> Analysis:
    """Everything but the crossings and the verdict."""
    small, large = studies[0], studies[-1]
    slope, slope_interval = _slope(studies, seeds)
    drift = drift_interval = None
    if slope is not None and small.curve.optimum is not None and large.curve.optimum is not None:
        doublings = math.log2(large.curve.width / small.curve.width)
        drift = slope * doublings
        drift_interval = slope_interval and Interval(
            slope_interval.low * doublings, slope_interval.high * doublings
        )
    transferred = _reused(small, large)
    best = large.losses.min(axis=1)
    return Analysis(
        parametrization,
        over,
        scale,
        seeds,
        tuple(study.curve for study in studies),
        drift,
        drift_interval,
        slope,
        slope_interval,
        _finite(transferred[0]),
        _finite(best[0]),
        *_penalty(transferred, best, seeds),
        crossings=None,
        verdict="",
    )


def _slope(studies: Sequence[Study], seeds: int) -> tuple[float | None, Interval | None]:
    """Slope of the optima over log2 of the width; its interval if no optimum is at an edge."""
    known = [study for study in studies if study.curve.optimum is not None]
    if len(known) < 2:
        return None, None
    weights = statistics.slope_weights(np.log2([study.curve.width for study in known]))
    optima = np.stack([study.optimum for study in known])
    slope = float(weights @ optima[:, 0])
    if any(study.curve.at_edge for study in known):
        return slope, None
    uncertainty = float(abs(weights) @ [study.uncertainty for study in known])
    return slope, statistics.interval(optima, seeds, uncertainty, weights.tolist())


def _reused(small: Study, large: Study) -> np.ndarray:
    """Loss of the largest width at the best point of the smallest, in each resample."""
    if small.curve.best is None:
        return np.full(len(small.best), np.inf)
    return np.take_along_axis(large.losses, small.best[:, None], axis=1)[:, 0]


def _penalty(
    transferred: np.ndarray, best: np.ndarray, seeds: int
) -> tuple[float | None, Interval | None]:
    """Extra loss of the reused point in percent, with an interval that begins at 0 or above."""
    if not (np.isfinite(transferred[0]) and best[0] > 0):
        return None, None
    percent = np.full(len(best), np.nan)
    np.divide(100 * (transferred - best), best, out=percent, where=best > 0)
    interval = statistics.interval(percent[None], seeds)
    if interval is not None:
        interval = dataclasses.replace(interval, low=max(interval.low, 0.0))
    return float(percent[0]), interval


def _finite(x: np.floating) -> float | None:
    return float(x) if np.isfinite(x) else None
