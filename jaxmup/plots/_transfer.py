"""The figure of a transfer: loss against the hyper-parameter, a line per width."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmup import _check
from jaxmup.plots._style import INK, MUTED, Color, as_is, colors, log_scale, new_figure, style
from jaxmup.transfer import MODELS, Analysis, Curve, Parabola, Result
from jaxmup.transfer._names import in_words, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def transfer_figure(result: Result) -> "Figure":
    """Loss against log2 learning rate: a panel per parametrization, a line per width.

    The minimum of each line is marked, with the parabola that it is the vertex of and its 95 %
    interval. The figure belongs to no window and to no `pyplot`; save it with
    `figure.savefig(path)`.

    Args:
      result: Result of `jaxmup.transfer.measure`.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    _check.made("result", result, "Result", "jaxmup.transfer.measure")
    panels = len(result.analyses)
    figure = new_figure(1.2 + 4.6 * panels, 4.9)
    axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    for axis, analysis in zip(axes, result.analyses, strict=True):
        loss_panel(axis, analysis)
        axis.set_title(_subtitle(analysis), loc="left", color=INK, fontsize=10)
    axes[0].set_ylabel(f"loss after {result.config.steps} steps (nats)", color=INK)
    axes[0].set_ylim(loss_limits(result.analyses))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="width", frameon=False, loc="outside right center")
    figure.suptitle(_headline(result.analyses), x=0.01, ha="left", color=INK, fontsize=11.5)
    figure.supxlabel(_caption(result), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def loss_panel(axis: "Axes", analysis: Analysis) -> None:
    """Draws the curves of one parametrization, with the fits and intervals of their optima."""
    for curve, color in zip(analysis.curves, colors(len(analysis.curves)), strict=True):
        _line(axis, curve, on_scale(analysis, curve.values), color)
    minima = [point for curve in analysis.curves for point in _minimum(curve)]
    path = [[x for x, _ in minima], [y for _, y in minima]]
    axis.plot(*path, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=4)
    log_scale(axis)
    axis.set_xlabel(axis_label(analysis), color=INK)
    style(axis)


def on_scale(analysis: Analysis, values: Sequence[float]) -> list[float]:
    """Values of the hyper-parameter as the analysis measures them."""
    return [math.log2(value) for value in values] if analysis.scale == "log2" else list(values)


def axis_label(analysis: Analysis) -> str:
    """The label of an axis of the hyper-parameter."""
    base = " at base width" if analysis.over == "learning_rate" else ""
    scale = "log2 of the " if analysis.scale == "log2" else ""
    return f"{scale}{as_is(in_words(analysis.over))}{base}"


def title(parametrization: str) -> str:
    """A parametrization as people write it; matplotlib sets nothing of it as mathematics.

    Example:
      >>> title("mup")
      'muP'
    """
    return as_is(written(parametrization))


def signed(value: float, digits: int = 2) -> str:
    """A number with a sign, a real minus and no negative zero.

    Example:
      >>> signed(-0.001), signed(-1.5, digits=1)
      ('+0.00', '−1.5')
    """
    return f"{value:+z.{digits}f}".replace("-", "−")


def loss_limits(analyses: Sequence[Analysis]) -> tuple[float, float]:
    """From just below the smallest loss to the largest, but no further than is worth looking at."""
    curves = itertools.chain.from_iterable(a.curves for a in analyses)
    losses = [loss for curve in curves for loss in curve.losses if loss is not None and loss > 0]
    low, high = (min(losses), max(losses)) if losses else (1.0, 1.0)
    room = (high / low) ** 0.06
    return low / max(room, 1.02), min(high * max(room, 1.02), low * 60)


def _minimum(curve: Curve) -> list[tuple[float, float]]:
    """The point to mark; none if every value diverged."""
    if curve.fit is not None:
        return [(curve.fit.vertex, curve.fit.minimum)]
    loss = None if curve.best is None else curve.losses[curve.best]
    return [] if loss is None or curve.optimum is None else [(curve.optimum, loss)]


def _line(axis: "Axes", curve: Curve, x: Sequence[float], color: Color) -> None:
    y = np.array([math.nan if loss is None else loss for loss in curve.losses])
    spread = np.array([0.0 if error is None else error for error in curve.errors])
    axis.fill_between(x, y - spread, y + spread, color=color, alpha=0.15, linewidth=0)
    axis.plot(x, y, color=color, linewidth=1.6, label=str(curve.width))
    if curve.fit is not None:
        axis.plot(*_arc(curve.fit), color=color, linewidth=1, linestyle=(0, (4, 2)), zorder=3)
    for at, loss in _minimum(curve):
        if curve.interval is not None:
            ends = [curve.interval.low, curve.interval.high]
            axis.plot(ends, [loss, loss], color=color, linewidth=4, alpha=0.35, zorder=4)
        axis.plot(
            [at],
            [loss],
            marker="o",
            markersize=7,
            color="white" if curve.at_edge else color,
            markeredgecolor=color if curve.at_edge else "white",
            markeredgewidth=1.5,
            zorder=5,
        )


def _arc(fit: Parabola) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(fit.low, fit.high, 41)
    return x, fit.minimum + fit.curvature * (x - fit.vertex) ** 2


def _headline(analyses: Sequence[Analysis]) -> str:
    moves = [
        f"{signed(a.drift, 1)} octaves ({title(a.parametrization)})"
        for a in analyses
        if a.drift is not None
    ]
    if not moves:
        return "Every learning rate diverged"
    small, large = analyses[0].curves[0].width, analyses[0].curves[-1].width
    return f"From width {small} to {large} the best learning rate moves by {' and '.join(moves)}"


def _subtitle(analysis: Analysis) -> str:
    head = title(analysis.parametrization)
    if analysis.drift_per_doubling is None:
        return head
    return f"{head}: {signed(analysis.drift_per_doubling)} octaves per doubling of width"


def _caption(result: Result) -> str:
    c = result.config
    at_edge = any(curve.at_edge for a in result.analyses for curve in a.curves)
    hollow = " (hollow: at an edge of the grid)" if at_edge else ""
    intervals = ", bars: its 95 % interval" if len(c.seeds) > 1 else ""
    # A model of the user's and its data may have neither a depth nor this batch size.
    numbers = (f"depth {c.depth}", f"batch {c.batch_size}") if c.model in MODELS else ()
    run = ", ".join((c.optimizer, *numbers)).capitalize()
    return (
        f"{run}, mean and standard error of {len(c.seeds)} seeds. Dots: optimum of each width by "
        f"the dashed parabola{hollow}{intervals}."
    )
    return (
        f"{run[0].upper()}{run[1:]}, mean and standard error of {len(c.seeds)} seeds. Dots: "
        f"optimum of each width by the dashed parabola{hollow}{intervals}."
    )
