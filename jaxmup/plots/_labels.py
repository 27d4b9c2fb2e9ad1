"""Labels at the ends of lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 6.5  # points
_LINE = 1.25  # of text, in sizes


class Label(NamedTuple):
    """A label of the line that ends at `(x, y)`."""

    text: str
    x: float
    y: float
    color: str


def label_ends(axis: "Axes", labels: Sequence[Label], height: float) -> None:
    """Writes labels inside the axes, each as near to the end of its line as the others allow.

    Args:
      axis: Axes whose scales and limits are final.
      labels: Labels, the most important first; those without room are counted in the last one.
      height: Height of the axes, in inches.
    """
    gap = _SIZE * _LINE / 72 / height
    room = max(1, int(1 / gap))
    shown = list(labels[:room])
    if len(labels) > room:
        rest = len(labels) - room + 1
        shown[-1] = shown[-1]._replace(text=f"... and {rest} more")
    to_axes = axis.transData + axis.transAxes.inverted()
    ends = [to_axes.transform((one.x, one.y)) for one in shown]
    heights = spread([end[1] for end in ends], gap)
    for one, end, y in zip(shown, ends, heights, strict=True):
        axis.annotate(
            one.text,
            (one.x, one.y),
            (end[0] - 0.02, y),
            textcoords="axes fraction",
            ha="right",
            va="center",
            fontsize=_SIZE,
            color=one.color,
            bbox={"facecolor": "white", "alpha": 0.9, "linewidth": 0, "pad": 0.3},
            zorder=4,
        ).set_in_layout(False)  # the layout would make room for it outside of the axes


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions from 0 to 1 that are `gap` apart, in the order of the given ones and near them.

    Example:
      >>> spread([0.5, 0.9, 0.51, 1.2], gap=0.1)
      [0.5, 0.85, 0.6, 0.95]
    """
    # Upwards, each label is pushed above the one below it; where that runs out of the axis,
    # downwards again, each below the one above.
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed: list[float] = []
    for i in order:
        lowest = placed[-1] + gap if placed else gap / 2
        placed.append(max(positions[i], lowest))
    highest = 1 - gap / 2
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], highest)
        highest = placed[k] - gap
    by_index = dict(zip(order, placed, strict=True))
    return [round(by_index[i], 6) for i in range(len(positions))]
