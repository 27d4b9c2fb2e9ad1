"""The figure of a memory report."""

from typing import TYPE_CHECKING

from jaxmup.fused import MemoryReport
from jaxmup.plots._style import INK, MUTED, colors, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


def memory_figure(report: MemoryReport) -> "Figure":
    """A bar for each form of a step: what its peak consists of.

    Activations and gradients are parts of the temporaries, and need not exist at one time: where
    they share memory, the bar shows of activations what gradients leave.

    Args:
      report: Result of `jaxmup.fused.memory_report`.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    forms = list(report.forms)
    largest = max(memory.peak for memory in report.forms.values())
    size, unit = next(pair for pair in _UNITS if largest >= pair[0])
    parts: dict[str, list[float]] = {}
    for memory in report.forms.values():
        gradients = min(memory.gradients, memory.temporaries)
        activations = min(memory.activations, memory.temporaries - gradients)
        rows = {
            "parameters": memory.parameters,
            "optimizer state": memory.state,
            "gradients": gradients,
            "activations": activations,
            "other temporaries": memory.temporaries - gradients - activations,
        }
        for name, count in rows.items():
            parts.setdefault(name, []).append(count / size)
    figure = new_figure(7.2, 0.9 + 0.5 * len(forms))
    axis = figure.subplots()
    left = [0.0] * len(forms)
    for (name, widths), color in zip(parts.items(), colors(len(parts))[::-1], strict=True):
        axis.barh(forms, widths, left=left, color=color, label=name, height=0.62)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for (form, memory), end in zip(report.forms.items(), left, strict=True):
        peak = f"{memory.peak / size:,.1f}"
        offset = {"xytext": (4, 0), "textcoords": "offset points"}
        axis.annotate(peak, (end, form), **offset, va="center", color=MUTED)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel(f"peak of a step ({unit})", color=INK)
    style(axis)
    axis.grid(visible=False, axis="y")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(parts), fontsize=8)
    return figure
