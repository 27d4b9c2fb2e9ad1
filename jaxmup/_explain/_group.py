"""Paths that differ in nothing but numbers, as one path."""

import re
from collections.abc import Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def merge(items: Iterable[tuple[str, T]]) -> list[tuple[str, T, int]]:
    """Items of equal values whose paths differ in nothing but numbers, as one with their number.

    Numbers are merged one place at a time, so a group holds every combination that its path names.

    Example:
      >>> merge([("layers/0/a", "x"), ("layers/1/a", "x"), ("layers/2/a", "y")])
      [('layers/{0..1}/a', 'x', 2), ('layers/2/a', 'y', 1)]
    """
    groups = [(re.split(r"(\d+)", path), value, 1) for path, value in items]
    places = max((len(parts) for parts, *_ in groups), default=0)
    for place in range(1, places, 2):
        groups = _merge_at(place, groups)
    return [("".join(parts), value, count) for parts, value, count in groups]


def _merge_at(place: int, groups: list[tuple[list[str], T, int]]) -> list[tuple[list[str], T, int]]:
    merged: dict[Hashable, list[tuple[list[str], T, int]]] = {}
    for group in groups:
        parts, value, count = group
        key = (tuple(parts[:place]), tuple(parts[place + 1 :]), value, count, len(parts) > place)
        merged.setdefault(key, []).append(group)
    return [_as_one(place, same) for same in merged.values()]


def _as_one(place: int, groups: list[tuple[list[str], T, int]]) -> tuple[list[str], T, int]:
    parts, value, _ = groups[0]
    if len(groups) == 1:
        return groups[0]
    numbers = _ranges(sorted(int(parts[place]) for parts, *_ in groups))
    return [*parts[:place], numbers, *parts[place + 1 :]], value, sum(n for *_, n in groups)


def _ranges(numbers: list[int]) -> str:
    """Numbers in braces, those in a row as their first and last.

    Example:
      >>> _ranges([0, 1, 2, 5])
      '{0..2,5}'
    """
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    shown = (str(row[0]) if len(row) == 1 else f"{row[0]}..{row[-1]}" for row in rows)
    return f"{{{','.join(shown)}}}"
