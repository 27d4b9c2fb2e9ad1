"""The figure of the optima: the best value of each width, and the power law through them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmup import _check
from jaxmup.plots._style import INK, Color, as_is, new_figure, style
from jaxmup.plots._transfer import signed, title
from jaxmup.transfer import Analysis, Result
from jaxmup.transfer._names import in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One per parametrization: colors that color-blind people can tell apart (Okabe and Ito), darkened.
HUES = ("#c2410c", "#0b6fa4", "#8a5a9e", "#3f7d3a", "#7a6a00", "#a3325b")


def optima_figure(result: Result) -> "Figure":
    """Best learning rate against width: a line per parametrization, its slope the exponent β.

    Bars are 95 % intervals of the optima, the band that of the slope.

    Args:
      result: Result of `jaxmup.transfer.measure`.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    _check.made("result", result, "Result", "jaxmup.transfer.measure")
    figure = new_figure(5.6, 4.2)
    axis = figure.subplots()
    optima_panel(axis, result.analyses)
    return figure


def hues(count: int) -> list[str]:
    """A color per parametrization."""
    return [HUES[i % len(HUES)] for i in range(count)]


def optima_panel(axis: "Axes", analyses: Sequence[Analysis]) -> None:
    """Draws the optima of each parametrization side by side, and the lines through them."""
    middle = (len(analyses) - 1) / 2
    for i, (analysis, hue) in enumerate(zip(analyses, hues(len(analyses)), strict=True)):
        _optima(axis, analysis, hue, beside=0.06 * (i - middle))
    widths = [c.width for c in analyses[0].curves]
    axis.set_xticks(np.log2(widths), [str(width) for width in widths])
    axis.set_xlabel("width", color=INK)
    axis.set_ylabel(_label_of_values(analyses[0]), color=INK)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=9, labelcolor=INK)
    style(axis)


def _optima(axis: "Axes", analysis: Analysis, color: Color, beside: float) -> None:
    known = [c for c in analysis.curves if c.optimum is not None]
    x = np.log2([c.width for c in known])
    y = np.array([c.optimum for c in known], float)
    for at, optimum, curve in zip(x + beside, y, known, strict=True):
        if curve.interval is not None:
            ends = [curve.interval.low, curve.interval.high]
            axis.plot([at, at], ends, color=color, linewidth=4, alpha=0.3, solid_capstyle="round")
        fill = "white" if curve.at_edge else color
        axis.plot([at], [optimum], marker="o", markersize=6, color=fill, markeredgecolor=color)
    if analysis.drift_per_doubling is not None:
        _law(axis, analysis, analysis.drift_per_doubling, x, y, color)


def _law(
    axis: "Axes", analysis: Analysis, slope: float, x: np.ndarray, y: np.ndarray, color: Color
) -> None:
    """The line of slope β through the middle of the optima, with the band of its interval."""
    interval = analysis.drift_per_doubling_interval
    from_middle = x - x.mean()
    if interval is not None:
        ends = [y.mean() + end * from_middle for end in (interval.low, interval.high)]
        axis.fill_between(x, *ends, color=color, alpha=0.12, linewidth=0)
    line = y.mean() + slope * from_middle
    axis.plot(x, line, color=color, linewidth=1.4, label=_label(analysis, slope))


def _label(analysis: Analysis, slope: float) -> str:
    symbol = "β" if analysis.scale == "log2" else "per doubling"
    interval = analysis.drift_per_doubling_interval
    ends = "" if interval is None else f" ({signed(interval.low)} to {signed(interval.high)})"
    return f"{title(analysis.parametrization)}: {symbol} = {signed(slope)}{ends}"


def _label_of_values(analysis: Analysis) -> str:
    scale = "log2 of the " if analysis.scale == "log2" else ""
    return f"{scale}best {as_is(in_words(analysis.over))}"
