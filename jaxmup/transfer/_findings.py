"""What an analysis finds: optima with their intervals, how far they move, what that costs."""

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
      low: its lower end.
      high: its upper end.
    """

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Parabola:
    """`loss = minimum + curvature * (x - vertex)^2` for `low <= x <= high`, where it was fitted.

    Args:
      vertex: on the scale of the analysis.
      minimum: loss there, in nats.
      curvature: in nats per square of the scale's unit; positive.
      low: where the fitted points begin.
      high: where they end.
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
      width: of the network.
      values: of the hyper-parameter, increasing.
      losses: for each value, the mean over the seeds; `None` where any seed diverged.
      errors: for each value, the standard error of that mean; `None` where a seed diverged or there
        is only one.
      best: index of the smallest loss; `None` if every value diverged.
      optimum: the best value on the scale of the analysis (log2 for learning rates), between the
        grid's points where a parabola fitted to the basin says so; `None` if every value diverged.
      interval: of the optimum; `None` with one seed, at an edge, or without optimum.
      fit: the parabola; `None` where it has too few points or no minimum.
      at_edge: whether the smallest loss is at an end of the values tried, so that the optimum may
        be outside.
      others: the other hyper-parameters that were swept, at the best value of this width.
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
      narrow: the smaller width.
      wide: the larger width.
      at: where it was worst, as a fraction of the recorded steps.
      excess: training loss of the wider network over the narrower one's there, in nats; `None` if
        the wider one diverged.
      noise: what the seeds explain of it, with 99 % confidence; `None` if the wider one diverged.
    """

    narrow: int
    wide: int
    at: float
    excess: float | None
    noise: float | None

    @property
    def certain(self) -> bool:
        """Whether it is more than the seeds explain."""
        return self.excess is None or self.noise is None or self.excess > self.noise


@dataclasses.dataclass(frozen=True, slots=True)
class Analysis:
    """What the runs under one parametrization say.

    Args:
      parametrization: its name.
      over: the hyper-parameter whose best value is followed over the widths.
      scale: `log2` or `linear`: what optima, drifts and their intervals are measured on.
      seeds: how many.
      curves: one per width, by increasing width.
      drift: by how much the best value moves from the smallest width to the largest, in octaves or
        in units of a linear scale, along the line that is fitted to all widths by least squares;
        `None` if either has none.
      drift_interval: of the drift; `None` with one seed or without drift.
      drift_per_doubling: the same per doubling of width, the slope of that line: on the log2 scale
        the exponent β in `best value ~ width^β`.
      drift_per_doubling_interval: of that.
      transferred_loss: loss of the largest network at the best value of the smallest one (both on
        the grid); `None` if it diverged.
      best_loss: smallest loss of the largest network; `None` if it always diverged.
      penalty: by how many percent `transferred_loss` is above `best_loss`; `None` without either.
      penalty_interval: of the penalty.
      crossings: where a wider network's training loss was above a narrower one's, both at the best
        value of the smallest: by more than the seeds explain, or by a percent; one per pair of
        widths. Empty: wider was better at every step. `None`: not known, for want of recorded
        curves or of a second seed.
      verdict: one sentence, and the numbers that decided it.
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
        """Whether the best value is known and stays.

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
        """Whether the interval of the number that decides is on one side of the limit."""
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
        """Its interval; that of a size begins at 0 where the drift's holds 0."""
        interval = self.drift_interval if self.scale == "log2" else self.penalty_interval
        if interval is None or self.scale == "linear":
            return interval
        ends = (abs(interval.low), abs(interval.high))
        return Interval(0.0 if interval.low <= 0 <= interval.high else min(ends), max(ends))

    @property
    def limit(self) -> float:
        """What the number that decides must not exceed."""
        return DRIFT_LIMIT if self.scale == "log2" else PENALTY_LIMIT

    @property
    def edges(self) -> tuple[int, ...]:
        """Widths whose best value is at an end of those tried."""
        return tuple(curve.width for curve in self.curves if curve.at_edge)

    @property
    def exponent(self) -> float | None:
        """β in `best value ~ width^β`; `None` on a linear scale."""
        return self.drift_per_doubling if self.scale == "log2" else None
