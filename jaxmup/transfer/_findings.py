"""The findings of an analysis: optima with their intervals, their drift, and its price."""

import dataclasses
from typing import Literal

from jaxmup.transfer._trial import Setting

Scale = Literal["log2", "linear"]
Outcome = Literal["transfers", "does not transfer", "undecided", "no answer"]

# A best value that moves by no more than this, in octaves over all widths, counts as transferred:
# within half an octave of its optimum the loss is flat to a few percent.
DRIFT_LIMIT = 0.5

# On a linear scale no distance is small in itself; there the extra loss decides, in percent.
PENALTY_LIMIT = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval over seeds, in the units of what it is about.

    Args:
      low: Lower end.
      high: Upper end.
    """

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Parabola:
    """`loss = minimum + curvature * (x - vertex)^2` for `low <= x <= high`, where it was fitted.

    Args:
      vertex: Place of the minimum on the scale of the analysis.
      minimum: Loss at the vertex, in nats.
      curvature: Curvature in nats per square of the scale's unit; positive.
      low: Smallest of the fitted points.
      high: Largest of the fitted points.
    """

    vertex: float
    minimum: float
    curvature: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """Loss against the hyper-parameter at one width, the others at this width's best.

    Args:
      width: Width of the network.
      values: Values of the hyper-parameter, increasing.
      losses: Mean loss over the seeds at each value; `None` where any seed diverged.
      errors: Standard error of each mean; `None` where a seed diverged or there is only one.
      best: Index of the smallest loss; `None` if every value diverged.
      optimum: Best value on the scale of the analysis (log2 for learning rates), between the grid's
        points where a parabola fitted to the basin says so; `None` if every value diverged.
      interval: Interval of the optimum; `None` with one seed, at an edge, or without optimum.
      fit: Parabola through the basin; `None` where it has too few points or no minimum.
      at_edge: Whether the smallest loss is at an end of the values tried, so that the optimum may
        be outside.
      others: Other hyper-parameters that were swept, at the best value of this width.
    """

    width: int
    values: tuple[float, ...]
    losses: tuple[float | None, ...]
    errors: tuple[float | None, ...]
    best: int | None
    optimum: float | None
    interval: Interval | None
    fit: Parabola | None
    at_edge: bool
    others: Setting = ()

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The values, by the name that they have in an analysis over the learning rate."""
        return self.values


@dataclasses.dataclass(frozen=True, slots=True)
class Crossing:
    """A wider network that was worse than the next narrower one for a tenth of the run.

    Args:
      narrow: Smaller width.
      wide: Larger width.
      at: Step with the largest excess, as a fraction of the recorded steps.
      excess: Training loss of the wider network there, less the narrower one's, in nats; `None` if
        the wider one diverged.
      noise: Excess that the seeds explain, with 99 % confidence; `None` if the wider one diverged.
    """

    narrow: int
    wide: int
    at: float
    excess: float | None
    noise: float | None

    @property
    def certain(self) -> bool:
        """True if it is more than the seeds explain."""
        return self.excess is None or self.noise is None or self.excess > self.noise


@dataclasses.dataclass(frozen=True, slots=True)
class Analysis:
    """The findings of the runs under one parametrization.

    Args:
      parametrization: Name of the parametrization.
      over: Name of the hyper-parameter whose best value is followed over the widths.
      scale: Scale on which optima, drifts and their intervals are measured: `log2` or `linear`.
      seeds: Number of seeds.
      curves: Curves of the widths, by increasing width.
      drift: Distance that the best value moves from the smallest width to the largest, in octaves
        or in units of a linear scale, along the line that is fitted to all widths by least squares;
        `None` if either has none.
      drift_interval: Interval of the drift; `None` with one seed or without drift.
      drift_per_doubling: Drift per doubling of width, the slope of that line: on the log2 scale the
        exponent β in `best value ~ width^β`.
      drift_per_doubling_interval: Interval of the drift per doubling.
      transferred_loss: Loss of the largest network at the best value of the smallest one (both on
        the grid); `None` if it diverged.
      best_loss: Smallest loss of the largest network; `None` if it always diverged.
      penalty: Excess of `transferred_loss` over `best_loss` in percent; `None` without either.
      penalty_interval: Interval of the penalty.
      crossings: Pairs of widths of which the wider had a larger training loss, both at the best
        value of the smallest: by more than the seeds explain, or by a percent. Empty: wider was
        better at every step. `None`: not known, for want of recorded curves or of a second seed.
      verdict: One sentence, with the numbers that decided it.
    """

    parametrization: str
    over: str
    scale: Scale
    seeds: int
    curves: tuple[Curve, ...]
    drift: float | None
    drift_interval: Interval | None
    drift_per_doubling: float | None
    drift_per_doubling_interval: Interval | None
    transferred_loss: float | None
    best_loss: float | None
    penalty: float | None
    penalty_interval: Interval | None
    crossings: tuple[Crossing, ...] | None
    verdict: str

    @property
    def transfers(self) -> bool:
        """True if the best value is known and stays.

        It stays if it moves by at most `DRIFT_LIMIT` octaves; on a linear scale, if reusing it
        costs at most `PENALTY_LIMIT` percent.
        """
        known = self.drift is not None and not self.edges
        return known and self.deciding is not None and self.deciding <= self.limit

    @property
    def outcome(self) -> Outcome:
        """`no answer` without optimum inside the values tried, `undecided` for want of seeds."""
        if self.drift is None or self.edges:
            return "no answer"
        if self.deciding is not None and not self.decided:
            return "undecided"
        return "transfers" if self.transfers else "does not transfer"

    @property
    def decided(self) -> bool:
        """True if the interval of the number that decides is on one side of the limit."""
        interval = self.deciding_interval
        if self.edges or interval is None:
            return False
        return interval.high <= self.limit or interval.low > self.limit

    @property
    def deciding(self) -> float | None:
        """The number that decides: the size of the drift; on a linear scale the penalty."""
        if self.scale == "linear":
            return self.penalty
        return None if self.drift is None else abs(self.drift)

    @property
    def deciding_interval(self) -> Interval | None:
        """The interval of the number that decides.

        That of a drift's size begins at 0 where the interval of the drift holds 0.
        """
        interval = self.drift_interval if self.scale == "log2" else self.penalty_interval
        if interval is None or self.scale == "linear":
            return interval
        ends = (abs(interval.low), abs(interval.high))
        return Interval(0.0 if interval.low <= 0 <= interval.high else min(ends), max(ends))

    @property
    def limit(self) -> float:
        """The largest number that still counts as transferred."""
        return DRIFT_LIMIT if self.scale == "log2" else PENALTY_LIMIT

    @property
    def edges(self) -> tuple[int, ...]:
        """Widths whose best value is at an end of those tried."""
        return tuple(curve.width for curve in self.curves if curve.at_edge)

    @property
    def exponent(self) -> float | None:
        """β in `best value ~ width^β`; `None` on a linear scale."""
        return self.drift_per_doubling if self.scale == "log2" else None
