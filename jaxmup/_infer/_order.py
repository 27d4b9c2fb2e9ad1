"""The order of a value: its growth with the sizes, times gains that nobody knows yet."""

import collections
import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmup._infer._constants import Constants
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._infer._shares import Shares
from jaxmup._infer._views import Nature
from jaxmup._program import Flat, Node

TINY = 1e-3
"""What is smaller than this in a sum only keeps it from zero."""
HUGE = 1e4
"""What is larger than this in a sum is a mask."""
Unknown = str | int | Node
"""A gain: the name of a parameter, the number of a value that comes around in a loop, or a value
that a factor is put on."""
HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """The growth of a value: a known one, times gains to some degrees.

    Args:
      growth: Growth of the value where all gains are 1.
      degrees: Degree of each gain in it, without zeros.
    """

    growth: Growth = NONE
    degrees: Mapping[Unknown, Fraction] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Order") -> "Order":
        """That of a product."""
        if not other.degrees:
            return Order(self.growth + other.growth, self.degrees)
        total = dict(self.degrees)
        for unknown, degree in other.degrees.items():
            total[unknown] = total.get(unknown, 0) + degree
        return Order(self.growth + other.growth, {u: d for u, d in total.items() if d})

    def __mul__(self, power: Fraction | int) -> "Order":
        """That of a power."""
        if not power:
            return ZERO
        degrees = {unknown: power * degree for unknown, degree in self.degrees.items()}
        return Order(self.growth * power, degrees)

    def __sub__(self, other: "Order") -> "Order":
        """That of a quotient."""
        return self + other * -1

    def grown(self, growth: Growth) -> "Order":
        """That of a multiple."""
        return Order(self.growth + growth, self.degrees) if growth else self


ZERO = Order()


class Pair(NamedTuple):
    """The aligned and the typical order of a value, which for all but random matrices are one."""

    aligned: Order
    typical: Order


def both(order: Order) -> Pair:
    """The pair of what is no random matrix."""
    return Pair(order, order)


class Equation(NamedTuple):
    """An order that must be zero.

    Args:
      order: The order.
      value: The value whose order it is.
      site: Where that is asked for.
      why: What asks for it.
    """

    order: Order
    value: Node
    site: Node
    why: str


class Known:
    """The orders of the values of a program that are known so far, and the equations between them.

    Args:
      flat: The program at several sizes.
      nature: The nature of a value.
      shares: The axes over which values sum up to the order of one element.

    Attributes:
      orders: The orders of each value; `None` for what is exactly zero.
      equations: What must hold.
      unread: Operations of which no row says how they grow, with a value of each.
      unclear: Tables that grow by no one power of a size, each with a value that is made of it.
      floored: Orders of values that a constant keeps from zero, as the eps of a norm does, and
        which must not become as small as it.
    """

    def __init__(self, flat: Flat, nature: Callable[[Node], Nature], shares: Shares):
        self.flat, self.nature, self.shares = flat, nature, shares
        self.uniform = shares.numbers
        self.rank = rank_of(flat)
        self.orders: dict[Node, Pair | None] = {}
        self.constants = Constants(_sizes_of(flat))
        self.unclear: dict[Node, Node] = {}
        self.equations: list[Equation] = []
        self.unread: dict[str, Node] = {}
        self.floored: dict[Any, Order] = {}
        self._seen: set[Any] = set()

    def __getitem__(self, node: Node) -> Pair | None:
        """The orders of a value; `None` if it is exactly zero."""
        return self.orders[node]

    def growth(self, node: Node, axes: Iterable[int]) -> Growth:
        """The growth of a number of elements."""
        total = NONE
        for axis in axes:
            total = total + of_sizes(tuple(shape[axis] for shape in node.shapes))
        return total

    def larger(self, one: Order, other: Order) -> Order:
        """The order of the sum of two values whose gains are the same."""
        if one.growth == other.growth:
            return one
        return one if self.rank(one.growth) > self.rank(other.growth) else other

    def sum_of_table(self, table: Node, axes: Collection[int], site: Node, count: Growth) -> Growth:
        """The growth of the sum of absolute values of a table over axes, which some value takes.

        Args:
          table: The table.
          axes: Its axes that are summed over.
          site: The value.
          count: Growth of the number of terms, as far as it is known otherwise.
        """
        sums = self.shares.tables.sums(table, axes)
        return self._or_counted(table, sums, site, count)

    def norm_of_table(
        self, table: Node, axes: Collection[int], site: Node, count: Growth
    ) -> Growth:
        """The same of the root of a sum of squares, as random numbers are summed with."""
        norms = self.shares.tables.norms(table, axes)
        return self._or_counted(table, norms, site, count * HALF)

    def _or_counted(
        self, table: Node, measured: Sequence[float] | None, site: Node, count: Growth
    ) -> Growth:
        pair = self.orders[table]
        expected = count if pair is None else pair.typical.growth + count
        if measured is None or self.constants.is_near(measured, expected, table):
            return expected
        found = self.constants.power(measured, table)
        if found is None:
            self.unclear.setdefault(table, site)
        return expected if found is None else found

    def require(self, site: Node, value: Node, why: str) -> None:
        """The order of a value must be zero."""
        pair = self.orders.get(value)
        if pair is None or self.nature(value) == "constant" or not is_floating(value):
            return
        self.equate(pair.typical, value, site, why)

    def equate(self, order: Order, value: Node, site: Node, why: str) -> None:
        """An order must be zero, for the sake of a value; integers may be of any."""
        if not (order.degrees or order.growth) or is_integer(site):
            return
        key = (frozenset(order.degrees.items()), order.growth)
        if key not in self._seen:
            self._seen.add(key)
            self.equations.append(Equation(order, value, site, why))

    def floor(self, order: Order) -> None:
        """A constant keeps a value of this order from zero."""
        if order.degrees:
            self.floored.setdefault((frozenset(order.degrees.items()), order.growth), order)

    def is_small(self, node: Node) -> bool:
        """True of a constant that only keeps a sum from zero, and of a mask."""
        if self.nature(node) != "constant":
            return False
        value = self.uniform.get(node)
        if value is None:  # such as 1e-6 times the identity
            return node.op == "mul" and any(map(self.is_tiny, node.parents))
        size = abs(float(value[0]))
        return size < TINY or size > HUGE or not math.isfinite(size)

    def is_tiny(self, node: Node) -> bool:
        """True of a number that only keeps a sum from zero."""
        return node in self.uniform and abs(float(self.uniform[node][0])) < TINY


def is_floating(node: Node) -> bool:
    """True of a value of real or complex numbers."""
    dtype = getattr(node.types[0], "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, np.inexact)


def is_integer(node: Node) -> bool:
    """True of a value of integers, which count, choose, or say where something is."""
    dtype = getattr(node.types[0], "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, np.integer)


def rank_of(flat: Flat) -> Callable[[Growth], tuple[float, float]]:
    """A function that is the larger, the faster something grows: from base to delta, or beyond."""
    shapes = [axis for node in flat.inputs for axis in zip(*node.shapes, strict=True)]
    grown = [sizes for sizes in shapes if sizes[0] != sizes[1]]
    shrinks = any(delta < base for base, delta, *_ in grown)
    falls = any(min(sizes) < base for base, *sizes in ((s[0], *s[2:]) for s in grown) if sizes)

    def rank(growth: Growth) -> tuple[float, float]:
        first, others = growth.key
        # Rounded, since the same growth may have come about in several ways.
        return round(-first if shrinks else first, 9), round(-others if falls else others, 9)

    return rank


def _sizes_of(flat: Flat) -> list[tuple[int, ...]]:
    """The sizes of the axes of a program that grow, the most frequent first."""
    found = collections.Counter(
        axis for node in flat.nodes for axis in zip(*node.shapes, strict=True) if of_sizes(axis)
    )
    return [sizes for sizes, _ in found.most_common(24)]
