"""The report as one page of HTML: what `page.html.jinja` shows, and `style.css` gives its look."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxmup import _check, _extras
from jaxmup.report import _figures as figures
from jaxmup.report import _text as text
from jaxmup.report._markdown import markdown
from jaxmup.transfer import Analysis, Curve, Result
from jaxmup.transfer._identity import versions as installed
from jaxmup.transfer._names import in_words, written


def html(
    result: Result,
    *,
    title: str = "Learning-rate transfer",
    versions: Mapping[str, str] | None = None,
) -> str:
    """A transfer measurement as one self-contained HTML page; the same result, the same bytes.

    The verdict comes first, then the plots, the tables, the configuration and the versions, and the
    same as Markdown, to be pasted. The page loads nothing, has no script, follows the reader's
    light or dark theme, and fits a phone.

    Args:
      result: Result of `jaxmup.transfer.measure` or `read_record`.
      title: Title of the page.
      versions: Versions of the packages that measured; `None` for those that are installed.

    Raises:
      ModuleNotFoundError: if Jinja2 or matplotlib is not installed.

    Example:
      >>> from jaxmup import report, transfer
      >>> config = transfer.Config(widths=(8, 16), learning_rates=(0.01, 0.1), seeds=(0,), steps=2)
      >>> page = report.html(transfer.measure(config), title="Two widths")
      >>> "<h1>Two widths</h1>" in page
      True
    """
    _check.made("result", result, "Result", "jaxmup.transfer.measure")
    analyses = result.analyses
    light, dark = figures.series(result)
    has_curves = any(trial.curve for trial in result.trials)
    return _template().render(
        title=title,
        summary=_summary(result),
        over=in_words(analyses[0].over),
        widths=[curve.width for curve in analyses[0].curves],
        light=light,
        dark=dark,
        cards=[_card(a) for a in analyses],
        losses=_panels(analyses, figures.loss_plots(result)),
        optima=Panel("", figures.optima_plot(result)),
        optimum_tables=[_optimum_table(a) for a in analyses],
        loss_tables=[_loss_table(a) for a in analyses],
        curves=_panels(analyses, figures.curve_plots(result)) if has_curves else [],
        configuration=text.configuration(result),
        versions=installed() if versions is None else versions,
        markdown=markdown(result, title=title),
    )


class Panel(NamedTuple):
    """A plot and what stands above it.

    Args:
      heading: Words above the plot; empty for none.
      svg: The plot, an `<svg>` element.
    """

    heading: str
    svg: str


class Fact(NamedTuple):
    """A number of a card, in words.

    Args:
      label: Name of the number.
      value: The number.
      detail: Interval or place that belongs to the number.
    """

    label: str
    value: str
    detail: str


class Card(NamedTuple):
    """The verdict on a parametrization.

    Args:
      name: Parametrization as people write it.
      mark: Symbol of the outcome.
      outcome: Outcome in words; with hyphens, the class of the card in the style sheet.
      sentence: The verdict.
      facts: Numbers that the verdict rests on.
    """

    name: str
    mark: str
    outcome: str
    sentence: str
    facts: Sequence[Fact]


class Table(NamedTuple):
    """A table in words.

    Args:
      heading: Words above the table.
      heads: Heads of the columns.
      rows: Cells of each row, the first of which is the head of the row.
    """

    heading: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@functools.cache
def _template() -> Any:
    jinja2 = _extras.require("jinja2", "The report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, package_path="."),
        autoescape=True,
        # A name that is misspelled in the template is an error, and not an empty place in the page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["powers"] = functools.partial(re.split, r"2\^(−?[\d.]+)")
    return environment.get_template("page.html.jinja")


def _summary(result: Result) -> str:
    widths = [curve.width for curve in result.analyses[0].curves]
    seeds = result.analyses[0].seeds
    return (
        f"{len(result.trials)} runs: widths {widths[0]} to {widths[-1]}, "
        f"{seeds} seed{'s' * (seeds != 1)}, {result.config.optimizer}, {result.config.steps} steps"
    )


_MARKS = {"transfers": "✓", "does not transfer": "✗", "undecided": "?", "no answer": "?"}


def _card(a: Analysis) -> Card:
    drift, slope = ("Drift", "Drift per doubling")
    if a.scale == "log2":
        drift, slope = ("Drift in octaves", "Exponent β")
    penalty = "diverged" if a.penalty is None else f"{text.number(a.penalty, 1)} %"
    facts = [
        Fact(drift, text.number(a.drift, sign=True), text.interval(a.drift_interval, sign=True)),
        Fact(
            slope,
            text.number(a.drift_per_doubling, sign=True),
            text.interval(a.drift_per_doubling_interval, sign=True),
        ),
        Fact("Penalty", penalty, text.interval(a.penalty_interval, 1)),
        Fact("Wider is better", *text.wider(a)),
    ]
    return Card(written(a.parametrization), _MARKS[a.outcome], a.outcome, text.sentence(a), facts)


def _panels(analyses: Sequence[Analysis], drawn: Sequence[str]) -> list[Panel]:
    return [Panel(written(a.parametrization), svg) for a, svg in zip(analyses, drawn, strict=True)]


def _optimum_table(a: Analysis) -> Table:
    """A row per width; the other hyper-parameters in a column where the sweep varies any."""
    columns: dict[str, Callable[[Curve], str]] = {
        "width": lambda curve: str(curve.width),
        "optimum": lambda curve: text.optimum(a, curve) + (" (edge)" if curve.at_edge else ""),
        "95 % interval": lambda curve: text.optimum_interval(a, curve),
        "loss": text.best_loss,
    }
    if any(curve.others for curve in a.curves):
        columns["others there"] = lambda curve: ", ".join(f"{k} {x:g}" for k, x in curve.others)
    rows = [[cell(curve) for cell in columns.values()] for curve in a.curves]
    return Table(written(a.parametrization), list(columns), rows)


def _loss_table(a: Analysis) -> Table:
    """Mean losses and their standard errors: a row per value, a column per width."""
    cells = {(c.width, v): _loss_cell(c, i) for c in a.curves for i, v in enumerate(c.values)}
    rows = [
        [f"{value:.4g}", *(cells.get((curve.width, value), text.NONE) for curve in a.curves)]
        for value in sorted({value for curve in a.curves for value in curve.values})
    ]
    heads = [in_words(a.over), *(str(curve.width) for curve in a.curves)]
    return Table(written(a.parametrization), heads, rows)


def _loss_cell(curve: Curve, index: int) -> str:
    error = curve.errors[index]
    return text.loss(curve.losses[index]) + ("" if error is None else f" ± {error:.2g}")
