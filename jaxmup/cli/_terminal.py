"""Text for the terminal: only what it can show, and nothing that it would obey."""

import codecs
import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters of both sets, and what turns the direction of writing around. Line breaks are
# the layout's own.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PLAIN = {
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "±": "+/-",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "√": "sqrt ",
    "α": "alpha",
    "β": "beta",
    "η": "eta",
    "σ": "sigma",
    "µ": "mu",
    "μ": "mu",
    "\N{NO-BREAK SPACE}": " ",
}


def cleaned(text: str) -> str:
    r"""Text without characters that a terminal obeys, which are written out instead.

    Example:
      >>> cleaned("a\x1b[2Jb")
      'a\\x1b[2Jb'
    """
    return _SURROGATE.sub(_escaped, _CONTROL.sub(_escaped, text))


def on_one_line(text: str) -> str:
    r"""`cleaned` text in which line breaks are written out too.

    Example:
      >>> on_one_line("a\nb")
      'a\\nb'
    """
    return cleaned(text).replace("\n", "\\n")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def console(*, stderr: bool = False) -> Console:
    """A console that shows no control character which is not its own."""
    return _CleanConsole(stderr=stderr, highlight=False)


class _CleanConsole(Console):
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            clean = segment.text if segment.control else cleaned(segment.text)
            yield segment._replace(text=clean)


@contextlib.contextmanager
def showing_what_it_can() -> Iterator[None]:
    """Has characters that the terminal lacks written in others, instead of an error."""
    codecs.register_error("jaxmup", _in_others)
    streams: list[Any] = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="jaxmup")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with contextlib.suppress(ValueError, OSError):  # closed by what was on its other end
                stream.reconfigure(errors=errors)


def _in_others(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or ascii(c)[1:-1] for c in lacking), error.end
