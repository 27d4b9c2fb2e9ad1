"""The result of a transfer measurement as a table."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from jaxmup.transfer import Analysis, Curve, Interval, Result


def result_table(result: Result) -> Table:
    """A row per width with its best learning rate under each parametrization, then what follows."""
    analyses = result.analyses
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("width")
    for analysis in analyses:
        table.add_column(f"{analysis.parametrization}\nbest learning rate", justify="right")
        table.add_column("\nloss", justify="right")
    for curves in zip(*(a.curves for a in analyses), strict=True):
        table.add_row(str(curves[0].width), *(cell for c in curves for cell in _optimum(c)))
    table.add_section()
    drifts = [_within(a.drift, a.drift_interval, "+z.2f") for a in analyses]
    slopes = [_within(a.exponent, a.drift_per_doubling_interval, "+z.2f") for a in analyses]
    _add_row(table, "drift in octaves", drifts)
    _add_row(table, "drift per doubling (β)", slopes)
    table.add_section()
    small, large = analyses[0].curves[0].width, analyses[0].curves[-1].width
    table.add_row(
        f"width {large} at the best rate of width {small}", *_losses(analyses, "transferred_loss")
    )
    table.add_row("its own best", *_losses(analyses, "best_loss"))
    penalties = [_within(a.penalty, a.penalty_interval, ".1f") for a in analyses]
    _add_row(table, "penalty in percent", penalties)
    return table


def _add_row(table: Table, label: str, values: Sequence[str]) -> None:
    table.add_row(label, *(cell for value in values for cell in (value, "")))


def _optimum(curve: Curve) -> tuple[str, str]:
    if curve.best is None:
        return "diverged", ""
    edge = " (edge)" if curve.at_edge else ""
    within = "" if curve.interval is None else _ends(curve.interval, ".2f")
    return f"2^{curve.optimum:.2f}{within}{edge}", _loss(curve.losses[curve.best])


def _losses(analyses: Sequence[Analysis], field: str) -> list[str]:
    return [cell for a in analyses for cell in ("", _loss(getattr(a, field)))]


def _loss(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.3g}"


def _within(value: float | None, interval: Interval | None, form: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:{form}}" + ("" if interval is None else _ends(interval, form))


def _ends(interval: Interval, form: str) -> str:
    return f" ({interval.low:{form}} to {interval.high:{form}})"
