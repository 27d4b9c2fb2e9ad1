"""The frame of a page: its style, light and dark, wide and narrow, on screen and on paper."""

import string
from collections.abc import Sequence

LIGHT = {
    "paper": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#1f2328",
    "muted": "#59636e",
    "line": "#d9dee3",
    "grid": "#e6e8eb",
    "good": "#1a7f37",
    "bad": "#b42318",
    "open": "#8a5a00",
}
DARK = {
    "paper": "#0d1117",
    "card": "#161b22",
    "ink": "#e6edf3",
    "muted": "#9aa5b1",
    "line": "#30363d",
    "grid": "#262c34",
    "good": "#56d364",
    "bad": "#ff8a80",
    "open": "#e3b341",
}

_STYLE = string.Template("""
:root { color-scheme: light dark; $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
@media print { :root { color-scheme: light; $light } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.015em; }
h2 { font-size: 1.2rem; margin: 3rem 0 .3rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; max-width: 46rem; }
.muted, figcaption, caption { color: var(--muted); }
.muted, figcaption { font-size: .9rem; }
.cards, .figures, .tables { display: grid; gap: 1rem; margin-top: 1.1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.figures { align-items: start; }
.card, figure, details { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; margin: 0; min-width: 0; }
.card { padding: 1.1rem 1.25rem 1.2rem; border-top: 4px solid var(--tone); }
.card header { display: flex; flex-wrap: wrap; gap: .3rem .75rem; align-items: baseline;
  justify-content: space-between; }
.card h3 { font-size: 1.15rem; }
.badge { color: var(--tone); font-weight: 650; font-size: .95rem; }
.transfers { --tone: var(--good); }
.does-not-transfer { --tone: var(--bad); }
.undecided, .no-answer { --tone: var(--open); }
.card p { font-size: .95rem; margin: .5rem 0 0; }
.facts { display: grid; grid-template-columns: 1fr 1fr; gap: .9rem 1rem; margin: 1.1rem 0 0; }
.facts dt { font-size: .8rem; color: var(--muted); }
.facts dd { margin: 0; font-size: 1.3rem; font-weight: 600; line-height: 1.3; }
.facts small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }
figure { padding: .9rem 1rem .8rem; }
figure svg { display: block; width: 100%; height: auto; margin-top: .4rem; }
figure svg text { font-family: inherit !important; }
.stack { display: grid; gap: 1rem; align-content: start; min-width: 0; }
sup { font-size: .8em; line-height: 0; }
figcaption { margin-top: .5rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0;
  list-style: none; font-size: .9rem; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.legend i { width: 1.4rem; height: .25rem; border-radius: 2px; background: var(--tone); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .4rem .75rem .4rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--muted); font-weight: 500; font-size: .82rem; }
th:first-child { text-align: left; }
td:last-child, th:last-child { padding-right: 0; }
tr:last-child > * { border-bottom: 0; }
.card.table { border-top: 1px solid var(--line); }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings th { color: var(--muted); font-weight: 400; width: 9.5rem; white-space: normal; }
details { margin-top: 1rem; padding: .8rem 1.25rem; }
summary { cursor: pointer; font-weight: 600; }
summary:focus-visible { outline: 2px solid var(--ink); outline-offset: 3px; border-radius: 3px; }
details > * + * { margin-top: .8rem; }
pre { margin: 0; font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre; overflow-x: auto; }
footer { margin-top: 3rem; }
@media (max-width: 30rem) {
  main { padding: 1.5rem .9rem 3rem; }
  h1 { font-size: 1.45rem; }
  figure { padding: .7rem .5rem .6rem; }
  .card { padding: .9rem 1rem 1rem; }
  figcaption, figure h3, figure .legend { padding: 0 .4rem; }
}
@media print {
  body { background: none; font-size: 11pt; }
  figure, .card, details { break-inside: avoid; }
}
""")

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="jaxmup">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def page(title: str, body: str, light: Sequence[str], dark: Sequence[str]) -> str:
    """A whole page.

    Args:
      title: of the window, escaped.
      body: what it shows, as HTML.
      light: colors of the series `--s0`, `--s1`, ... on light ground.
      dark: the same on dark ground.
    """
    themes = [
        " ".join(f"--{key}: {color};" for key, color in (colors | _series(series)).items())
        for colors, series in ((LIGHT, light), (DARK, dark))
    ]
    style = _STYLE.substitute(light=themes[0], dark=themes[1])
    return _PAGE.substitute(title=title, style=style, body=body)


def _series(colors: Sequence[str]) -> dict[str, str]:
    return {f"s{i}": color for i, color in enumerate(colors)}
