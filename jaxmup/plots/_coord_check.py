"""The figure of a coordinate check."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxmup import _check
from jaxmup.coord_check import QUANTITIES, CoordCheck, Outcome, Quantity, Verdict
from jaxmup.plots._labels import Label, label_ends
from jaxmup.plots._style import INK, MUTED, as_is, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES: dict[Quantity, str] = {
    "activation": "outputs at initialization",
    "activation_change": "change of outputs",
    "logits": "attention logits at initialization",
    "logits_change": "change of attention logits",
    "weight": "weights at initialization",
    "weight_change": "change of weights",
    "gradient": "gradients",
    "scaled_gradient": "gradients after scale_gradients",
    "update": "one step",
    "update_ratio": "one step over the weight",
    "decay": "weight decay over the weight",
    "decay_ratio": "weight decay over the step",
    "eps": "gradient over eps",
}
_COLORS: dict[Outcome, str] = {
    "pass": "#2f8f5b",
    "not enough seeds": "#c58b00",
    "too small": "#c58b00",
    "fail": "#cf2e2e",
}
_COLUMNS = 4  # at most
_HEIGHT = 2.5  # of a panel, in inches


def coord_check_figure(check: CoordCheck, quantities: Sequence[Quantity] = QUANTITIES) -> "Figure":
    """RMS against width (or depth): a panel per quantity, a line per module or parameter.

    Each line is relative to its value at the smallest size, so that it starts at 1 whatever its
    unit, and has the color of its verdict. Dashed: the exponents that theory expects, each once.
    The figure belongs to no window and to no `pyplot`; save it with `figure.savefig(path)`.

    Args:
      check: Result of `jaxmup.coord_check.coord_check`.
      quantities: Quantities to show, in this order; those without a verdict are left out.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
      ValueError: if none of `quantities` has a verdict.
    """
    _check.made("check", check, "CoordCheck", "jaxmup.coord_check.coord_check")
    shown: list[Quantity] = [
        name for name in quantities if any(v.quantity == name for v in check.verdicts)
    ]
    if not shown:
        measured = sorted({one.quantity for one in check.verdicts})
        raise ValueError(
            f"`quantities` must hold one that was measured. Got {list(quantities)}. Measured were "
            f"{measured}."
        )
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(0.4 + 3.1 * columns, 1.1 + _HEIGHT * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axis, quantity in zip(axes, shown, strict=False):
        _panel(axis, check, quantity)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    figure.suptitle(_headline(check), x=0.01, ha="left", color=INK, fontsize=11.5)
    figure.supxlabel(_caption(check), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def _panel(axis: "Axes", check: CoordCheck, quantity: Quantity) -> None:
    verdicts = [one for one in check.verdicts if one.quantity == quantity]
    x = check.sizes
    exponents = sorted({e for one in verdicts for e in (one.expected.low, one.expected.high)})
    for exponent in exponents:
        line = [(size / x[0]) ** exponent for size in x]
        axis.plot(x, line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ends = {
        one.title: (_line(axis, x, one), one)
        for one in sorted(verdicts, key=lambda one: list(_COLORS).index(one.outcome))
    }
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks(x, [str(size) for size in x])
    axis.minorticks_off()
    low, high = axis.get_ylim()
    middle = math.sqrt(low * high)
    axis.set_ylim(min(low, middle / 2), max(high, middle * 2))  # noise must not look like a slope
    passed = sum(one.outcome == "pass" for one in verdicts)
    axis.set_title(
        f"{_TITLES[quantity]}\n{passed} of {len(verdicts)}", loc="left", color=INK, fontsize=9
    )
    style(axis)
    axis.tick_params(labelsize=8)
    labels = [
        Label(as_is(name), x[-1], end, _COLORS[one.outcome])
        for name, (end, one) in ends.items()
        if math.isfinite(end)
    ]
    label_ends(axis, sorted(labels, key=lambda one: -abs(math.log(one.y))), 0.65 * _HEIGHT)


def _line(axis: "Axes", x: Sequence[int], one: Verdict) -> float:
    """Draws a line, and returns the value at its end, or NaN if it is not to be labeled."""
    start = one.values[0]
    if not (math.isfinite(start) and start > 0):
        return math.nan
    values = [
        value / start if math.isfinite(value) and value > 0 else math.nan for value in one.values
    ]
    color, failed = _COLORS[one.outcome], one.outcome != "pass"
    axis.plot(
        x,
        values,
        color=color,
        linewidth=1.8 if failed else 1.2,
        alpha=0.95 if failed else 0.55,
        marker="o",
        markersize=2.5,
        zorder=3 if failed else 2,
    )
    return values[-1] if failed else math.nan


def _headline(check: CoordCheck) -> str:
    words: dict[Outcome, str] = {
        "fail": "fail",
        "too small": f"need larger {check.over}s",
        "not enough seeds": "need more seeds",
    }
    total = len(check.verdicts)
    found = [f"{len(rows)} {what}" for one, what in words.items() if (rows := check.of(one))]
    return f"Of {total} rows {' and '.join(found)}" if found else f"All {total} rows pass"


def _caption(check: CoordCheck) -> str:
    return (
        f"RMS over {check.over}, relative to {check.over} {check.sizes[0]}; mean of "
        f"{len(check.seeds)} seeds, {check.steps} steps; {as_is(check.parametrization)}. Dashed: "
        "expected."
    )
