"""By how much the constants of a program grow: as powers of its sizes."""

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._program import Node

_EXPONENTS = [
    sign * Fraction(n, d)
    for n, d in ((1, 2), (1, 1), (2, 1), (1, 4), (3, 2), (1, 3), (2, 3), (3, 4), (3, 1), (1, 8))
    for sign in (-1, 1)
]
_OF_ARRAYS = [Fraction(0), *(sign * Fraction(n, 2) for n in (1, 2, 3, 4) for sign in (-1, 1))]
_NEAR = 0.12  # an exponent measured on a table, such as 1.05 of the numbers from 0 to 15 and 31
_NOT_FAR = 0.25  # one that is known otherwise, such as that of the largest of random numbers
_OF_LARGEST = 0.4  # that of the largest of random numbers, which is no power, above a typical one's
_SETTLES = 0.75  # an exponent over the one before it, of what comes to rest
_OF_FLOATS = 1e-7  # relative distance of two numbers of float32


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

    def power(self, measured: Sequence[float], node: Node) -> Growth | None:
        """The power of a size along which a table grows that something measured on it grows by.

        Args:
          measured: What is measured, at base, delta and as many other sizes as were looked at.
          node: The table.

        Returns:
          The growth; `None` if it is no power, or one of the values is zero.
        """
        axes = [sizes for sizes in zip(*node.shapes, strict=True) if of_sizes(sizes)]
        if not axes:
            return self.growth(measured, _OF_FLOATS)
        powers = (of_sizes(sizes) * e for e, sizes in itertools.product(_OF_ARRAYS, axes))
        return next((g for g in powers if self.is_near(measured, g, node, _NEAR)), None)

    def power_of_table(
        self, largest: Sequence[float], typical: Sequence[float], node: Node
    ) -> Growth | None:
        """The power that the largest numbers of a table grow by; `None` if it is none.

        Args:
          largest: The largest number at each size.
          typical: The root mean square of those that are not zero.
          node: The table.
        """
        found = self.power(largest, node)
        if found is not None:
            return found
        found = self.power(typical, node)
        is_near = found is not None and self.is_near(largest, found, node, _OF_LARGEST)
        return found if is_near else None

    def is_near(
        self, measured: Sequence[float], growth: Growth, node: Node, within: float = _NOT_FAR
    ) -> bool:
        """True if something measured on a table grows about so.

        Args:
          measured: What is measured, at base, delta and as many other sizes as were looked at.
          growth: The growth.
          node: The table.
          within: Distance of the exponent.
        """
        if not all(measured):
            return False
        shapes = list(zip(*node.shapes, strict=True))
        for i, value in enumerate(measured[1:]):
            grown, wanted = math.log(value / measured[0]), growth.log(i)
            logs = (abs(math.log(s[i + 1] / s[0])) for s in shapes if s[0])
            if abs(grown - wanted) > within * max([abs(wanted), *logs]) + _OF_FLOATS:
                return False
        return True

    def settles(self, measured: Sequence[float], growth: Growth, node: Node) -> bool:
        """True if something measured on a table grows so, or comes nearer to that with each size.

        The largest of slopes from 2^-8/h to 2^-8 is 1/16 of 2 heads, 1/4 of 4, and never above 1.

        Args:
          measured: What is measured, at base, delta and as many other sizes as were looked at.
          growth: The growth.
          node: The table.
        """
        if self.is_near(measured, growth, node):
            return True
        sizes = [math.prod(shape) for shape in node.shapes[: len(measured)]]
        logs = [0.0, *(growth.log(i) for i in range(len(measured) - 1))]
        rest = {n: math.log(x) - log for n, x, log in zip(sizes, measured, logs, strict=True) if x}
        if len(rest) < 3:  # nothing is to be trained at a size beside base and delta
            return len(sizes) > len(rest) and all(measured)
        (n0, x0), (n1, x1), (n2, x2) = sorted(rest.items())[:3]
        first, second = (x1 - x0) / math.log(n1 / n0), (x2 - x1) / math.log(n2 / n1)
        return abs(second) < _SETTLES * abs(first)

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


def resolution_of(dtype: object) -> float:
    """Relative distance of two numbers of a dtype; that of float32 for integers."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, np.floating) else 1e-7  # type: ignore[arg-type]
