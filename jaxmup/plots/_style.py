"""Colors, axes and files of every figure; no global state."""

import io
from typing import TYPE_CHECKING, TypeAlias

from jaxmup import _check, _extras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Color: TypeAlias = str | tuple[float, float, float, float]
"""A color as `#rrggbb`, or as red, green, blue and opacity from 0 to 1."""

INK, MUTED, GRID = "#1f2328", "#59636e", "#e6e8eb"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure that belongs to no window and to no `pyplot`.

    Args:
      width: Width in inches.
      height: Height in inches.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    for name, size in {"width": width, "height": height}.items():
        _check.number(name, size, above=0, may_be_traced=False)
    figures = _extras.require("matplotlib.figure", "A plot")
    return figures.Figure(figsize=(width, height), layout="constrained", facecolor="white")


def png(figure: "Figure", dots_per_inch: int = 160) -> bytes:
    """The figure as the content of a PNG file.

    Args:
      figure: Figure to draw.
      dots_per_inch: Pixels per inch of the figure.

    Raises:
      TypeError: if `dots_per_inch` is no number.
      ValueError: if it is not above 0.
    """
    _check.made("figure", figure, "Figure", "jaxmup.plots")
    _check.number("dots_per_inch", dots_per_inch, above=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch)
    return buffer.getvalue()


def as_is(name: str) -> str:
    r"""A name that matplotlib draws as it stands, and takes no mathematics or line breaks from.

    Example:
      >>> as_is("a$b\n")
      'a\\$b?'
    """
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return shown.replace("$", r"\$")


def style(axis: "Axes") -> None:
    """A light grid behind the lines, and no frame around them."""
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, which="both")


def log_scale(axis: "Axes") -> None:
    """A logarithmic vertical axis with plain numbers at 1, 2 and 5."""
    ticker = _extras.require("matplotlib.ticker", "A plot")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def colors(count: int) -> list[Color]:
    """Light to dark, one per width."""
    scale = _extras.require("matplotlib", "A plot").colormaps["viridis_r"]
    return [scale(0.25 + 0.75 * i / max(count - 1, 1)) for i in range(count)]
