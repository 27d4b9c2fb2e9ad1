"""By how much a number grows from the base model to the other sizes, exactly."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

Place = tuple[int, int | float]
"""A size beside the base, by number, and a factor of what has grown there: a prime, if whole."""


@dataclasses.dataclass(frozen=True, slots=True)
class Growth:
    """A number over that of the base model, at each other size, as exact powers.

    A ratio of integers is a product of powers of primes, so that products, quotients and roots of
    sizes add, subtract and scale exponents, and two growths are the same if and only if they are
    the same numbers at all sizes. None of the sizes has to be told apart from another: whatever
    they are, what cancels at every size cancels.

    Args:
      powers: Exponent of each factor at each size, without zeros.
    """

    powers: Mapping[Place, Fraction] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Growth") -> "Growth":
        """That of the product of two numbers."""
        if not other.powers:
            return self
        if not self.powers:
            return other
        total = dict(self.powers)
        for place, exponent in other.powers.items():
            total[place] = total.get(place, _ZERO) + exponent
        return Growth({place: exponent for place, exponent in total.items() if exponent})

    def __mul__(self, exponent: Fraction | int) -> "Growth":
        """That of a power of the number."""
        if exponent == 1:
            return self
        if not exponent:
            return NONE
        return Growth({place: exponent * power for place, power in self.powers.items()})

    def __neg__(self) -> "Growth":
        """That of the reciprocal."""
        return self * -1

    def __sub__(self, other: "Growth") -> "Growth":
        """That of the quotient of two numbers."""
        return self + -other

    def __bool__(self) -> bool:
        """True if the number differs from the base model's at any size."""
        return bool(self.powers)

    def __hash__(self) -> int:
        """That of the powers."""
        return hash(frozenset(self.powers.items()))

    def log(self, size: int) -> float:
        """Natural logarithm of the number over the base model's, at a size by number.

        Example:
          >>> round(math.exp(of_ratios([Fraction(2), Fraction(16)]).log(1)), 9)
          16.0
        """
        return math.fsum(
            float(power) * math.log(factor)
            for (at, factor), power in self.powers.items()
            if at == size
        )

    def ratio(self, size: int) -> float:
        """The number over the base model's, at a size by number, as exact as a float can be.

        Example:
          >>> of_ratios([Fraction(2), Fraction(7, 3)]).ratio(1) == 7 / 3
          True
        """
        exact, rest = Fraction(1), 1.0
        for (at, factor), power in self.powers.items():
            if at == size and isinstance(factor, int) and power.denominator == 1:
                exact *= Fraction(factor) ** int(power)
            elif at == size:
                rest *= float(factor) ** float(power)
        return float(exact) * rest

    @property
    def key(self) -> tuple[float, float]:
        """Order in which numbers grow: by the first size, then by the others."""
        sizes = {at for at, _ in self.powers}
        return (self.log(0), sum(self.log(at) for at in sizes if at))


NONE = Growth()
_ZERO = Fraction(0)


def of_ratios(ratios: Sequence[Fraction]) -> Growth:
    """The growth of a number that is the base model's times a ratio at each size.

    Example:
      >>> of_ratios([Fraction(2), Fraction(3, 2)]).powers
      {(0, 2): Fraction(1, 1), (1, 3): Fraction(1, 1), (1, 2): Fraction(-1, 1)}
    """
    powers: dict[Place, Fraction] = {}
    for at, ratio in enumerate(ratios):
        for factor, power in _factors(ratio):
            powers[at, factor] = powers.get((at, factor), _ZERO) + power
    return Growth({place: power for place, power in powers.items() if power})


@functools.cache
def of_sizes(sizes: tuple[int, ...]) -> Growth:
    """The growth of the size of an axis.

    One that base and delta have alike is no part of the width, whatever the target has.
    """
    base, delta, *_ = sizes
    if base == delta or not base:
        return NONE
    return of_ratios([Fraction(size, base) for size in sizes[1:]])


@functools.cache
def _factors(ratio: Fraction) -> tuple[tuple[int, Fraction], ...]:
    found = [(prime, Fraction(1)) for prime in _primes(ratio.numerator)]
    return (*found, *((prime, Fraction(-1)) for prime in _primes(ratio.denominator)))


def _primes(number: int) -> Iterator[int]:
    divisor = 2
    while divisor * divisor <= number and divisor < 10_000:
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1
    if number > 1:  # a prime, or near enough: no other size has a part of it as a factor
        yield number
