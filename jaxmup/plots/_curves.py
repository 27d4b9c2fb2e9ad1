"""The figure of the training curves, which shows if wider is better at every step."""

from typing import TYPE_CHECKING

import numpy as np

from jaxmup import _check
from jaxmup.plots._style import INK, colors, log_scale, new_figure, style
from jaxmup.plots._transfer import title
from jaxmup.transfer import Analysis, Result, transferred_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves_figure(result: Result) -> "Figure":
    """Training loss over the run at the best value of the smallest width, a line per width.

    Lines are means over the seeds, bands their range. Under a right parametrization no wider
    network is ever above a narrower one.

    Args:
      result: Result of `jaxmup.transfer.measure`, with recorded curves.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    _check.made("result", result, "Result", "jaxmup.transfer.measure")
    panels = len(result.analyses)
    figure = new_figure(1.2 + 4.2 * panels, 3.8)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis, analysis in zip(axes, result.analyses, strict=True):
        curves_panel(axis, analysis, result)
        axis.set_title(title(analysis.parametrization), loc="left", color=INK, fontsize=10)
    axes[0].set_ylabel("training loss (nats)", color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="width", frameon=False, loc="outside right center")
    return figure


def curves_panel(axis: "Axes", analysis: Analysis, result: Result) -> None:
    """Draws the training curves of one parametrization; the worst crossings are marked."""
    curves = transferred_curves(analysis, result.trials)
    shades = colors(len(analysis.curves))
    for curve, color in zip(analysis.curves, shades, strict=True):
        runs = [
            np.where(np.isfinite(run), run, np.nan) for run in curves.get(curve.width, {}).values()
        ]
        if not runs:
            continue
        losses = np.stack(runs)
        x = 100 * (1 + np.arange(losses.shape[1])) / losses.shape[1]
        axis.fill_between(
            x, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.15, linewidth=0
        )
        axis.plot(x, losses.mean(axis=0), color=color, linewidth=1.6, label=str(curve.width))
    for crossing in filter(lambda c: c.certain, analysis.crossings or ()):
        axis.axvline(100 * crossing.at, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    log_scale(axis)
    axis.set_xlabel("percent of the run", color=INK)
    style(axis)
