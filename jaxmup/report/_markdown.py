"""The report as Markdown, for a pull request or an issue."""

from collections.abc import Sequence

from jaxmup import _check
from jaxmup.report import _text as text
from jaxmup.transfer import Analysis, Interval, Result
from jaxmup.transfer._names import written


def markdown(result: Result, *, title: str = "Learning-rate transfer") -> str:
    """A transfer measurement as Markdown: verdicts, a table of optima, the configuration.

    Args:
      result: Result of `jaxmup.transfer.measure` or `read_record`.
      title: Title of the section.
    """
    _check.made("result", result, "Result", "jaxmup.transfer.measure")
    verdicts = [
        f"- **{_plain(written(a.parametrization))}** ({a.outcome}): {_plain(text.sentence(a))}"
        for a in result.analyses
    ]
    settings = (
        f"{key}: {_plain(value)}"
        for key, value in text.configuration(result).items()
        if value != text.NONE
    )
    parts = [f"### {_plain(title)}", "\n".join(verdicts), _optima(result.analyses)]
    return "\n\n".join([*parts, f"Configuration: {'; '.join(settings)}."]) + "\n"


def _optima(analyses: Sequence[Analysis]) -> str:
    """A row per width, then what follows; two columns per parametrization."""
    heads = [
        head for a in analyses for head in (f"{_plain(written(a.parametrization))}: best", "loss")
    ]
    rows = [
        [str(curves[0].width)]
        + [
            cell
            for a, curve in zip(analyses, curves, strict=True)
            for cell in (
                _with(text.optimum(a, curve), text.optimum_interval(a, curve)),
                text.best_loss(curve),
            )
        ]
        for curves in zip(*(a.curves for a in analyses), strict=True)
    ]
    follows = {
        "drift": [_found(a.drift, a.drift_interval) for a in analyses],
        "per doubling (β)": [
            _found(a.drift_per_doubling, a.drift_per_doubling_interval) for a in analyses
        ],
        "penalty, %": [_found(a.penalty, a.penalty_interval, 1, sign=False) for a in analyses],
    }
    rows += [
        [label, *(x for cell in cells for x in (cell, ""))] for label, cells in follows.items()
    ]
    lines = [["width", *heads], ["---"] * (1 + len(heads)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _found(value: float | None, found: Interval | None, digits: int = 2, sign: bool = True) -> str:
    return _with(text.number(value, digits, sign), text.interval(found, digits, sign))


def _with(value: str, interval: str) -> str:
    return value if interval == text.NONE else f"{value} ({interval})"


def _plain(words: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    escaped = "".join(f"\\{c}" if c in r"\`*_[]<>|#" else c for c in words)
    return " ".join(escaped.split())
