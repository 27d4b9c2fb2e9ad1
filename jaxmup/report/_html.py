"""The report as one page of HTML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from jaxmup.report import _figures as figures
from jaxmup.report import _text as text
from jaxmup.report._markdown import markdown
from jaxmup.report._page import page
from jaxmup.transfer import Analysis, Curve, Result
from jaxmup.transfer._identity import versions as installed


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
      result: of `jaxmup.transfer.measure` or `read_record`.
      title: of the page.
      versions: of the packages that measured; `None` for those that are installed.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    versions = installed() if versions is None else versions
    sections = [
        _head(result, title),
        _verdicts(result.analyses),
        _losses(result),
        _optima(result),
        _curves(result),
        _settings(result, versions),
        _details("As Markdown", f"<pre>{escape(markdown(result, title=title))}</pre>"),
        f'<footer class="muted">Made by jaxmup {escape(versions.get("jaxmup", ""))}.</footer>',
    ]
    return page(escape(title), "\n".join(filter(None, sections)), *figures.series(result))


def _head(result: Result, title: str) -> str:
    widths = [curve.width for curve in result.analyses[0].curves]
    count = len(result.trials)
    seeds = result.analyses[0].seeds
    line = (
        f"{count} runs: widths {widths[0]} to {widths[-1]}, {seeds} seed{'s' * (seeds != 1)}, "
        f"{result.config.optimizer}, {result.config.steps} steps"
    )
    return f'<h1>{escape(title)}</h1>\n<p class="muted">{escape(line)}.</p>'


def _verdicts(analyses: Sequence[Analysis]) -> str:
    return f'<section class="cards">{"".join(map(_card, analyses))}</section>'


def _card(a: Analysis) -> str:
    drift = "Drift in octaves" if a.scale == "log2" else "Drift"
    per = "Exponent β" if a.scale == "log2" else "Drift per doubling"
    slope = (text.number(a.drift_per_doubling, sign=True), a.drift_per_doubling_interval)
    answer, detail = text.wider(a)
    facts = [
        (drift, text.number(a.drift, sign=True), text.interval(a.drift_interval, sign=True)),
        (per, slope[0], text.interval(slope[1], sign=True)),
        ("Penalty", _percent(a.penalty), text.interval(a.penalty_interval, 1)),
        ("Wider is better", answer, detail),
    ]
    listed = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for label, value, more in facts
    )
    return (
        f'<article class="card {a.outcome.replace(" ", "-")}"><header>'
        f'<h3>{escape(text.name(a.parametrization))}</h3><span class="badge">{_MARKS[a.outcome]} '
        f"{a.outcome}</span></header><p>{escape(text.sentence(a))}</p>"
        f'<dl class="facts">{listed}</dl></article>'
    )


_MARKS = {"transfers": "✓", "does not transfer": "✗", "undecided": "?", "no answer": "?"}


def _percent(value: float | None) -> str:
    return "diverged" if value is None else f"{text.number(value, 1)} %"


def _losses(result: Result) -> str:
    over = escape(result.analyses[0].over.replace("_", " "))
    drawn = zip(result.analyses, figures.loss_plots(result), strict=True)
    panels = "".join(_figure(a, svg) for a, svg in drawn)
    return (
        f"<section><h2>Loss against {over}</h2>"
        '<p class="muted">Mean over the seeds, with its standard error as a band. Dots are the '
        "optima, by the dashed parabola through the basin; a hollow one is at an edge of the "
        "grid. Bars are 95 % intervals over the seeds.</p>"
        f'{_legend(result)}<div class="figures">{panels}</div></section>'
    )


def _optima(result: Result) -> str:
    over = escape(result.analyses[0].over.replace("_", " "))
    return (
        f"<section><h2>Where the best {over} is</h2>"
        '<p class="muted">Bars are the 95 % intervals of the optima, bands that of the slope. A '
        "value that transfers stays on a level line.</p>"
        f'<div class="figures"><figure>{figures.optima_plot(result)}</figure>'
        f'<div class="stack">{"".join(map(_optimum_table, result.analyses))}</div></div>'
        f"{_details('Every loss', ''.join(map(_all_losses, result.analyses)))}</section>"
    )


def _curves(result: Result) -> str:
    if not any(trial.curve for trial in result.trials):
        return ""
    drawn = zip(result.analyses, figures.curve_plots(result), strict=True)
    panels = "".join(_figure(a, svg) for a, svg in drawn)
    return (
        "<section><h2>Training at the transferred value</h2>"
        '<p class="muted">Every width at the best value of the smallest: mean over the seeds and '
        "their range. Under a right parametrization no wider network is above a narrower one; a "
        "dotted line marks where one is, by more than the seeds explain.</p>"
        f'{_legend(result)}<div class="figures">{panels}</div></section>'
    )


def _legend(result: Result) -> str:
    widths = [curve.width for curve in result.analyses[0].curves]
    items = "".join(
        f'<li><i style="--tone: var(--s{i})"></i>{width}</li>' for i, width in enumerate(widths)
    )
    return f'<ul class="legend" aria-label="Colors of the widths"><li>width</li>{items}</ul>'


def _figure(analysis: Analysis, svg: str) -> str:
    return f"<figure><h3>{escape(text.name(analysis.parametrization))}</h3>{svg}</figure>"


def _optimum_table(a: Analysis) -> str:
    """A row per width; the other hyper-parameters in a column where the sweep varies any."""
    varied = any(curve.others for curve in a.curves)
    heads = ["width", "optimum", "95 % interval", "loss", *["others there"] * varied]
    rows = [
        [
            str(curve.width),
            text.optimum(a, curve) + (" (edge)" if curve.at_edge else ""),
            text.optimum_interval(a, curve),
            text.loss(None if curve.best is None else curve.losses[curve.best]),
            *[", ".join(f"{name} {value:g}" for name, value in curve.others)] * varied,
        ]
        for curve in a.curves
    ]
    heading = f"<h3>{escape(text.name(a.parametrization))}</h3>"
    return f'<div class="card table">{heading}{_table(heads, rows)}</div>'


def _all_losses(a: Analysis) -> str:
    """Mean losses and their standard errors: a row per value, a column per width."""
    values = sorted({value for curve in a.curves for value in curve.values})
    cells = {(c.width, v): _loss_cell(c, i) for c in a.curves for i, v in enumerate(c.values)}
    rows = [
        [f"{value:.4g}", *(cells.get((curve.width, value), text.NONE) for curve in a.curves)]
        for value in values
    ]
    heads = [a.over.replace("_", " "), *(str(curve.width) for curve in a.curves)]
    return f"<h3>{escape(text.name(a.parametrization))}</h3>{_table(heads, rows)}"


def _loss_cell(curve: Curve, index: int) -> str:
    error = curve.errors[index]
    return text.loss(curve.losses[index]) + ("" if error is None else f" ± {error:.2g}")


def _settings(result: Result, versions: Mapping[str, str]) -> str:
    halves = (("Configuration", text.configuration(result)), ("Versions", versions))
    cards = "".join(
        f'<div class="card table"><h3>{title}</h3>{_pairs(pairs)}</div>' for title, pairs in halves
    )
    return f'<section><h2>Made with</h2><div class="tables">{cards}</div></section>'


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{_cell(value)}</td></tr>'
        for key, value in pairs.items()
    )
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it does not fit."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(words: str) -> str:
    """Escaped, with powers of two set as such."""
    return re.sub(r"2\^(−?[\d.]+)", r"2<sup>\1</sup>", escape(words))


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary><div>{content}</div></details>"
