"""The line of the user's code that an equation comes from."""

import linecache
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import jax

from jaxmup._program._jax import Equation, Frame, frames

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku", "jraph", "chex", "einops")
_PACKAGES = ("site-packages", "dist-packages")
_JAX = f"{Path(jax.__file__).parent}/"
_OURS = f"{Path(__file__).parents[1]}/"
_STANDARD = f"{sysconfig.get_path('stdlib')}/"


class Line(NamedTuple):
    """A line of a program's source.

    Args:
      file: Path of the file.
      line: Number of the line, from 1.
      function: Qualified name of the function that it is in.
      inside: Name of the function of a library that the line calls and that the equation is in;
        empty if the line itself has made the equation.
    """

    file: str
    line: int
    function: str
    inside: str = ""

    def __str__(self) -> str:
        """The file without its folders, and the line, such as `model.py:115` or `In[5]:3`."""
        return f"{_cell_of(self.file) or Path(self.file).name}:{self.line}"

    @property
    def text(self) -> str:
        """The line as it stands in the source; empty if that is not at hand."""
        return linecache.getline(self.file, self.line).strip()


def _cell_of(file: str) -> str:
    """The name of a cell of a notebook, such as `In[5]`; empty if `file` is none.

    IPython compiles a cell under a name of its own making, and knows which cell that was.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda file: None)(file)
    if named:
        return named[1]
    if found := re.match(r"<ipython-input-(\d+)", file):
        return f"In[{found[1]}]"
    return "a cell" if re.search(r"[/\\]ipykernel_\d+[/\\]", file) else ""


def line_of(path: Sequence[Equation]) -> Line | None:
    """The user's line that an equation comes from, or `None` if there is none.

    Args:
      path: The calls and loops that the equation is inside of, the outermost first, and then the
        equation itself.

    What was traced inside of a library's function, as `jax.nn.silu`, belongs to the line that calls
    the library. JAX traces such a function once and for all its callers, so the line is that of
    the call, not what the equation says of itself.
    """
    inside = ""
    for depth, equation in enumerate(reversed(path)):
        if depth and not inside:
            inside = _name_of_call(equation)
        for frame in frames(equation):
            if not _is_library(frame):
                return Line(frame.file, frame.line, frame.function, inside)
            if not inside and not _is_machinery(frame):
                inside = frame.function
    return None


def lines_of(path: Sequence[Equation]) -> tuple[tuple[str, int, str], ...]:
    """File, line and function of all of the user's lines that lead to an equation, from the inside.

    Args:
      path: As for `line_of`.
    """
    return tuple(
        (frame.file, frame.line, frame.function)
        for equation in reversed(path)
        for frame in frames(equation)
        if not _is_library(frame)
    )


def line_of_error(error: BaseException) -> Line | None:
    """The user's line that an error was raised in, or that called the library which raised it."""
    frames = [
        Frame(at.tb_frame.f_code.co_filename, at.tb_lineno, at.tb_frame.f_code.co_qualname)
        for at in _tracebacks(error)
    ]
    own = [frame for frame in frames if not _is_library(frame)]
    return Line(own[-1].file, own[-1].line, own[-1].function) if own else None


def _tracebacks(error: BaseException) -> Iterator[TracebackType]:
    at = error.__traceback__
    while at is not None:
        yield at
        at = at.tb_next


def _name_of_call(equation: Equation) -> str:
    name = equation.params.get("name")
    return name if isinstance(name, str) else ""


def _is_library(frame: Frame) -> bool:
    if _is_machinery(frame) or frame.file.startswith(_OURS):
        return True
    return any(f"/{folder}/{name}/" in frame.file for folder in _PACKAGES for name in _LIBRARIES)


def _is_machinery(frame: Frame) -> bool:
    """True of JAX itself, and of the standard library's wrappers and contexts."""
    is_standard = frame.file.startswith((_STANDARD, "<frozen"))
    is_package = any(f"/{folder}/" in frame.file for folder in _PACKAGES)
    return frame.file.startswith(_JAX) or (is_standard and not is_package)
