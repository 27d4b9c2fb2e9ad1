"""The figure of a calibration: every module before and after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmup import _check
from jaxmup.empirical import ModuleStatistics, Report
from jaxmup.plots._style import GRID, INK, MUTED, colors, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    "activations": "activations",
    "gradients": "gradients, per example",
    "updates": "change of activations per learning rate",
}


def empirical_figure(report: Report) -> "Figure":
    """RMS of activations, gradients and updates against the module, in the order of the calls.

    The figure belongs to no window and to no `pyplot`; save it with `figure.savefig(path)`.

    Args:
      report: Result of `jaxmup.empirical.report`.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    _check.made("report", report, "Report", "jaxmup.empirical.report")
    figure = new_figure(12.0, 3.9)
    axes = figure.subplots(1, len(_TITLES))
    for axis, (field, title) in zip(axes, _TITLES.items(), strict=True):
        _panel(axis, report, field, title)
    axes[0].set_ylabel("RMS", color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside right center")
    modules = f"{len(report.after)} modules"
    figure.suptitle(f"Calibration of {modules}", x=0.01, ha="left", color=INK, fontsize=11.5)
    return figure


def _panel(axis: "Axes", report: Report, field: str, title: str) -> None:
    before, after = colors(2)
    axis.axhline(1.0, color=GRID, linewidth=3, zorder=1)
    for rows, color, label in ((report.before, before, "before"), (report.after, after, "after")):
        axis.plot(*_points(rows, field), "o-", color=color, ms=3, linewidth=1.5, label=label)
    axis.set_yscale("log")
    axis.set_title(title, loc="left", color=INK, fontsize=10)
    axis.set_xlabel("module, in the order of the calls", color=MUTED)
    style(axis)


def _points(rows: Sequence[ModuleStatistics], field: str) -> tuple[list[int], list[float]]:
    """The places and values that a logarithmic axis can show: positive and finite ones."""
    values = [getattr(row, field) for row in rows]
    shown = [(i, v) for i, v in enumerate(values) if v is not None and np.isfinite(v) and v > 0]
    return [i for i, _ in shown], [v for _, v in shown]
