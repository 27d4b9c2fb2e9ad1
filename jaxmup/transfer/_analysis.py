"""From losses to a verdict: where each width has its best learning rate, and how far it moves."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from jaxmup.transfer._trial import Trial

# A best learning rate that moves by no more than this, in octaves over all widths, counts as
# transferred: within half an octave of its optimum the loss is flat to a few percent.
DRIFT_LIMIT = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """Loss against learning rate at one width.

    Args:
      width: of the network.
      learning_rates: increasing.
      losses: for each learning rate, the mean over the seeds; `None` where any seed diverged.
      best: index of the smallest loss; `None` if every learning rate diverged.
      optimum: log2 of the best learning rate, between the grid's points where a parabola through
        the smallest loss and its two neighbors says so; `None` if every learning rate diverged.
      at_edge: whether the smallest loss is at an end of the grid, so that the optimum may be
        outside.
    """

    width: int
    learning_rates: tuple[float, ...]
    losses: tuple[float | None, ...]
    best: int | None
    optimum: float | None
    at_edge: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Analysis:
    """What the runs under one parametrization say.

    Args:
      parametrization: its name.
      curves: one per width, by increasing width.
      drift: by how many octaves the best learning rate moves from the smallest width to the
        largest; `None` if either has none.
      drift_per_doubling: the same per doubling of width, fitted to all widths by least squares:
        the exponent β in `best learning rate ~ width^β`.
      transferred_loss: loss of the largest network at the best learning rate of the smallest one
        (both on the grid); `None` if it diverged.
      best_loss: smallest loss of the largest network; `None` if it always diverged.
      verdict: one sentence.
    """

    parametrization: str
    curves: tuple[Curve, ...]
    drift: float | None
    drift_per_doubling: float | None
    transferred_loss: float | None
    best_loss: float | None
    verdict: str

    @property
    def transfers(self) -> bool:
        """Whether the best learning rate is known and moves by at most `DRIFT_LIMIT` octaves."""
        return self.drift is not None and not _edges(self.curves) and abs(self.drift) <= DRIFT_LIMIT


def analyze(trials: Iterable[Trial]) -> Analysis:
    """Analyzes the trials of one parametrization.

    Args:
      trials: every width x learning rate x seed, in any order.

    Raises:
      ValueError: if the trials are of several parametrizations, of one width, or not a full grid.

    Example:
      >>> small, large = [(1, 1.5), (2, 1.0), (4, 1.5)], [(1, 1.0), (2, 0.5), (4, 2.0)]
      >>> small = [Trial("mup", 64, rate, 0, loss) for rate, loss in small]
      >>> large = [Trial("mup", 128, rate, 0, loss) for rate, loss in large]
      >>> analysis = analyze(small + large)
      >>> analysis.drift, analysis.transferred_loss
      (-0.25, 0.5)
    """
    trials = list(trials)
    table = {(t.width, t.learning_rate, t.seed): t.loss for t in trials}
    names = {t.parametrization for t in trials}
    widths = sorted({t.width for t in trials})
    rates = sorted({t.learning_rate for t in trials})
    seeds = sorted({t.seed for t in trials})
    if len(names) != 1 or len(widths) < 2 or len(trials) != len(widths) * len(rates) * len(seeds):
        raise ValueError(
            "Trials must be of one parametrization, of two widths or more, and a full grid of "
            f"widths x learning rates x seeds. Got {len(trials)} trials of {sorted(names)} with "
            f"{len(widths)} widths, {len(rates)} learning rates, {len(seeds)} seeds."
        )
    curves = tuple(
        curve(width, rates, [[table[width, rate, seed] for seed in seeds] for rate in rates])
        for width in widths
    )
    return _conclude(names.pop(), curves)


def curve(
    width: int, learning_rates: Sequence[float], losses: Sequence[Sequence[float | None]]
) -> Curve:
    """The curve of one width.

    Args:
      width: of the network.
      learning_rates: increasing.
      losses: one row per learning rate, one column per seed; `None` for a diverged run.

    Example:
      >>> curve(64, [0.25, 0.5, 1.0], [[3.0], [1.0], [None]]).losses
      (3.0, 1.0, None)
    """
    means = tuple(_mean(row) for row in losses)
    finite = [(loss, i) for i, loss in enumerate(means) if loss is not None]
    if not finite:
        return Curve(width, tuple(learning_rates), means, best=None, optimum=None, at_edge=False)
    best = min(finite)[1]
    at_edge = best in (0, len(means) - 1)
    log2_rates = [math.log2(rate) for rate in learning_rates]
    around = slice(best - 1, best + 2)
    neighbors = [loss for loss in means[around] if loss is not None]
    optimum = log2_rates[best]
    if not at_edge and len(neighbors) == 3:
        optimum = vertex(log2_rates[around], neighbors)
    return Curve(width, tuple(learning_rates), means, best, optimum, at_edge)


def vertex(x: Sequence[float], y: Sequence[float]) -> float:
    """Where the parabola through three points has its minimum; the middle point must be the lowest.

    Example:
      >>> vertex([0.0, 1.0, 2.0], [1.0, 0.0, 1.0])
      1.0
    """
    left, right = (y[0] - y[1]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    if left + right == 0:
        return x[1]
    # Newton's form: the slope falls from -left at the midpoint of the first interval to right at
    # that of the second.
    start, end = (x[0] + x[1]) / 2, (x[1] + x[2]) / 2
    return start + (end - start) * left / (left + right)


def _mean(losses: Sequence[float | None]) -> float | None:
    finite = [loss for loss in losses if loss is not None]
    return math.fsum(finite) / len(finite) if len(finite) == len(losses) else None


def _edges(curves: Sequence[Curve]) -> list[int]:
    return [c.width for c in curves if c.at_edge]


def _conclude(parametrization: str, curves: tuple[Curve, ...]) -> Analysis:
    small, large = curves[0], curves[-1]
    drift = slope = transferred = None
    if small.optimum is not None and large.optimum is not None:
        drift = large.optimum - small.optimum
    optima = [(math.log2(c.width), c.optimum) for c in curves if c.optimum is not None]
    if len(optima) >= 2:
        slope = float(np.polyfit(*np.array(optima).T, deg=1)[0])
    if small.best is not None:
        transferred = large.losses[small.best]
    best_loss = None if large.best is None else large.losses[large.best]
    analysis = Analysis(parametrization, curves, drift, slope, transferred, best_loss, verdict="")
    return dataclasses.replace(analysis, verdict=_verdict(analysis))


def _verdict(a: Analysis) -> str:
    if a.drift is None:
        lost = ", ".join(str(c.width) for c in a.curves if c.optimum is None)
        return (
            f"{a.parametrization}: no answer, since every learning rate diverged at width {lost}."
        )
    if edges := _edges(a.curves):
        at = ", ".join(map(str, edges))
        return (
            f"{a.parametrization}: no answer, since the best learning rate is at an edge of the "
            f"grid at width {at}; widen the grid."
        )
    outcome = "transfers" if a.transfers else "does not transfer"
    ends = f"from width {a.curves[0].width} to {a.curves[-1].width}"
    return (
        f"{a.parametrization}: the best learning rate {outcome}; it moves by {a.drift:+.2f} "
        f"octaves {ends}, and reusing the small network's {_penalty(a)}."
    )


def _penalty(a: Analysis) -> str:
    if a.transferred_loss is None or a.best_loss is None:
        return "makes the large one diverge"
    return f"gives the large one a loss of {a.transferred_loss:.3g} instead of {a.best_loss:.3g}"
