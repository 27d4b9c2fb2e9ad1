"""The figure of a learning-rate transfer."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxmup.plots._style import INK, MUTED, colors, log_scale, new_figure, style
from jaxmup.transfer import Analysis, Curve, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {"mup": "muP", "ntk": "NTK", "mean_field": "mean field"}


def transfer_figure(result: Result) -> "Figure":
    """Loss against log2 learning rate: a panel per parametrization, a line per width.

    The minimum of each line is marked. The figure belongs to no window and to no `pyplot`; save it
    with `figure.savefig(path)`.

    Args:
      result: of `jaxmup.transfer.measure`.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    panels = len(result.analyses)
    figure = new_figure(1.2 + 4.6 * panels, 4.9)
    axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    for axis, analysis in zip(axes, result.analyses, strict=True):
        _panel(axis, analysis)
    axes[0].set_ylabel(f"training loss after {result.config.steps} steps (nats)", color=INK)
    axes[0].set_ylim(_loss_limits(result.analyses))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="width", frameon=False, loc="outside right center")
    figure.suptitle(_headline(result.analyses), x=0.01, ha="left", color=INK, fontsize=11.5)
    figure.supxlabel(_caption(result), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def _panel(axis: "Axes", analysis: Analysis) -> None:
    for curve, color in zip(analysis.curves, colors(len(analysis.curves)), strict=True):
        _line(axis, curve, color)
    minima = [point for curve in analysis.curves for point in _minimum(curve)]
    axis.plot(
        [x for x, _ in minima],
        [y for _, y in minima],
        color=MUTED,
        linewidth=1,
        linestyle=(0, (2, 2)),
        zorder=4,
    )
    log_scale(axis)
    axis.set_title(_subtitle(analysis), loc="left", color=INK, fontsize=10)
    axis.set_xlabel("log2 of the learning rate at base width", color=INK)
    style(axis)


def _minimum(curve: Curve) -> list[tuple[float, float]]:
    """The point to mark; none if every learning rate diverged."""
    loss = None if curve.best is None else curve.losses[curve.best]
    return [] if loss is None or curve.optimum is None else [(curve.optimum, loss)]


def _line(axis: "Axes", curve: Curve, color: Any) -> None:
    x = [math.log2(rate) for rate in curve.learning_rates]
    y = [math.nan if loss is None else loss for loss in curve.losses]
    axis.plot(x, y, color=color, linewidth=1.8, label=str(curve.width))
    for point in _minimum(curve):
        axis.plot(
            *([value] for value in point),
            marker="o",
            markersize=8,
            color="white" if curve.at_edge else color,
            markeredgecolor=color if curve.at_edge else "white",
            markeredgewidth=1.5,
            zorder=5,
        )


def _loss_limits(analyses: Sequence[Analysis]) -> tuple[float, float]:
    """From just below the smallest loss to the largest, but no further than is worth looking at."""
    curves = itertools.chain.from_iterable(a.curves for a in analyses)
    losses = [loss for curve in curves for loss in curve.losses if loss is not None and loss > 0]
    low, high = (min(losses), max(losses)) if losses else (1.0, 1.0)
    return low / 1.25, min(high * 1.25, low * 60)


def _name(parametrization: str) -> str:
    return _NAMES.get(parametrization, parametrization)


def _headline(analyses: Sequence[Analysis]) -> str:
    moves = [
        f"{a.drift:+.1f} octaves ({_name(a.parametrization)})"
        for a in analyses
        if a.drift is not None
    ]
    if not moves:
        return "Every learning rate diverged"
    small, large = analyses[0].curves[0].width, analyses[0].curves[-1].width
    return f"From width {small} to {large} the best learning rate moves by {' and '.join(moves)}"


def _subtitle(analysis: Analysis) -> str:
    name = _name(analysis.parametrization)
    if analysis.drift_per_doubling is None:
        return name
    return f"{name}: {analysis.drift_per_doubling:+.2f} octaves per doubling of width"


def _caption(result: Result) -> str:
    c = result.config
    at_edge = any(curve.at_edge for a in result.analyses for curve in a.curves)
    hollow = " (hollow: at an edge of the grid)" if at_edge else ""
    return (
        f"{c.depth} hidden layers, {c.optimizer}, batch {c.batch_size}, mean of "
        f"{len(c.seeds)} seeds. Dots: minimum of each width{hollow}."
    )
