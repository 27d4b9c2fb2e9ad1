"""Axes that grow by a line with an offset, as `4 * width + 1`, which is no proportion."""

import itertools
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._tree import Size

_EXPONENTS = (Fraction(1), Fraction(-1), Fraction(2), Fraction(1, 2))


class Affine(NamedTuple):
    """A size that is a line of one of the model's sizes.

    Args:
      name: Name of the model's size; empty for one that is a number.
      slope: Growth of the size for each unit of it.
      offset: Size where it would be zero.
    """

    name: str
    slope: Fraction
    offset: Fraction

    def __str__(self) -> str:
        """Such as `4 * width + 1`."""
        sign = "-" if self.offset < 0 else "+"
        return f"{self.slope} * {self.name or 'size'} {sign} {abs(self.offset)}"


def affine(axis: tuple[int, ...], sizes: Sequence[Size]) -> Affine | None:
    """The line that an axis follows, if it grows and is no product of powers of the model's sizes.

    Three points that are on one line with an offset are no coincidence of powers: a power of a size
    is proportional to it or bent. Nor are they one of rounding, which the slope would show. Of
    sizes of which two are equal there are not three points.

    Args:
      axis: Size of the axis in each model.
      sizes: Size of each model.

    Example:
      >>> str(affine((257, 513, 4097), [64, 128, 1024]))
      '4 * size + 1'
      >>> affine((256, 512, 4096), [64, 128, 1024]) is None
      True
      >>> affine((266, 533, 800), [100, 200, 300]) is None  # 8/3 of the width, rounded down
      True
    """
    growth = of_sizes(axis)
    known = dict(_numbers(sizes))
    if not growth or growth in _products(list(dict.fromkeys(map(of_sizes, known.values())))):
        return None
    lines = (_line(name, values, axis) for name, values in known.items())
    return next((line for line in lines if line is not None), None)


def _numbers(sizes: Sequence[Size]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Whole numbers by name that the models have as sizes, all of them different."""
    named = [size if isinstance(size, Mapping) else {"": size} for size in sizes]
    for name in named[0]:
        found = [size.get(name) for size in named]
        values = tuple(int(x) for x in found if isinstance(x, numbers.Integral) and int(x) > 0)
        if len(set(values)) == len(named):
            yield str(name), values


def _products(growths: Sequence[Growth]) -> set[Growth]:
    """Growths of powers of sizes, and of products of two of them."""
    powers = {growth * exponent for growth in growths for exponent in _EXPONENTS}
    return powers | {a + b for a, b in itertools.combinations(powers, 2)} - {NONE}


def _line(name: str, sizes: tuple[int, ...], axis: tuple[int, ...]) -> Affine | None:
    slopes = {Fraction(y - axis[0], x - sizes[0]) for x, y in zip(sizes[1:], axis[1:], strict=True)}
    if len(slopes) > 1:
        return None
    (slope,) = slopes
    offset = axis[0] - slope * sizes[0]
    if not slope or not offset or (slope.denominator > 1 and _may_be_rounded(sizes, axis)):
        return None
    return Affine(name, slope, offset)


def _may_be_rounded(sizes: tuple[int, ...], axis: tuple[int, ...]) -> bool:
    """True if one multiple of the sizes, rounded down or up to whole steps, gives the axis."""
    step = math.gcd(*axis)
    pairs = list(zip(sizes, axis, strict=True))
    down = max(Fraction(y, x) for x, y in pairs), min(Fraction(y + step, x) for x, y in pairs)
    up = max(Fraction(y - step, x) for x, y in pairs), min(Fraction(y, x) for x, y in pairs)
    return down[0] < down[1] or up[0] < up[1]
