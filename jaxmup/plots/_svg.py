"""A figure as SVG that stands inside a page, and takes its colors and fonts from there."""

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from jaxmup import _check, _extras

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg(figure: "Figure", name: str, label: str, colors: Mapping[str, str]) -> str:
    """The figure as an `<svg>` element; the same figure gives the same bytes.

    Args:
      figure: Figure to draw.
      name: Name of the figure, unique in the page; all ids begin with it.
      label: Description of the figure, for those who do not see it.
      colors: Names of colors in the page, such as `var(--ink)`, by color of the figure, such as
        `#1f2328`.
    """
    _check.made("figure", figure, "Figure", "jaxmup.plots")
    buffer = io.StringIO()
    # matplotlib salts its ids at random and writes the date; both would differ from run to run.
    settings = {"svg.fonttype": "none", "svg.hashsalt": name}
    with _extras.require("matplotlib", "A plot").rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    drawn = buffer.getvalue()
    content = drawn[drawn.index("<svg") :]
    content = re.sub(r"<metadata>.*?</metadata>\s*", "", content, flags=re.DOTALL)
    # Figures of one page must not share ids: a clip path would be that of the first of them.
    content = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", content)
    for color, called in colors.items():
        content = content.replace(color, called)
    size = re.search(r'viewBox="[^"]*"', content)
    assert size is not None
    start = f'<svg {size[0]} role="img" aria-label={quoteattr(label)}>'
    return start + content[content.index(">") + 1 :]
