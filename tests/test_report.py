"""The report of a transfer measurement: one page, self-contained, safe, the same every time."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import cases

from jaxmup import report, transfer
from jaxmup.report import _figures, _html

RATES = tuple(2.0**i for i in range(-9, -3))
VERSIONS = {"jaxmup": "1.2.3", "jax": "<4>"}


def result(shift=-1.0, seeds=2, curves=True, loss=lambda y: y, name="mup", model="mlp"):
    """Two widths; under the standard parametrization the optimum moves by `shift`."""
    trials = [
        transfer.Trial(
            parametrization,
            width,
            rate,
            seed,
            loss(1.0 + 0.1 * (i - 3 - moved) ** 2 + 0.01 * seed),
            curve=(3.0, 2.0 - width / 100 + 0.1 * seed) if curves else (),
        )
        for parametrization, moves in (("standard", shift), (name, 0.0))
        for width, moved in ((8, 0.0), (16, moves))
        for seed in range(seeds)
        for i, rate in enumerate(RATES)
    ]
    config = transfer.Config(
        widths=(8, 16), learning_rates=RATES, seeds=tuple(range(seeds)), model=model
    )
    analyses = (
        transfer.analyze(t for t in trials if t.parametrization == found)
        for found in ("standard", name)
    )
    return transfer.Result(config, tuple(trials), tuple(analyses))


class Page(HTMLParser):
    """A page as a browser sees it: balanced tags, ids, attributes and texts."""

    VOID = ("meta", "br", "img", "link", "use", "path")

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.texts = [], [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("href", "src", "xlink:href")]
        self.links += [f"#{i}" for _, v in attrs for i in re.findall(r"url\(#([^)]+)\)", v or "")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def shown():
    return result()


@pytest.fixture(scope="module")
def html(shown):
    return report.html(shown, versions=VERSIONS)


def test_the_same_result_gives_the_same_bytes(shown, html):
    assert report.html(shown, versions=VERSIONS) == html
    assert re.search(r"\b20\d\d-\d\d-\d\d", html) is None  # no date


def test_the_page_is_whole_and_loads_nothing(html):
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "@import" not in html
    assert "url(http" not in html
    assert page.tags.count("svg") == 5  # losses and curves of two parametrizations, and the optima
    assert html.count('role="img" aria-label="') == 5


def test_the_verdict_comes_first(shown, html):
    text = "".join(Page(html).texts)
    for analysis in shown.analyses:
        words = analysis.verdict.partition(": ")[2].replace("-", "−")
        assert words[1:] in text.replace("\N{NO-BREAK SPACE}", " ")
    assert html.index("does not transfer") < html.index("<svg")
    assert html.index('class="card transfers"') < html.index("<svg")


def test_numbers_configuration_and_versions_are_there(html):
    text = " ".join(Page(html).texts)
    for words in (
        "−1.00",  # the drift of the standard parametrization, and its β
        "48 runs: widths 8 to 16, 2 seeds, adam, 20 steps.",
        "1.00 ± 0.005",  # 1.00 and 1.01: mean 1.005 (rounded to even), standard error 0.005
        "in steps of 1 octave (6 values)",
        "base width",
        "1.2.3",
        "<4>",
    ):
        assert words in text, words
    assert "2<sup>−6.00</sup>" in html


NASTY = '<img src=x onerror="alert(1)">&$\\frac{}$'


def test_what_users_name_is_escaped():
    nasty = result(name=NASTY, model=NASTY)
    page = Page(report.html(nasty, title=NASTY, versions={NASTY: NASTY}))
    assert "img" not in page.tags
    assert "".join(page.texts).count(NASTY) > 8
    assert re.search(r"(?<!\\)<img", report.markdown(nasty, title=NASTY)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    cases(
        {
            "one seed": ({"seeds": 1}, "one seed is not enough seeds to decide"),
            "no curves": ({"curves": False}, "no curves recorded"),
            "at an edge": ({"shift": -3.0}, "at an edge of the grid at width 16"),
            "diverged": ({"loss": lambda _: None}, "every learning rate diverged at width 8, 16"),
            "loss of zero": ({"loss": lambda y: y - 1}, "a loss of"),
        }
    ),
)
def test_any_result_makes_a_page(change, words):
    odd = result(**change)
    text = "".join(Page(report.html(odd, versions=VERSIONS)).texts)
    assert words in text
    assert "nan" not in text + report.markdown(odd)


def test_another_hyper_parameter_has_a_page_too():
    whole = result()
    trials = tuple(
        dataclasses.replace(t, learning_rate=0.1, others=(("b1", t.learning_rate),))
        for t in whole.trials
    )
    analyses = tuple(
        transfer.analyze((t for t in trials if t.parametrization == name), over="b1")
        for name in ("standard", "mup")
    )
    html = report.html(transfer.Result(whole.config, trials, analyses), versions=VERSIONS)
    assert "<h2>Loss against b1</h2>" in html
    assert "learning_rate 0.1" in html
    assert "Drift per doubling" in html


def test_a_name_that_the_page_lacks_is_an_error(monkeypatch, shown):
    """And no empty place."""
    monkeypatch.setattr(_html, "_card", lambda _: {"name": "muP", "outcome": "transfers"})
    with pytest.raises(Exception, match="has no attribute 'mark'"):
        report.html(shown, versions=VERSIONS)


# --- Look

STYLE = Path(_html.__file__).with_name("style.css").read_text()


def themes(style):
    """The variables on light and on dark ground, as CSS."""
    dark = re.findall(r"\(prefers-color-scheme: dark\) \{\s*:root \{([^}]*)\}", style)
    every = re.findall(r":root \{([^}]*)\}", style)
    return "".join(one for one in every if one not in dark), "".join(dark)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(shown, dark):
    """WCAG 2.2: 4.5 for text, 3 for what a graphic is understood by."""
    colors = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", themes(STYLE)[dark]))
    for ink in ("ink", "muted", "good", "bad", "open"):
        for ground in ("paper", "card"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    for line in _figures.series(shown)[dark]:
        assert contrast(line, colors["card"]) >= 3, line


def test_the_page_decides_every_color(html):
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert {color for svg in drawings for color in re.findall(r"#[0-9a-fA-F]{6}\b", svg)} == set()
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", "".join(drawings)))
    for theme in themes(html):
        assert used <= set(re.findall(r"(--[a-z0-9]+):", theme))


def test_paper_is_light(html):
    """The rule that makes the page dark is for screens alone."""
    assert set(re.findall(r"@media ([^{]*prefers[^{]*) \{", html)) == {
        "screen and (prefers-color-scheme: dark)"
    }
    assert "@media print { :root { color-scheme: light; } }" in html


def test_markdown_is_a_list_a_table_and_a_line(shown):
    text = report.markdown(shown)
    lines = text.splitlines()
    assert lines[2].startswith("- **standard** (does not transfer): The best learning rate does")
    rows = [line for line in lines if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}
    assert rows[2].startswith("| 8 | 2^−6.00 (2^−6.00 to 2^−6.00) | 1.00 | 2^−6.00 (")
    assert lines[-1].startswith("Configuration: widths: 8, 16; learning rates: 2^−9 to 2^−4")
