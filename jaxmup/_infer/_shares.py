"""Shares: axes over which a value sums up to no more than one of its elements, however long.

A one-hot vector has a single one, and a softmax sums to 1, however many there are to choose among.
So a sum over such an axis has the order of a single term, and what is summed by it is chosen from
or mixed, and not features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from jaxmup._infer._dims import EMPTY, blocks, dot_axes, gathered, grows, moved, params_of
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._infer._numbers import numbers
from jaxmup._infer._selections import Selections
from jaxmup._infer._tables import Tables
from jaxmup._program import Flat, Node


class Share(NamedTuple):
    """Axes that grow, over all of which together a value sums up to the order of one element.

    Args:
      axes: The axes.
      sparse: True if no more than a fixed number of the elements along them are not zero.
    """

    axes: frozenset[int]
    sparse: bool


Ways: TypeAlias = frozenset[Share]
"""Shares of one value, each of which holds by itself but not beside the others."""
_NO: Ways = frozenset()
_WHOLE = Share(frozenset(), True)
"""That of a value of which nothing is known."""
_MOST = 8  # ways of one value that are kept


class Covered(NamedTuple):
    """Axes of a product's sum along which one of its operands has a share.

    Args:
      position: Position of that operand.
      axes: For each operand, its axes that are summed over so.
    """

    position: int
    axes: tuple[frozenset[int], frozenset[int]]


class Shares:
    """The shares of all values of a program.

    Args:
      flat: The program at several sizes.

    Attributes:
      numbers: The constants all of whose elements are one number.
      tables: The other constants, where they meet values that follow from inputs.
      of: Shares of the values that have any.
      made: The axes of values along which they choose by what they are themselves.
      covered: Of each product that sums over an axis with a share, which.
    """

    def __init__(self, flat: Flat):
        self.numbers = numbers(flat)
        self.tables = Tables(flat, self.numbers)
        self.selections = Selections(self.numbers)
        self.of: dict[Node, Ways] = {}
        self.made: dict[Node, frozenset[int]] = {}
        self.covered: dict[Node, Covered] = {}
        for node in flat.nodes:
            found = self._ways(node)
            if found:
                self.of[node] = found

    def is_softmax(self, node: Node) -> bool:
        """True of positive numbers over their sum."""
        return node.op == "div" and node in self.made

    def growths(self) -> set[Growth]:
        """The growths of all axes along which anything has a share."""
        found = self.of.items()
        return {_growth(n, [axis]) for n, ways in found for way in ways for axis in way.axes}

    def count(self, node: Node, axes: Iterable[int]) -> Growth:
        """The growth of the number of terms of a sum over some axes of a value."""
        axes = set(axes)
        return _growth(node, axes - self.over(node, axes))

    def over(self, node: Node, axes: Iterable[int]) -> frozenset[int]:
        """Those of the axes of a sum over which a value sums up to the order of one element."""
        axes = frozenset(axes)
        best = max(self._and_whole(node), key=lambda way: len(way.axes & axes))
        return best.axes & axes

    def count_of_product(self, node: Node) -> Growth:
        """The growth of the number of terms of a product."""
        contracted = set(dot_axes(node)[0][1])
        if node in self.covered:
            contracted -= self.covered[node].axes[1]
        return _growth(node.parents[1], contracted)

    # ---- one value

    def _ways(self, node: Node) -> Ways:
        made = self._made(node)
        rule = _RULES.get(node.op)
        if rule is None or not any(parent in self.of for parent in node.parents):
            return made
        return _best(made | rule(self, node))

    def _made(self, node: Node) -> Ways:
        """The shares that a value has whatever it is made of."""
        if node.op.startswith("scatter") and self.selections.is_zero(node.parents[0]):
            return self._put(node)
        axes, sparse = self.selections.of(node)
        if not axes and node in self.tables.met:
            axes = self.tables.few(node)
        if axes:
            self.made[node] = axes
        return frozenset(Share(frozenset({axis}), sparse) for axis in axes)

    def _put(self, node: Node) -> Ways:
        """Those of a fixed number of updates that are put into zeros."""
        updates = node.parents[2]
        how = params_of(node)["dimension_numbers"]
        number = set(range(len(updates.shapes[0]))) - set(how.update_window_dims)
        axes = frozenset(axis for axis in how.inserted_window_dims if grows(node, axis))
        if not axes or node.op == "scatter-mul" or self.count(updates, number):
            return _NO
        return frozenset({Share(axes, not _growth(updates, number))})

    def _and_whole(self, node: Node) -> list[Share]:
        return [_WHOLE, *self.of.get(node, _NO)]

    # ---- rules

    def _kept(self, node: Node) -> Ways:
        """Of what only moves elements, or makes none of them larger."""
        return _moved(node, 0, self.of.get(node.parents[0], _NO))

    def _sparse(self, node: Node) -> Ways:
        """Of what leaves zeros zero."""
        ways = [way for p in node.parents for way in self.of.get(p, _NO) if way.sparse]
        return frozenset(ways)

    def _compared(self, node: Node) -> Ways:
        """Of the comparison with zero: that of the elements that are not zero."""
        is_with_zero = any(map(self.selections.is_zero, node.parents))
        return self._sparse(node) if is_with_zero else _NO

    def _converted(self, node: Node) -> Ways:
        to_truth = node.types[0].dtype == bool
        return self._sparse(node) if to_truth else self._kept(node)

    def _powered(self, node: Node) -> Ways:
        return self._kept(node) if params_of(node)["y"] > 0 else _NO

    def _times(self, node: Node) -> Ways:
        return self._product_of(*node.parents)

    def _product_of(self, left: Node, right: Node) -> Ways:
        """Of one operand's as it is, times the other's along axes that the first repeats."""
        found: list[Share] = []
        for x, y in ((left, right), (right, left)):
            for way in self.of.get(x, _NO):
                found.append(way)
                for other in self.of.get(y, _NO):
                    more = [a for a in other.axes if self.selections.is_repeated(x, a)]
                    found.append(
                        Share(way.axes.union(more), way.sparse and (other.sparse or not more))
                    )
        return frozenset(found)

    def _sum_of(self, terms: Sequence[Node], joined: Callable[[Node], Ways] | None = None) -> Ways:
        """Of the sum of values: what all of them have that are not zero."""
        ways: Ways | None = None
        for term in terms:
            if self.selections.is_zero(term):
                continue
            own = joined(term) if joined else self.of.get(term, _NO)
            ways = own if ways is None else _best(_both(a, b) for a in ways for b in own)
        return ways or _NO

    def _added(self, node: Node) -> Ways:
        return self._sum_of(node.parents)

    def _joined(self, node: Node) -> Ways:
        """Of parts side by side, of which one that does not grow adds nothing that does."""
        axis = params_of(node)["dimension"]

        def own(part: Node) -> Ways:
            ways = self.of.get(part, _NO)
            if grows(part, axis):
                return ways
            return frozenset(Share(w.axes | {axis}, w.sparse) for w in {_WHOLE, *ways})

        return self._sum_of(node.parents, own)

    def _selected(self, node: Node) -> Ways:
        which, *cases = node.parents
        if len(cases) == 2 and self.selections.is_zero(cases[0]):
            return self._product_of(which, cases[1])
        return self._sum_of(cases)

    def _chosen(self, node: Node) -> Ways:
        return self._sum_of(node.parents[1:])

    def _updated(self, node: Node) -> Ways:
        return self._sum_of(node.parents[:2])

    def _scattered(self, node: Node) -> Ways:
        if self.selections.is_zero(node.parents[0]):
            return _NO
        own, put = self.of.get(node.parents[0], _NO), self._put(node)
        return _best(_both(a, b) for a in own for b in put)

    def _summed(self, node: Node) -> Ways:
        """Of a sum over axes: of the ways to have the fewest terms, what is left."""
        parent, axes = node.parents[0], _axes(node)
        fewest = self.over(parent, axes)
        ways = [way for way in self.of.get(parent, _NO) if way.axes & axes == fewest]
        rest = _growth(parent, axes - fewest)
        return _moved(node, 0, [Share(way.axes, way.sparse and not rest) for way in ways])

    def _running(self, node: Node) -> Ways:
        """Of running sums: as of the sum."""
        parent, axes = node.parents[0], _axes(node)
        fewest = self.over(parent, axes)
        ways = [way for way in self.of.get(parent, _NO) if way.axes & axes == fewest]
        rest = _growth(parent, axes)
        return frozenset(Share(way.axes - axes, way.sparse and not rest) for way in ways)

    def _extreme(self, node: Node) -> Ways:
        """Of the largest along axes: as of the sum, of which it is a term."""
        parent, axes = node.parents[0], _axes(node)
        kept = [way for way in self.of.get(parent, _NO) if not _growth(parent, axes - way.axes)]
        if len(node.shapes[0]) < len(parent.shapes[0]):
            return _moved(node, 0, kept)
        return frozenset(Share(way.axes - axes, way.sparse) for way in kept)

    def _sorted(self, node: Node) -> Ways:
        """Of the same elements in another order along an axis, here and there another."""
        parent, axis = node.parents[0], params_of(node)["dimension"]
        ways = self.of.get(parent, _NO)
        return frozenset(way for way in ways if axis in way.axes or not grows(parent, axis))

    def _contracted(self, node: Node) -> Ways:
        """Of a product: as many terms as the axes have along which neither operand has a share."""
        contracted, batch = dot_axes(node)
        if "dimension_numbers" not in params_of(node):
            return _NO
        ways: list[tuple[int, int, Share]] = []
        for position, parent in enumerate(node.parents):
            summed = frozenset(contracted[position])
            for way in self._and_whole(parent):
                ways.append((len(way.axes & summed), position, way))
        most = max(covered for covered, _, _ in ways)
        if most:
            _, position, way = next(each for each in ways if each[0] == most)
            axes = way.axes & set(contracted[position])
            places = [list(contracted[position]).index(axis) for axis in axes]
            both = [frozenset(contracted[i][place] for place in places) for i in (0, 1)]
            self.covered[node] = Covered(position, (both[0], both[1]))
        found: list[Share] = []
        for covered, position, way in ways:
            if covered < most:
                continue
            parent, other = node.parents[position], node.parents[1 - position]
            gone = (*contracted[1 - position], *batch[1 - position])
            rest = _growth(parent, set(contracted[position]) - way.axes)
            for more in self._and_whole(other):
                free = more.axes.difference(gone)
                axes = _moved_axes(node, position, way.axes)
                axes |= _moved_axes(node, 1 - position, free)
                sparse = way.sparse and not rest and (more.sparse or not free)
                found.append(Share(axes, sparse))
        return frozenset(found)


def _axes(node: Node) -> frozenset[int]:
    """The axes that a sum or the like goes over."""
    params = params_of(node)
    if "axes" in params:
        return frozenset(params["axes"])
    last = len(node.parents[0].shapes[0]) - 1
    return frozenset({params.get("axis", last) % (last + 1)})


def _growth(node: Node, axes: Iterable[int]) -> Growth:
    total = NONE
    for axis in axes:
        total = total + of_sizes(tuple(shape[axis] for shape in node.shapes))
    return total


def _both(one: Share, other: Share) -> Share:
    """The axes that two values have in common."""
    return Share(one.axes & other.axes, one.sparse and other.sparse)


def _best(ways: Iterable[Share]) -> Ways:
    """The shares that no other says more than."""
    found = {way for way in ways if way.axes}
    best = [
        way
        for way in found
        if not any(
            way != other and way.axes <= other.axes and way.sparse <= other.sparse
            for other in found
        )
    ]
    best.sort(key=lambda way: (-len(way.axes), not way.sparse, sorted(way.axes)))
    return frozenset(best[:_MOST])


def _moved(node: Node, position: int, ways: Iterable[Share]) -> Ways:
    return _best(Share(_moved_axes(node, position, w.axes), w.sparse) for w in ways)


def _moved_axes(node: Node, position: int, axes: frozenset[int]) -> frozenset[int]:
    """The axes of a value that grow and are made of those of a parent."""
    if not axes:
        return axes
    parent = node.parents[position]
    if node.op == "gather":  # the same element may be taken several times
        axes = axes.difference(gathered(node)[0])
    if node.op == "reshape":  # one that is merged with an axis without a share has none
        for ours, _ in blocks(parent.shapes, node.shapes):
            if any(grows(parent, axis) and axis not in axes for axis in ours):
                axes -= set(ours)
    ndim = len(parent.shapes[0])
    marks = tuple(frozenset({axis}) if axis in axes else EMPTY for axis in range(ndim))
    marked = enumerate(moved(node, position, marks))
    return frozenset(axis for axis, sources in marked if sources and grows(node, axis))


_Rule: TypeAlias = Callable[[Shares, Node], Ways]


def _rules() -> dict[str, _Rule]:
    rules: dict[str, _Rule] = {}

    def put(rule: _Rule, names: str) -> None:
        rules.update(dict.fromkeys(names.split(), rule))

    put(
        Shares._kept,
        "copy neg abs real imag conj reduce_precision stop_gradient optimization_barrier name "
        "sharding_constraint pvary broadcast_in_dim reshape squeeze expand_dims transpose slice "
        "dynamic_slice rev pad split gather stack unstack shard unshard tanh sin asin atan erf "
        "floor round square expm1 log1p div device_put psum_invariant reshard mesh_cast",
    )
    put(Shares._sparse, "sqrt cbrt sign ceil tan sinh pow")
    put(Shares._compared, "ne ne_to gt lt")
    put(Shares._converted, "convert_element_type")
    put(Shares._powered, "integer_pow")
    put(Shares._times, "mul and")
    put(Shares._added, "add sub add_any max min or xor")
    put(Shares._joined, "concatenate")
    put(Shares._selected, "select_n")
    put(Shares._chosen, "choice")
    put(Shares._updated, "dynamic_update_slice")
    put(Shares._scattered, "scatter scatter-add scatter_add scatter-min scatter-max scatter-sub")
    put(Shares._summed, "reduce_sum")
    put(Shares._running, "cumsum")
    put(Shares._extreme, "reduce_max reduce_min reduce_or cummax cummin top_k approx_top_k")
    put(Shares._sorted, "sort")
    put(Shares._contracted, "dot_general")
    return rules


_RULES: Mapping[str, _Rule] = _rules()
