"""Rows as text: a wide table, a narrow one, a list, markdown."""

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxmup._explain._row import ParameterRow
from jaxmup._scaling import Scaling
from jaxmup._spec import Axis

_GAP = "  "
_GAIN = "base * "
_KINDS = {"input": "in", "output": "out", "batch": "batch"}


class Column(NamedTuple):
    """A column of the table: its title and a cell for each row."""

    title: str
    cells: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """True if the column is drawn flush right."""
        return self.title not in ("parameter", "axes", "role")

    @property
    def width(self) -> int:
        """Number of characters of its widest cell."""
        return max(map(len, (self.title, *self.cells)))

    def padded(self) -> list[str]:
        """Title and cells, all of one width."""
        pad, width = str.rjust if self.is_number else str.ljust, self.width
        return [pad(cell, width) for cell in (self.title, *self.cells)]


# Columns that say nothing where every cell is 1; the others are always shown.
_LEFT_OUT_IF_ONE = ("gradient", "eps", "weight decay")
_SHOWN_IF_NOT_ONE = ("depth_ratio", "gain")


class Table:
    """The table of some rows, each of whose cells is made once.

    Args:
      rows: Row of each parameter.
    """

    def __init__(self, rows: Sequence[ParameterRow]):
        self._rows = rows
        self._every = _columns(rows)
        is_one = {c.title for c in self._every if _is_one(c)}
        self._ones = [title for title in _LEFT_OUT_IF_ONE if title in is_one]
        left_out = is_one.intersection((*_LEFT_OUT_IF_ONE, *_SHOWN_IF_NOT_ONE))
        self.columns = [c for c in self._every if c.title not in left_out]

    def text(self, width: int | None) -> str:
        """The first that fits into `width` characters: a wide table, a narrow one, a list."""
        wide = _wide(self.columns)
        if width is None or _fits(wide, width):
            return "\n".join(wide)
        narrow = _narrow([c for c in self.columns if c.title not in ("r_in", "r_out")])
        if _fits(narrow, width):
            return "\n".join(narrow)
        return "\n".join(_listed(self.columns, width))

    def markdown(self) -> str:
        """The whole table in GitHub's markdown."""
        rule = ["---:" if column.is_number else "---" for column in self.columns]
        rows = zip(*(map(_in_markdown, c.cells) for c in self.columns), strict=True)
        lines = [[column.title for column in self.columns], rule, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def legend(self, width: int | None, bullet: str = "") -> str:
        """The reason of each role and gain, and the columns that the table leaves out."""
        lines = sorted({f"{row.role}: {row.reason}" for row in self._rows})
        lines += [
            f"{row.path}: {row.spec.reason}"
            for row in self._rows
            if row.spec.forward_gain != 1 and row.spec.reason
        ]
        if any(_GAIN in cell for column in self._every for cell in column.cells):
            lines.append(f"{_GAIN}x: x times what the initializer gives at base width")
        if self._ones:
            lines.append(f"1 everywhere: {', '.join(self._ones)}")
        lines = [f"{bullet}{line}" for line in lines]
        if width is not None:
            lines = [part for line in lines for part in textwrap.wrap(line, width)]
        return "\n".join(lines)


def _in_markdown(cell: str) -> str:
    r"""A cell that Markdown shows as it stands, and that ends no row.

    Example:
      >>> print(_in_markdown("a|b\n*c* __d__ e_f"))
      a\|b \*c\* \_\_d\_\_ e_f
    """
    return " ".join(_MARKUP.sub(r"\\\g<0>", cell).split())


# A star between spaces and a line inside of a word mark nothing.
_MARKUP = re.compile(r"[\\`|<\[\]~]|(?<! )\*|\*(?! )|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def _columns(rows: Sequence[ParameterRow]) -> list[Column]:
    def column(title: str, cell: Callable[[ParameterRow], str]) -> Column:
        return Column(title, tuple(cell(row) for row in rows))

    def factor(title: str, value: Callable[[Scaling], float]) -> Column:
        return column(title, lambda row: _change(value(row.base), value(row.target)))

    rate = (
        factor("lr", lambda scaling: scaling.lr)
        if any(row.learning_rate is None for row in rows)
        else column("learning rate", lambda row: _number(row.learning_rate or 0.0))
    )
    return [
        column("parameter", lambda row: row.path),
        column("axes", lambda row: _axes(row.spec.axes)),
        column("role", lambda row: row.role),
        column("r_in", lambda row: _number(row.spec.r_in)),
        column("r_out", lambda row: _number(row.spec.r_out)),
        column("depth_ratio", lambda row: _number(row.spec.depth_ratio)),
        column("gain", lambda row: _number(row.spec.forward_gain)),
        factor("multiplier", lambda scaling: scaling.multiplier),
        column("initial std", _initial),
        rate,
        factor("gradient", lambda scaling: scaling.grad),
        factor("eps", lambda scaling: scaling.eps),
        factor("weight decay", lambda scaling: scaling.weight_decay),
    ]


def _is_one(column: Column) -> bool:
    return set(column.cells) <= {"1"}


def _number(x: float) -> str:
    return f"{x:.4g}"


def _change(base: float, target: float) -> str:
    """A factor at target; at base too, where it is not 1 there."""
    shown = _number(base), _number(target)
    return shown[1] if shown[0] in ("1", shown[1]) else " -> ".join(shown)


def _initial(row: ParameterRow) -> str:
    if row.target.init_std is None or row.base.init_std is None:
        return f"{_GAIN}{_number(row.target.init_gain)}"
    shown = _number(row.base.init_std), _number(row.target.init_std)
    return shown[1] if shown[0] == shown[1] else " -> ".join(shown)


def _axes(axes: Sequence[Axis]) -> str:
    shown = (
        f"{_KINDS[axis.kind]} {axis.base}->{axis.size}"
        if axis.grows
        else f"{_KINDS[axis.kind]} {axis.size}"
        for axis in axes
    )
    return ", ".join(shown) or "scalar"


def _fits(lines: Sequence[str], width: int) -> bool:
    return all(len(line) <= width for line in lines)


def _wide(shown: Sequence[Column]) -> list[str]:
    """A line for each row."""
    return [_GAP.join(cells).rstrip() for cells in zip(*(c.padded() for c in shown), strict=True)]


_SHORT = {"multiplier": "mult", "initial std": "std", "gradient": "grad", "weight decay": "decay"}


def _narrow(shown: Sequence[Column]) -> list[str]:
    """Three lines for each row: the path, its axes, and the rest."""
    path, axes, *rest = (c._replace(title=_SHORT.get(c.title, c.title)) for c in shown)
    lines = zip((path.title, *path.cells), (axes.title, *axes.cells), _wide(rest), strict=True)
    return [line for name, *below in lines for line in (name, *(f"{_GAP}{x}" for x in below))]


def _listed(shown: Sequence[Column], width: int) -> list[str]:
    """A line for each cell."""
    path, *rest = shown
    margin = max(len(column.title) for column in rest)
    lines: list[str] = []
    for i, name in enumerate(path.cells):
        lines += textwrap.wrap(name, width, subsequent_indent=_GAP) + [
            line
            for column in rest
            for line in textwrap.wrap(
                f"{_GAP}{column.title.ljust(margin)}{_GAP}{column.cells[i]}",
                max(width, margin + 12),
                subsequent_indent=" " * (margin + 4),
            )
        ]
    return lines
