"""The plots of a report: small panels, each an inline SVG whose colors the page decides."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxmup import _extras, plots
from jaxmup.plots import _style
from jaxmup.plots._curves import curves_panel
from jaxmup.plots._optima import hues, optima_panel
from jaxmup.plots._transfer import loss_limits, loss_panel
from jaxmup.transfer import Analysis, Result
from jaxmup.transfer._names import in_words, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (4.7, 3.3)  # inches at 72 pixels: about the width of a phone
_DARK_HUES = ("#f2884b", "#57b4e9", "#c79ad6", "#7fc97a", "#d9c34a", "#ee7fa6")


def loss_plots(result: Result) -> list[str]:
    """Loss against the hyper-parameter, one plot per parametrization, on the same axes."""
    draw = functools.partial(_draw_loss, limits=loss_limits(result.analyses))
    return _plots(result, draw, "loss", f"Loss against {in_words(result.analyses[0].over)}")


def optima_plot(result: Result) -> str:
    """The optimum of each width, all parametrizations together."""
    label = "Best learning rate of each width, with the power law fitted to them"
    return _plot(result, lambda axis: optima_panel(axis, result.analyses), "optima", label)


def curve_plots(result: Result) -> list[str]:
    """Training curves at the transferred value, one plot per parametrization, on the same axes."""
    limits = [_curve_limits(result, analysis) for analysis in result.analyses]
    common = min(low for low, _ in limits), max(high for _, high in limits)
    draw = functools.partial(_draw_curves, result=result, limits=common)
    return _plots(result, draw, "curves", "Training curves")


def series(result: Result) -> tuple[list[str], list[str]]:
    """The colors of widths, then of parametrizations, on light and on dark ground."""
    count = len(result.analyses)
    light = [*_shades(_widths(result), 0.57, 0.0), *hues(count)]
    dark = [*_shades(_widths(result), 0.42, 0.98)]
    return light, dark + [_DARK_HUES[i % len(_DARK_HUES)] for i in range(count)]


def _draw_loss(axis: "Axes", analysis: Analysis, limits: tuple[float, float]) -> None:
    loss_panel(axis, analysis)
    axis.set_ylim(limits)
    axis.set_ylabel("loss at the end (nats)", color=_style.INK)


def _draw_curves(
    axis: "Axes", analysis: Analysis, result: Result, limits: tuple[float, float]
) -> None:
    curves_panel(axis, analysis, result)
    axis.set_ylim(limits)
    axis.set_ylabel("training loss (nats)", color=_style.INK)


def _curve_limits(result: Result, analysis: Analysis) -> tuple[float, float]:
    """The limits that matplotlib chooses when it draws the curves."""
    axis = _style.new_figure(*_SIZE).subplots()
    curves_panel(axis, analysis, result)
    return axis.get_ylim()


def _plots(
    result: Result, draw: Callable[["Axes", Analysis], None], name: str, label: str
) -> list[str]:
    """One plot per parametrization."""
    return [
        _plot(
            result,
            lambda axis, analysis=analysis: draw(axis, analysis),
            f"{name}{i}",
            f"{label}, {written(analysis.parametrization)}",
        )
        for i, analysis in enumerate(result.analyses)
    ]


def _plot(result: Result, draw: Callable[["Axes"], None], name: str, label: str) -> str:
    figure = _style.new_figure(*_SIZE)
    axis = figure.subplots()
    draw(axis)
    axis.tick_params(labelsize=8.5)
    for part in (axis.xaxis.label, axis.yaxis.label):
        part.set_fontsize(9)
    return plots.svg(figure, name, label, _called(result))


def _called(result: Result) -> dict[str, str]:
    """The colors of a figure, by what the page calls them."""
    to_hex = _extras.require("matplotlib.colors", "A plot").to_hex
    drawn: Sequence[_style.Color] = [*_style.colors(_widths(result)), *hues(len(result.analyses))]
    named = {_style.INK: "ink", _style.MUTED: "muted", _style.GRID: "grid", "#ffffff": "card"}
    named |= {to_hex(color): f"s{i}" for i, color in enumerate(drawn)}
    return {color: f"var(--{called})" for color, called in named.items()}


def _shades(count: int, start: float, stop: float) -> list[str]:
    matplotlib = _extras.require("matplotlib", "A plot")
    to_hex = _extras.require("matplotlib.colors", "A plot").to_hex
    scale = matplotlib.colormaps["viridis"]
    return [to_hex(scale(start + (stop - start) * i / max(count - 1, 1))) for i in range(count)]


def _widths(result: Result) -> int:
    return len(result.analyses[0].curves)
