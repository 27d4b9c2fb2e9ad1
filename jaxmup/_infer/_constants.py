"""By how much the constants of a program grow: as powers of its sizes."""

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmup._check import is_traced
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._program import Node

_EXPONENTS = [
    sign * Fraction(n, d)
    for n, d in ((1, 2), (1, 1), (2, 1), (1, 4), (3, 2), (1, 3), (2, 3), (3, 4), (3, 1), (1, 8))
    for sign in (-1, 1)
]
_OF_ARRAYS = [sign * Fraction(n, 2) for n in (1, 2, 3, 4) for sign in (-1, 1)]
_NEAR = 0.12  # an exponent measured on an array, such as 1.05 of the numbers from 0 to 15 and 31
_MOST = 10**6  # elements of an array that are looked at


class Constants:
    """Growths of the constants of a program: powers of the sizes that it has.

    Args:
      sizes: The sizes of axes, the most frequent first, each at base, delta and the other sizes.
    """

    def __init__(self, sizes: Iterable[tuple[int, ...]]):
        self.sizes = list(sizes)
        self.growths = list(dict.fromkeys(map(of_sizes, self.sizes)))
        self._known: dict[tuple[float, ...], Growth | None] = {}

    def growth(self, values: Sequence[float], resolution: float) -> Growth | None:
        """The growth of a constant; `None` if it is zero, or infinite.

        One that is next to a size, as the `n - 1` of a variance, grows as the size. One that is no
        product of powers of sizes is a factor of its own: it cancels against itself alone, and what
        is missing for it is exact all the same.

        Args:
          values: The constant at base, delta and the other sizes.
          resolution: Relative distance of two numbers of its dtype.
        """
        base, delta, *_ = values = [abs(float(value)) for value in values]
        if not all(math.isfinite(value) for value in values) or not all(values):
            return None if not any(map(math.isfinite, values)) or not base else NONE
        if base == delta:
            return NONE
        key = tuple(values)
        if key not in self._known:
            self._known[key] = self._found(values, 16 * resolution)
        return self._known[key]

    def growth_of_array(self, node: Node) -> Growth:
        """The growth of the elements of an array of several numbers.

        It is a power of a size along which the array grows, measured on the largest and the mean
        square, where these agree; else none, as of frequencies that lie closer and closer.
        """
        arrays = [_numbers(value) for value in node.value or ()]
        axes = [sizes for sizes in zip(*node.shapes, strict=True) if of_sizes(sizes)]
        if any(array is None for array in arrays[:2]) or not axes:
            return NONE
        measured = [(np.abs(x).max(), np.sqrt(np.mean(x * x))) for x in arrays if x is not None]
        at_base = measured[0]
        for exponent, sizes in itertools.product(_OF_ARRAYS, axes):
            grown = [math.log(size / sizes[0]) for size in sizes[: len(measured)]]
            if all(
                x > 0 and abs(math.log(x / x0) - exponent * log) <= _NEAR * abs(log)
                for each, log in zip(measured, grown, strict=True)
                for x, x0 in zip(each, at_base, strict=True)
                if log
            ):
                return of_sizes(sizes) * exponent
        return NONE

    def _found(self, values: Sequence[float], tolerance: float) -> Growth:
        logs = [math.log(value / values[0]) for value in values[1:]]
        sizes = range(len(logs))

        def fits(growth: Growth) -> bool:
            return all(abs(growth.log(i) - logs[i]) <= tolerance for i in sizes)

        for exponent, growth in itertools.product(_EXPONENTS, self.growths):
            if fits(growth * exponent):
                return growth * exponent
        for a, b in itertools.combinations(self.growths[:8], 2):
            for e, f in itertools.product(_EXPONENTS[:6], repeat=2):
                if fits(a * e + b * f):
                    return a * e + b * f
        for near in self.sizes:
            for sign in (1, -1):
                if _is_next_to([value**sign for value in values], near, tolerance):
                    return of_sizes(near) * sign
        return Growth({(i, math.exp(logs[i])): Fraction(1) for i in sizes if logs[i]})


def _is_next_to(values: Sequence[float], sizes: tuple[int, ...], tolerance: float) -> bool:
    """True of numbers that are all one more than a size, or all one less."""
    return any(
        all(
            abs(value - (size + step)) <= tolerance * size
            for value, size in zip(values, sizes, strict=True)
        )
        for step in (-1, 1)
    )


def _numbers(value: Any) -> np.ndarray | None:
    """An array of numbers that can be looked at; `None` if there are none, or too many."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not 1 <= getattr(value, "size", 0) <= _MOST:
        return None
    if not isinstance(value, np.ndarray) and (is_traced(value) or not _is_real(dtype)):
        return None
    return np.asarray(value, np.float64) if _is_real(dtype) else None


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, np.floating) or jnp.issubdtype(dtype, np.integer)


def resolution_of(dtype: object) -> float:
    """Relative distance of two numbers of a dtype; that of float32 for integers."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, np.floating) else 1e-7  # type: ignore[arg-type]
