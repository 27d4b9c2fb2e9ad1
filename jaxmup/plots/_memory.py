"""The figure of a memory report."""

from typing import TYPE_CHECKING

from jaxmup import _check
from jaxmup.fused import MemoryReport
from jaxmup.plots._style import INK, MUTED, as_is, colors, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


def memory_figure(report: MemoryReport) -> "Figure":
    """A bar for each form of a step, with the parts of its peak.

    Activations and gradients are parts of the temporaries, and need not exist at one time: where
    they share memory, the bar shows of activations what gradients leave.

    Args:
      report: Result of `jaxmup.fused.memory_report`.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    _check.made("report", report, "MemoryReport", "jaxmup.fused.memory_report")
    forms = [as_is(name) for name in report.forms]
    largest = max(memory.peak for memory in report.forms.values())
    size, unit = next(pair for pair in _UNITS if largest >= pair[0])
    parts = _parts(report)
    figure = new_figure(7.2, 0.9 + 0.5 * len(forms))
    axis = figure.subplots()
    left = [0.0] * len(forms)
    for (name, counts), color in zip(parts.items(), colors(len(parts))[::-1], strict=True):
        widths = [count / size for count in counts]
        axis.barh(forms, widths, left=left, color=color, label=name, height=0.62)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for form, memory, end in zip(forms, report.forms.values(), left, strict=True):
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


def _parts(report: MemoryReport) -> dict[str, list[int]]:
    """Bytes of each part of the peak, one number for each form; they add up to the peak."""
    parts: dict[str, list[int]] = {}
    for memory in report.forms.values():
        # The numbers of activations and gradients are each the most at one time, and may overlap:
        # cut to what is left of the temporaries, the bar is as long as the peak.
        gradients = min(memory.gradients, memory.temporaries)
        activations = min(memory.activations, memory.temporaries - gradients)
        counts = {
            "parameters": memory.parameters,
            "optimizer state": memory.state,
            "gradients": gradients,
            "activations": activations,
            "other temporaries": memory.temporaries - gradients - activations,
        }
        for name, count in counts.items():
            parts.setdefault(name, []).append(count)
    return parts
