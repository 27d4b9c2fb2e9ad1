"""Rows as text: a wide table, a narrow one, a list, markdown."""

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
        pad = str.rjust if self.is_number else str.ljust
        return [pad(cell, self.width) for cell in (self.title, *self.cells)]


# Columns that say nothing where every cell is 1; the others are always shown.
_LEFT_OUT_IF_ONE = ("gradient", "eps", "weight decay")
_SHOWN_IF_NOT_ONE = ("depth_ratio", "gain")


def columns(rows: Sequence[ParameterRow]) -> list[Column]:
    """The columns of the whole table."""
    left_out = (*ones(rows), *_SHOWN_IF_NOT_ONE)
    return [c for c in _columns(rows) if not (c.title in left_out and _is_one(c))]


def ones(rows: Sequence[ParameterRow]) -> list[str]:
    """Titles of the columns that are left out because every cell is 1."""
    return [c.title for c in _columns(rows) if c.title in _LEFT_OUT_IF_ONE and _is_one(c)]


def text(rows: Sequence[ParameterRow], width: int | None) -> str:
    """The first that fits into `width` characters: a wide table, a narrow one, a list."""
    shown = columns(rows)
    wide = _wide(shown)
    if width is None or _fits(wide, width):
        return "\n".join(wide)
    narrow = _narrow([c for c in shown if c.title not in ("r_in", "r_out")])
    if _fits(narrow, width):
        return "\n".join(narrow)
    return "\n".join(_listed(shown, width))


def markdown(rows: Sequence[ParameterRow]) -> str:
    """The whole table in GitHub's markdown."""
    shown = columns(rows)
    rule = ["---:" if column.is_number else "---" for column in shown]
    lines = [[column.title for column in shown], rule, *zip(*(c.cells for c in shown), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def legend(rows: Sequence[ParameterRow], width: int | None, bullet: str = "") -> str:
    """The reason of each role and gain, and the columns that the table leaves out."""
    lines = sorted({f"{row.role}: {row.reason}" for row in rows})
    for row in rows:
        if row.spec.reason and (row.spec.forward_gain != 1 or row.spec.corrections):
            lines.append(f"{row.path}: {row.spec.reason}")
        lines += (f"{row.path}: `jaxmup.corrected` puts {one}" for one in row.spec.corrections)
    if any(_GAIN in cell for column in _columns(rows) for cell in column.cells):
        lines.append(f"{_GAIN}x: x times what the initializer gives at base width")
    if ones(rows):
        lines.append(f"1 everywhere: {', '.join(ones(rows))}")
    lines = [f"{bullet}{line}" for line in lines]
    if width is not None:
        lines = [part for line in lines for part in textwrap.wrap(line, width)]
    return "\n".join(lines)


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
