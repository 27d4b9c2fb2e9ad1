"""Values that choose: one-hot vectors, masks of the largest, and softmax, as they are written."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxmup._infer._dims import blocks, grows, params_of
from jaxmup._infer._numbers import Number
from jaxmup._program import Node


class Selection(NamedTuple):
    """A value that chooses among what stands along axes.

    Args:
      axes: The axes, over each of which by itself it sums to 1 or to a fixed number.
      sparse: True if no more than a fixed number of its elements along one are not zero.
    """

    axes: frozenset[int] = frozenset()
    sparse: bool = True


NONE = Selection()


class Selections:
    """The values of a program that choose.

    Args:
      numbers: The constants all of whose elements are one number.
    """

    def __init__(self, numbers: Mapping[Node, Number]):
        self.numbers = numbers

    def of(self, node: Node) -> Selection:
        """Along which of its axes that grow a value chooses by what it is itself."""
        find = _FINDS.get(node.op)
        return NONE if find is None else find(self, node)

    def is_zero(self, node: Node) -> bool:
        """True of a constant that is zero at all sizes."""
        return node in self.numbers and not any(self.numbers[node])

    def is_unknown(self, node: Node) -> bool:
        """True if the numbers of an axis that grows are compared with some that differ along it.

        How many of them are equal nobody knows.
        """
        if node.op not in ("eq", "eq_to") or self.of(node).axes:
            return False
        one, other = node.parents
        return any(
            self.is_distinct(x, axis) and not self.is_repeated(y, axis)
            for x, y in ((one, other), (other, one))
            for axis in _growing(node)
        )

    # ---- along an axis

    def is_distinct(self, node: Node, axis: int, shifted: bool = True) -> bool:
        """True of integers that are all different along an axis.

        Args:
          node: The value.
          axis: The axis, which grows.
          shifted: False for those alone that count from zero, in any order.
        """
        while grows(node, axis):
            if node.op == "iota":
                return params_of(node)["dimension"] == axis
            if node.op in ("add", "sub") and shifted:
                kept = [p for p in node.parents if not self.is_repeated(p, axis)]
                if len(kept) != 1:
                    return False
                node = kept[0]
                continue
            if _counts_from_the_end(node):
                node = node.parents[1]
                continue
            is_permuted = node.op == "rev" or (
                node.op == "sort" and params_of(node)["dimension"] == axis
            )
            back = (node.parents[0], axis) if is_permuted else _back(node, axis)
            if back is None:
                return False
            node, axis = back
        return False

    def is_repeated(self, node: Node, axis: int) -> bool:
        """True of a value that is the same all along an axis."""
        if node in self.numbers or all(shape[axis] == 1 for shape in node.shapes):
            return True
        if node.op == "iota":
            return params_of(node)["dimension"] != axis
        if node.op == "broadcast_in_dim" and axis not in params_of(node)["broadcast_dimensions"]:
            return True
        back = _back(node, axis)
        if back is not None:
            return self.is_repeated(*back)
        if node.op not in _ELEMENTWISE or not node.parents:
            return False
        return all(
            not parent.shapes[0] or self.is_repeated(parent, axis) for parent in node.parents
        )

    # ---- what chooses

    def _one_hot(self, node: Node) -> Selection:
        """The comparison of the numbers of an axis with what does not change along it."""
        one, other = node.parents
        found = [
            axis
            for x, y in ((one, other), (other, one))
            for axis in _growing(node)
            if self.is_distinct(x, axis) and self.is_repeated(y, axis)
        ]
        return Selection(frozenset(found)) if found else self._largest(node)

    def _largest(self, node: Node) -> Selection:
        """The comparison of values with the k-th largest of them, or of counts with a number."""
        first, second = node.parents
        above, below = (first, second) if node.op in ("ge", "gt") else (second, first)
        ways = [(above, below, True), (below, above, False)]
        if node.op.startswith("eq"):
            ways += [(below, above, True), (above, below, False)]
        for x, y, upwards in ways:
            axis = _axis_of_extreme(_same(x), y, upwards)
            if axis is not None and grows(node, axis):
                return Selection(frozenset({axis}))
            if not upwards and y in self.numbers and len(set(map(float, self.numbers[y]))) == 1:
                found = [a for a in _growing(node) if self.is_distinct(x, a, shifted=False)]
                if found and not node.op.startswith("eq"):
                    return Selection(frozenset(found))
        return NONE

    def _softmax(self, node: Node) -> Selection:
        """The quotient of positive numbers and their sum."""
        numerator, total = _same(node.parents[0]), _spread(node.parents[1])
        if total.op != "reduce_sum" or not is_positive(numerator):
            return NONE
        terms = _same(total.parents[0])
        if numerator is not terms and numerator is not _unmasked(terms):
            return NONE
        axes = params_of(total)["axes"]
        return Selection(frozenset(axis for axis in axes if grows(node, axis)), sparse=False)

    def _exp_of_log_softmax(self, node: Node) -> Selection:
        """The exponential of what has the logarithm of the sum of its exponentials subtracted."""
        shifted = _same(node.parents[0])
        if shifted.op != "sub":
            return NONE
        values, log = shifted.parents[0], _spread(shifted.parents[1])
        offset = None
        if log.op == "add":
            logs = [p for p in log.parents if _spread(p).op == "log"]
            if len(logs) != 1:
                return NONE
            offset = _spread(next(p for p in log.parents if p is not logs[0]))
            log = _spread(logs[0])
        total = sum_of_exponentials(log)
        if total is None:
            return NONE
        inner = _same(_same(total.parents[0]).parents[0])
        if offset is not None:
            if inner.op != "sub" or _spread(inner.parents[1]) is not offset:
                return NONE
            inner = inner.parents[0]
        if _same(inner) is not _same(values):
            return NONE
        axes = params_of(total)["axes"]
        return Selection(frozenset(axis for axis in axes if grows(node, axis)), sparse=False)


def sum_of_exponentials(log: Node) -> Node | None:
    """The sum of exponentials that something is the logarithm of."""
    if log.op != "log":
        return None
    total = _spread(log.parents[0])
    total = _spread(total.parents[0]) if total.op == "abs" else total
    if total.op != "reduce_sum" or _unmasked(_same(total.parents[0])).op != "exp":
        return None
    return total


def is_positive(node: Node) -> bool:
    """True of exponentials and the like, masked or not."""
    node = _unmasked(_same(node))
    if node.op == "mul":
        return all(map(is_positive, node.parents))
    return node.op in ("exp", "exp2", "logistic")


def _growing(node: Node) -> list[int]:
    return [axis for axis in range(len(node.shapes[0])) if grows(node, axis)]


def _back(node: Node, axis: int) -> tuple[Node, int] | None:
    """The value that a moved one is made of, and which of its axes the axis is."""
    if not node.parents:
        return None
    params, parent = params_of(node), node.parents[0]
    if node.op in _SAME:
        return parent, axis
    if node.op == "broadcast_in_dim" and axis in params["broadcast_dimensions"]:
        return parent, params["broadcast_dimensions"].index(axis)
    if node.op == "transpose":
        return parent, params["permutation"][axis]
    if node.op == "squeeze":
        kept = [i for i in range(len(parent.shapes[0])) if i not in params["dimensions"]]
        return parent, kept[axis]
    if node.op == "reshape":
        for ours, theirs in blocks(parent.shapes, node.shapes):
            # An axis of one element is none.
            long = [i for i in ours if any(shape[i] > 1 for shape in parent.shapes)]
            others = [k for k in theirs if any(shape[k] > 1 for shape in node.shapes)]
            if axis in theirs and len(long) == 1 and others == [axis]:
                return parent, long[0]
    return None


def _same(node: Node) -> Node:
    """The value before its dtype was changed, and the like."""
    while node.op in _SAME:
        node = node.parents[0]
    return node


def _spread(node: Node) -> Node:
    """The value that is repeated along axes or given new ones, kept from zero or not."""
    while node.op in _SAME | _SPREADS or _only_keeps_from_zero(node):
        node = node.parents[0]
    return node


def _only_keeps_from_zero(node: Node) -> bool:
    if node.op not in ("add", "max") or node.parents[1].op != "constant":
        return False
    value = (node.parents[1].value or (1.0,))[0]
    return getattr(value, "size", 1) == 1 and 0 <= abs(float(value)) < 1e-3


def _counts_from_the_end(node: Node) -> bool:
    """True of indices as JAX reads them: those below zero get the size of the axis added."""
    if node.op != "select_n" or len(node.parents) != 3:
        return False
    _, plain, moved = node.parents
    return moved.op == "add" and plain in moved.parents


def _unmasked(node: Node) -> Node:
    """The value that a mask was applied to."""
    if node.op == "select_n" and len(node.parents) == 3:
        return _same(node.parents[2])
    return node


def _axis_of_extreme(values: Node, bound: Node, upwards: bool) -> int | None:
    """The axis along which a bound is one of the first of the values, by their size.

    Args:
      values: Values that are compared with the bound.
      bound: The bound.
      upwards: True if those above it are meant.
    """
    parts: list[Node] = []
    while bound.op in _SAME | _SPREADS | {"slice"}:
        if bound.op == "slice" and bound.equations:
            parts.append(bound)
        bound = bound.parents[0]
    if not bound.parents or _same(bound.parents[0]) is not values:
        return None
    params = params_of(bound)
    if bound.op in ("reduce_max", "reduce_min"):
        return params["axes"][0] if (bound.op == "reduce_max") == upwards else None
    last = len(values.shapes[0]) - 1
    if bound.op == "top_k" and upwards:
        return params.get("axis", last) % (last + 1)
    if bound.op != "sort":
        return None
    axis = params["dimension"]
    for part in parts:
        starts = [equation.params["start_indices"][axis] for equation in part.equations]
        sizes = [shape[axis] for shape in bound.shapes]
        above = {size - start for size, start in zip(sizes, starts, strict=True)}
        if len(above if upwards else set(starts)) == 1:
            return axis
    return None


_SAME = frozenset({"convert_element_type", "copy", "stop_gradient", "optimization_barrier"})
_SPREADS = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims"})
_ELEMENTWISE = frozenset(
    "add sub mul div max min lt le gt ge eq ne and or not select_n neg abs exp tanh logistic rem "  # noqa: SIM905
    "sign floor round integer_pow square sqrt rsqrt".split()
)
_FINDS: Mapping[str, Callable[[Selections, Node], Selection]] = {
    "eq": Selections._one_hot,
    "eq_to": Selections._one_hot,
    **dict.fromkeys(("ge", "gt", "le", "lt", "le_to", "lt_to"), Selections._largest),
    "div": Selections._softmax,
    "exp": Selections._exp_of_log_softmax,
}
