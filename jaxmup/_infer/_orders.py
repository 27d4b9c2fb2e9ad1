"""Orders: the growth of each value of a program with the sizes, once parameters follow muP.

Sums are taken as aligned, the worst case after training. A value's order is a growth times unknown
gains, forward gains of parameters and what comes around in loops, each to some degree. Where values
are added, or where an operation is not homogeneous, orders must agree: these are the equations that
the gains solve.

A random matrix has two orders, an aligned one, which sums of as many terms have that all point one
way, and a typical one, that of its entries; both are kept until it meets an activation.
"""

import types
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction

from jaxmup._infer._constants import resolution_of
from jaxmup._infer._growth import NONE, Growth
from jaxmup._infer._order import (
    ZERO,
    Known,
    Order,
    Pair,
    Unknown,
    both,
    is_floating,
    is_integer,
)
from jaxmup._infer._rows import OF_INTEGERS, ROWS
from jaxmup._infer._shares import Shares
from jaxmup._infer._views import Nature
from jaxmup._program import Flat, Node, Repeat

_RESOLUTION = 1e-7  # of numbers that the user has given, as of float32
_COMPARISONS = frozenset({"lt", "le", "gt", "ge", "ne", "eq", "lt_to", "le_to"})
_CONNECTIVES = frozenset({"and", "or", "not", "reduce_and", "reduce_or", "carry", "reshape"})


class Orders(Known):
    """The orders of all values of a program, and the equations between them.

    Args:
      flat: The program at several sizes.
      nature: The nature of a value.
      shares: The axes over which values sum up to the order of one element.
      coordinates: The orders of the coordinates of each parameter under muP, by its input.
      gains: Name of the gain of each parameter that may have one, by its input.
      scales: Size of the coordinates of an argument at each size, where it is not the same.
      inserted: Values that a factor may be put on.
      multipliers: The multiplier of each parameter that its layer multiplies by one, at each size,
        by its input: the coordinates are those of the product.

    Attributes:
      uneven_loops: Tests of loops that go on for longer at other sizes.
    """

    def __init__(
        self,
        flat: Flat,
        nature: Callable[[Node], Nature],
        shares: Shares,
        coordinates: Mapping[Node, tuple[Growth, Growth]],
        gains: Mapping[Node, str],
        scales: Mapping[Node, tuple[float, ...]],
        inserted: Collection[Node] = (),
        multipliers: Mapping[Node, tuple[float, ...]] = types.MappingProxyType({}),
    ):
        super().__init__(flat, nature, shares)
        self.coordinates, self.gains, self.scales = coordinates, gains, scales
        self.multipliers = multipliers
        self._carries: list[Node] = []
        for node in flat.nodes:
            pair = self._order(node)
            if node in inserted and pair is not None:
                factor = Order(NONE, {node: Fraction(1)})
                pair = Pair(pair.aligned + factor, pair.typical + factor)
            self.orders[node] = pair
        self._close_loops()
        self.uneven_loops = dict.fromkeys(
            test for loop in flat.whiles for test in self._tests_that_grow(loop)
        )
        for output in flat.outputs:
            self.require(output, output, "the model returns it")

    def _close_loops(self) -> None:
        for node in self._carries:
            start, end = (self.orders.get(parent) for parent in node.parents)
            own = self.orders[node]
            assert own is not None
            for other, parent in ((start, node.parents[0]), (end, node.parents[1])):
                if other is not None and not self.is_small(parent):
                    self.equate(
                        other.typical - own.typical, parent, node, "it goes around in a loop"
                    )

    def _tests_that_grow(self, loop: Repeat) -> Iterator[Node]:
        """Comparisons with a size, by which a loop goes on for longer where there is more.

        Where activations are compared with a number, as an error that must become small, both must
        be of one order.
        """
        if not any(map(is_floating, loop.carry)):
            return
        for node in _comparisons(loop.test):
            known = [(p, pair) for p in node.parents if (pair := self.orders[p]) is not None]
            if any(is_floating(p) and self.nature(p) != "constant" for p, _ in known):
                if len(known) > 1:
                    (first, x), (_, y) = known
                    self.equate(x.typical - y.typical, first, node, "a loop goes on by it")
            elif any(pair.typical.growth for _, pair in known):
                yield node

    # ---- one value

    def _order(self, node: Node) -> Pair | None:
        if node.op == "input":
            return self._of_input(node)
        uniform = self.uniform.get(node)
        if uniform is not None:
            growth = self.constants.growth(uniform, resolution_of(node.types[0].dtype))
            return None if growth is None else both(Order(growth))
        if self.nature(node) != "constant" and self.shares.selections.is_unknown(node):
            self.unread.setdefault(node.op, node)
        pair = both(ZERO) if node.op == "constant" else self._by_row(node)
        is_table = node in self.shares.tables.met or node.op == "constant"
        if pair is not None and is_table and (is_floating(node) or node.op == "constant"):
            return both(Order(self._of_table(node, pair.typical.growth)))
        return pair

    def _of_table(self, node: Node, derived: Growth) -> Growth:
        """The growth of the largest numbers of a table, which typical ones must have too."""
        tables = self.shares.tables
        largest, typical = tables.largest(node), tables.typical(node)
        if largest is None or typical is None:
            return derived
        constants = self.constants
        found: Growth | None = derived
        if node.op == "constant" or (derived and not constants.is_near(largest, derived, node)):
            found = constants.power_of_table(largest, typical, node)
            if found is None and constants.settles(largest, NONE, node):
                found = NONE
        elif not constants.settles(largest, derived, node):
            found = None
        # What is of order 0 may fall off, as frequencies do; what grows must do so as a whole.
        is_clear = found is not None and (not found or constants.is_near(typical, found, node))
        if not is_clear and node in tables.met:  # one that only makes others may be as it likes
            self.unclear.setdefault(node, tables.met[node])
        return derived if found is None else found

    def _by_row(self, node: Node) -> Pair | None:
        if node.op == "test" or not (is_floating(node) or is_integer(node)):
            return both(ZERO)
        if node.op == "carry":
            return self._carry(node)
        row = (ROWS if is_floating(node) else OF_INTEGERS).get(node.op)
        if row is None:
            if self.nature(node) != "constant" and is_floating(node):
                self.unread.setdefault(node.op, node)
            return both(ZERO)
        pair = row(self, node)
        if pair is None or self.nature(node) == "weight" or pair.aligned is pair.typical:
            return pair
        return both(pair.typical)

    def _of_input(self, node: Node) -> Pair:
        if node not in self.coordinates:
            scale = self.constants.growth(self.scales.get(node, (1.0, 1.0)), _RESOLUTION)
            return both(Order(scale or NONE))
        aligned, typical = self.coordinates[node]
        if node in self.multipliers:
            stored = self.constants.growth(self.multipliers[node], _RESOLUTION) or NONE
            aligned, typical = aligned - stored, typical - stored
        degrees: dict[Unknown, Fraction] = {}
        if node in self.gains:
            degrees[self.gains[node]] = Fraction(1)
        return Pair(Order(aligned, degrees), Order(typical, degrees))

    def _carry(self, node: Node) -> Pair | None:
        start = self.orders[node.parents[0]]
        if self.nature(node) == "constant" or is_integer(node):
            return start
        self._carries.append(node)
        if start is None or self.is_small(node.parents[0]):
            # Zero at first: what the iterations make of it, whatever that is.
            return both(Order(NONE, {len(self._carries): Fraction(1)}))
        return start


def _comparisons(test: Node) -> Iterator[Node]:
    """The comparisons that a test is made of, here or in the iteration before."""
    seen, waiting = {test}, [test]
    while waiting:
        node = waiting.pop()
        if node.op in _COMPARISONS:
            yield node
        elif node is test or node.op in _CONNECTIVES:
            waiting += [parent for parent in node.parents if parent not in seen]
            seen.update(node.parents)
