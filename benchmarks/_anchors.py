"""Published numbers beside ours: bands, rules with a part left out, and the picture of both."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

import jaxmup
from jaxmup import plots

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
Part = Literal["eps", "learning rate", "residual multiplier"]
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
PARTS: tuple[Part, ...] = ("eps", "learning rate", "residual multiplier")


class Band(NamedTuple):
    """A published number, and where ours may lie.

    Args:
      published: Number of the source.
      within: Largest distance of ours from the middle of the band; in the unit of the number.
      middle: Middle of the band; `None` for the published number.
    """

    published: float
    within: float
    middle: float | None = None

    def judge(self, ours: float) -> dict[str, Any]:
        """The line of a record: published, ours, band, and whether ours is inside."""
        middle = self.published if self.middle is None else self.middle
        inside = abs(ours - middle) <= self.within  # not so for NaN
        band = [middle - self.within, middle + self.within]
        return {"published": self.published, "ours": ours, "band": band, "inside": inside}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of a line through the logarithms; NaN unless every `y` is finite and positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(np.asarray(y, float))
    if not np.isfinite(logarithms).all():
        return float("nan")
    return float(np.polyfit(np.log(x), logarithms, 1)[0])


def rule_over_depth(alpha: float) -> jaxmup.Parametrization:
    """MuP for Adam whose residual blocks are multiplied by `depth_ratio^-alpha`.

    Args:
      alpha: 1 is CompleteP; 0 is muP that leaves the depth unscaled.
    """
    return jaxmup.parametrization("mup", "adam", depth_alpha=alpha)


def without(rule: jaxmup.Parametrization, part: Part) -> jaxmup.Parametrization:
    """The rule with one part of what it does over depth left out."""
    if part == "residual multiplier":
        return dataclasses.replace(rule, depth_alpha=0.0)
    field = "eps" if part == "eps" else "lr"
    unscaled = rule_over_depth(0).rows
    rows = (
        dataclasses.replace(row, **{field: getattr(other, field)})
        for row, other in zip(rule.rows, unscaled, strict=True)
    )
    return dataclasses.replace(rule, rows=tuple(rows))


def print_lines(lines: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each number: published, ours, band."""
    for name, line in lines.items():
        low, high = line["band"]
        inside = "inside" if line["inside"] else "OUTSIDE"
        numbers = f"published {line['published']:+.3g}  ours {line['ours']:+.3g}"
        print(f"{name}: {numbers}  [{low:+.3g}, {high:+.3g}]  {inside}", flush=True)


def write_picture(path: Path, panels: Mapping[str, tuple[Curves, Curves]], y_label: str) -> None:
    """A PNG of a panel each: ours as lines with dots, the published numbers as dashed lines.

    Args:
      path: File to write.
      panels: Curves of both, ours first, by the title of the panel.
      y_label: Label of the vertical axis.
    """
    figure = plots.new_figure(3.4 * len(panels), 3.4)
    for i, (title, (ours, published)) in enumerate(panels.items()):
        axis = figure.add_subplot(1, len(panels), i + 1)
        for color, name in zip(COLORS, ours, strict=False):
            axis.plot(*ours[name], marker="o", markersize=4, color=color, label=name)
            if name in published:
                axis.plot(*published[name], "--", color=color, label=f"{name}, published")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("depth")
        axis.set_ylabel(y_label if i == 0 else "")
        axis.legend(frameon=False, fontsize=7)
    path.write_bytes(plots.png(figure))
