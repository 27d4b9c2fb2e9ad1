"""Orders: the growth of each value of a program with the sizes, once parameters follow muP.

Sums are taken as aligned, the worst case after training. A value's order is a growth times unknown
gains, forward gains of parameters and what comes around in loops, each to some degree. Where values
are added, or where an operation is not homogeneous, orders must agree: these are the equations that
the gains solve.

A random matrix has two orders, an aligned one, which sums of as many terms have that all point one
way, and a typical one, that of its entries; both are kept until it meets an activation.
"""

import collections
import dataclasses
import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._check import is_traced
from jaxmup._infer._dims import dot_axes, params_of
from jaxmup._infer._growth import NONE, Constants, Growth, of_sizes, resolution_of
from jaxmup._infer._uses import TINY, Nature
from jaxmup._program import Flat, Node, bind

HUGE = 1e4
"""What is larger than this in a sum is a mask."""
Unknown = str | int | Node
"""A gain: the name of a parameter, the number of a value that comes around in a loop, or a value
that a factor is put on."""
HALF = Fraction(1, 2)
_BESIDE = "a term of another order is beside it"


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


class Orders:
    """The orders of all values of a program, and the equations between them.

    Args:
      flat: The program at several sizes.
      nature: The nature of a value.
      coordinates: The orders of the coordinates of each parameter under muP, by its input.
      gains: Name of the gain of each parameter that may have one, by its input.
      inserted: Values that a factor may be put on.
      multipliers: The multiplier of each parameter that its layer multiplies by one, at each size,
        by its input: the coordinates are those of the product.

    Attributes:
      equations: What must hold.
      unread: Operations of which no row says how they grow, with a value of each.
    """

    def __init__(
        self,
        flat: Flat,
        nature: Callable[[Node], Nature],
        coordinates: Mapping[Node, tuple[Growth, Growth]],
        gains: Mapping[Node, str],
        inserted: Collection[Node] = (),
        multipliers: Mapping[Node, Sequence[float]] = types.MappingProxyType({}),
    ):
        self.flat, self.nature = flat, nature
        self.coordinates, self.gains = coordinates, gains
        self.multipliers = multipliers
        self.constants = Constants(_sizes_of(flat))
        self.direction = direction_of(flat)
        self.orders: dict[Node, Pair | None] = {}  # `None` for what is exactly zero
        self.uniform: dict[Node, tuple[float, ...]] = {}
        self.equations: list[Equation] = []
        self.unread: dict[str, Node] = {}
        self._evaluated: dict[Any, tuple[Any, ...] | None] = {}
        self._seen: set[Any] = set()
        self._carries: list[Node] = []
        for node in flat.nodes:
            pair = self._order(node)
            if node in inserted and pair is not None:
                factor = Order(NONE, {node: Fraction(1)})
                pair = Pair(pair.aligned + factor, pair.typical + factor)
            self.orders[node] = pair
        self._close_loops()
        for output in flat.outputs:
            self.require(output, output, "the model returns it")

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
        key, other_key = one.growth.key, other.growth.key
        return one if (key > other_key) == (self.direction > 0) else other

    # ---- equations

    def require(self, site: Node, value: Node, why: str) -> None:
        """The order of a value must be zero."""
        pair = self.orders.get(value)
        if pair is None or self.nature(value) == "constant" or not _is_floating(value):
            return
        self._equate(pair.typical, value, site, why)

    def _equate(self, order: Order, value: Node, site: Node, why: str) -> None:
        if not order.degrees and not order.growth:
            return
        key = (frozenset(order.degrees.items()), order.growth)
        if key not in self._seen:
            self._seen.add(key)
            self.equations.append(Equation(order, value, site, why))

    def _close_loops(self) -> None:
        for node in self._carries:
            start, end = (self.orders.get(parent) for parent in node.parents)
            own = self.orders[node]
            assert own is not None
            for other, parent in ((start, node.parents[0]), (end, node.parents[1])):
                if other is not None and not self._is_small(parent):
                    self._equate(
                        other.typical - own.typical, parent, node, "it goes around in a loop"
                    )

    # ---- one value

    def _order(self, node: Node) -> Pair | None:
        if node.op == "input":
            return self._of_input(node)
        uniform = self._uniform(node)
        if uniform is not None:
            self.uniform[node] = uniform
            growth = self.constants.growth(uniform, resolution_of(node.types[0].dtype))
            return None if growth is None else both(Order(growth))
        if self._chooses_by_growing_count(node):
            self.unread.setdefault(node.op, node)
        if node.op in ("constant", "test") or not _is_floating(node):
            return both(Order(self._of_count(node)) if node.op == "iota" else ZERO)
        if node.op == "carry":
            return self._carry(node)
        row = ROWS.get(node.op)
        if row is None:
            if self.nature(node) != "constant":
                self.unread.setdefault(node.op, node)
            return both(ZERO)
        pair = row(self, node)
        if pair is None or self.nature(node) == "weight" or pair.aligned is pair.typical:
            return pair
        return both(pair.typical)

    def _of_input(self, node: Node) -> Pair:
        if node not in self.coordinates:
            return both(ZERO)
        aligned, typical = self.coordinates[node]
        if node in self.multipliers:
            resolution = resolution_of(np.float32)
            growth = self.constants.growth(self.multipliers[node], resolution) or NONE
            aligned, typical = aligned - growth, typical - growth
        degrees: dict[Unknown, Fraction] = {}
        if node in self.gains:
            degrees[self.gains[node]] = Fraction(1)
        return Pair(Order(aligned, degrees), Order(typical, degrees))

    def _of_count(self, node: Node) -> Growth:
        return self.growth(node, [params_of(node)["dimension"]]) if node.op == "iota" else NONE

    def _chooses_by_growing_count(self, node: Node) -> bool:
        """True for the comparison of a `one_hot` along an axis that grows.

        It has a single one however long the axis is, which a sum over it must not take for as many
        terms as the axis has. No row says so yet, so it is refused.
        """
        if node.op not in ("eq", "eq_to") or self.nature(node) == "constant":
            return False
        return any(self._of_count(_counted(parent)) != NONE for parent in node.parents)

    def _carry(self, node: Node) -> Pair | None:
        start = self.orders[node.parents[0]]
        if self.nature(node) == "constant":
            return start
        self._carries.append(node)
        if start is None or self._is_small(node.parents[0]):
            # Zero at first: what the iterations make of it, whatever that is.
            return both(Order(NONE, {len(self._carries): Fraction(1)}))
        return start

    # ---- constants all of whose elements are one number

    def _uniform(self, node: Node) -> tuple[Any, ...] | None:
        if node.op == "constant":
            assert node.value is not None
            return _one_number(node.value)
        if self.nature(node) != "constant" or node.output or not node.parents or not node.equations:
            return None
        if jnp.issubdtype(node.types[0].dtype, np.complexfloating):
            return None
        values = [self.uniform.get(parent) for parent in node.parents]
        if any(value is None for value in values):
            return None
        if node.op in _KEEPS_NUMBERS:
            return values[0]
        if node.op == "reduce_sum":
            counts = [math.prod(shape) for shape in node.parents[0].shapes]
            left = [math.prod(shape) for shape in node.shapes]
            return tuple(
                value * (count // rest)
                for value, count, rest in zip(values[0] or (), counts, left, strict=True)
            )
        if node.op not in _OF_NUMBERS:
            return None
        return tuple(
            self._number(equation, [value[i] for value in values if value is not None], node)
            for i, equation in enumerate(node.equations)
        )

    def _number(self, equation: Any, values: Sequence[Any], node: Node) -> Any:
        dtypes = tuple(parent.types[0].dtype for parent in node.parents)
        key = (node.op, str(equation.params), dtypes, tuple(map(str, values)))
        if key not in self._evaluated:
            args = [np.asarray(v, dtype) for v, dtype in zip(values, dtypes, strict=True)]
            with jax.ensure_compile_time_eval():
                self._evaluated[key] = np.asarray(bind(equation, args)[0]).flat[0]
        return self._evaluated[key]

    def _is_small(self, node: Node) -> bool:
        """True of a constant that only keeps a sum from zero, and of a mask."""
        if self.nature(node) != "constant":
            return False
        value = self.uniform.get(node)
        if value is None:
            return False
        size = abs(float(value[0]))
        return size < TINY or size > HUGE or not math.isfinite(size)


# ---- rows: how the result of an operation grows


def _none(_: Orders, node: Node) -> Pair:
    return both(ZERO)


def _same(orders: Orders, node: Node) -> Pair | None:
    return orders[node.parents[0]]


def _size(orders: Orders, node: Node) -> Pair | None:
    """Of absolute values and extrema: the terms of their sums all have one sign."""
    pair = orders[node.parents[0]]
    return None if pair is None else both(pair.typical)


def _nonlinear(orders: Orders, node: Node) -> Pair:
    for parent in node.parents:
        orders.require(node, parent, f"`{node.op}` takes it")
    pair = orders[node.parents[0]] if node.parents else None
    # Weights that are rounded stay a random matrix.
    return pair if pair is not None and orders.nature(node) == "weight" else both(ZERO)


def _power(exponent: Fraction) -> Callable[[Orders, Node], Pair | None]:
    def row(orders: Orders, node: Node) -> Pair | None:
        pair = orders[node.parents[0]]
        return None if pair is None else both(pair.typical * exponent)

    return row


def _integer_power(orders: Orders, node: Node) -> Pair | None:
    return _power(Fraction(params_of(node)["y"]))(orders, node)


def _any_power(orders: Orders, node: Node) -> Pair | None:
    exponent = orders.uniform.get(node.parents[1])
    if exponent is None or len(set(map(float, exponent))) > 1:
        return _nonlinear(orders, node)
    return _power(Fraction(float(exponent[0])).limit_denominator(64))(orders, node)


def _times(orders: Orders, node: Node) -> Pair | None:
    left, right = node.parents
    x, y = orders[left], orders[right]
    if x is None or y is None:
        return None
    if left is right:  # a square, whose terms all have one sign
        return both(x.typical * 2)
    return Pair(x.aligned + y.aligned, x.typical + y.typical)


def _over(orders: Orders, node: Node) -> Pair | None:
    x, y = (orders[parent] for parent in node.parents)
    if x is None or y is None:
        return x
    return Pair(x.aligned - y.typical, x.typical - y.typical)


def _sum_of(select: Callable[[Node], Sequence[Node]]) -> Callable[[Orders, Node], Pair | None]:
    def row(orders: Orders, node: Node) -> Pair | None:
        terms = [term for term in select(node) if orders[term] is not None]
        kept = [term for term in terms if not orders._is_small(term)]
        if node.op == "select_n" and orders.nature(node) != "constant":
            kept = [term for term in kept if orders.nature(term) != "constant"]
        pairs = [(term, pair) for term in kept or terms[:1] if (pair := orders[term]) is not None]
        if not pairs:
            return None
        nature = orders.nature(node)
        if nature == "weight":  # a threshold does not say how a matrix grows
            pairs.sort(key=lambda each: orders.nature(each[0]) != "weight")
        (_, first), *others = pairs
        typical = first.typical
        for term, pair in others:
            if nature == "weight" and orders.nature(term) == nature:
                orders._equate(pair.aligned - first.aligned, term, node, _BESIDE)
            elif nature != "constant":
                orders._equate(pair.typical - typical, term, node, _BESIDE)
            typical = orders.larger(typical, pair.typical)
        return Pair(first.aligned, typical)

    return row


def _reduce_sum(orders: Orders, node: Node) -> Pair | None:
    x = node.parents[0]
    pair = orders[x]
    params = params_of(node)
    axes = params["axes"] if "axes" in params else (params["axis"],) if "axis" in params else ()
    return None if pair is None else _summed(orders, pair, orders.growth(x, axes))


def _summed(orders: Orders, pair: Pair, count: Growth) -> Pair:
    aligned = pair.aligned.grown(count)
    return Pair(aligned, orders.larger(aligned, pair.typical.grown(count * HALF)))


def _fourier(orders: Orders, node: Node) -> Pair | None:
    ndim, number = len(node.shapes[0]), len(params_of(node)["fft_lengths"])
    if orders.growth(node.parents[0], range(ndim - number, ndim)):
        orders.unread.setdefault("fft", node)  # over the width: sums that are aligned in no way
    return orders[node.parents[0]]


def _contraction(orders: Orders, node: Node) -> Pair | None:
    left, right = node.parents[:2]
    x, y = orders[left], orders[right]
    if x is None or y is None:
        return None
    if node.op == "conv_general_dilated":
        axes = [params_of(node)["dimension_numbers"].rhs_spec[1]]
    else:
        axes = dot_axes(node)[0][1]
    count = orders.growth(right, axes)
    natures = orders.nature(left), orders.nature(right)
    if left is right:
        return both((x.typical * 2).grown(count))
    if natures == ("weight", "weight") and orders.nature(node) == "weight":
        aligned = (x.aligned + y.aligned).grown(count)
        typical = (x.typical + y.typical).grown(count * HALF)
        return Pair(aligned, orders.larger(aligned, typical))
    pairs = [(x, y), (y, x)]
    weights = [p for p, nature in zip(pairs, natures, strict=True) if nature == "weight"]
    if not weights:
        return both((x.typical + y.typical).grown(count))
    # Of two weights, as a latent and a matrix, the matrix has the smaller coordinates.
    weight, act = weights[0]
    if len(weights) > 1 and orders.larger(weight.aligned, act.aligned) is weight.aligned:
        weight, act = weights[1]
    summed = orders.larger(weight.aligned.grown(count), weight.typical.grown(count * HALF))
    return both(summed + act.typical)


def _counted(node: Node) -> Node:
    """The value that an array of integers repeats along other axes."""
    while node.op in ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze"):
        node = node.parents[0]
    return node


Row = Callable[[Orders, Node], Pair | None]


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}

    def put(row: Row, names: str) -> None:
        rows.update(dict.fromkeys(names.split(), row))

    put(
        _none,
        "gt lt ge le eq ne sign is_finite not and or xor argmax argmin iota random_bits "
        "random_wrap random_unwrap random_seed random_fold_in random_split threefry2x32 "
        "shift_right_logical shift_left shift_right_arithmetic population_count reduce_and "
        "reduce_or reduce_xor rng_bit_generator rng_uniform random_gamma clz bitcast_convert_type "
        "axis_index create_token eq_to lt_to le_to nextafter random_clone empty empty2",
    )
    put(
        _same,
        "convert_element_type copy copy_p neg reduce_precision stop_gradient optimization_barrier "
        "sharding_constraint name pvary real imag conj mesh_cast broadcast_in_dim reshape squeeze "
        "expand_dims transpose slice dynamic_slice rev stack pad split sort gather psum_invariant "
        "all_gather all_to_all ppermute shard unshard tile layout_constraint pbroadcast pmean "
        "device_put unstack broadcast_to to_edtype from_edtype reshard unvary",
    )
    put(
        _size,
        "abs reduce_max reduce_min cummax cummin top_k approx_top_k reduce_window_max pmax "
        "reduce_window_min select_and_gather_add pmin",
    )
    put(
        _nonlinear,
        "exp exp2 log log1p expm1 tanh logistic sin cos tan asin acos atan sinh cosh asinh acosh "
        "atanh erf erfc erf_inv round floor ceil clamp atan2 rem lgamma digamma igamma igammac "
        "reduce_prod cumprod cumlogsumexp bessel_i0e bessel_i1e regularized_incomplete_beta "
        "polygamma zeta complex log2",
    )
    put(_fourier, "fft")
    put(_times, "mul")
    put(_over, "div")
    put(_integer_power, "integer_pow")
    put(_any_power, "pow")
    for name, exponent in (
        ("sqrt", HALF),
        ("rsqrt", -HALF),
        ("square", Fraction(2)),
        ("cbrt", Fraction(1, 3)),
    ):
        rows[name] = _power(exponent)
    put(_reduce_sum, "reduce_sum cumsum reduce_window_sum psum")
    put(_contraction, "dot_general ragged_dot_general ragged_dot conv_general_dilated")
    put(_sum_of(lambda node: node.parents), "add sub add_any concatenate max min")
    put(_sum_of(lambda node: node.parents[1:]), "select_n choice")
    put(_sum_of(lambda node: node.parents[:2]), "dynamic_update_slice")
    put(
        _sum_of(lambda node: node.parents[::2]),
        "scatter scatter-add scatter_add scatter_min scatter_max scatter-min scatter-max "
        "scatter-sub scatter_sub",
    )
    return rows


ROWS: Mapping[str, Row] = _rows()
"""One row a primitive."""
_KEEPS_NUMBERS = frozenset(
    "broadcast_in_dim reshape squeeze expand_dims transpose slice dynamic_slice copy rev "  # noqa: SIM905
    "stop_gradient optimization_barrier sharding_constraint reduce_max reduce_min gather".split()
)
_OF_NUMBERS = frozenset(
    "add sub mul div neg sqrt rsqrt square integer_pow pow exp log exp2 max min tanh abs sign "  # noqa: SIM905
    "floor ceil round convert_element_type select_n gt lt ge le eq ne rem not and or is_finite "
    "cbrt log1p expm1 logistic sin cos".split()
)


def _is_floating(node: Node) -> bool:
    dtype = getattr(node.types[0], "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, np.inexact)


def _one_number(values: Sequence[Any]) -> tuple[Any, ...] | None:
    """The number that all elements of a constant are, at each size."""
    found = []
    for value in values:
        if getattr(value, "size", 1) > 10**6 or _is_abstract(value):
            return None
        array = np.asarray(value)
        if array.size == 0 or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
            return None
        if not (array == array.flat[0]).all():
            return None
        found.append(array.flat[0])
    return tuple(found)


def _is_abstract(value: Any) -> bool:
    """True of what has no numbers that can be read: what is being traced, and random keys."""
    if isinstance(value, jax.Array) and not is_traced(value):
        return jnp.issubdtype(value.dtype, jax.dtypes.extended)
    return not isinstance(value, np.ndarray | np.generic | bool | int | float | complex)


def _sizes_of(flat: Flat) -> list[Growth]:
    """The growths of all axes of a program, the most frequent first."""
    found: collections.Counter[Growth] = collections.Counter()
    for node in flat.nodes:
        for axis in zip(*node.shapes, strict=True):
            growth = of_sizes(axis)
            if growth:
                found[growth] += 1
    return [growth for growth, _ in found.most_common(24)]


def direction_of(flat: Flat) -> int:
    """1 if delta is larger than base, -1 if it is smaller."""
    for node in flat.inputs:
        for base, delta, *_ in zip(*node.shapes, strict=True):
            if base != delta:
                return 1 if delta > base else -1
    return 1
