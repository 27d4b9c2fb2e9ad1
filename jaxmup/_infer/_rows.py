"""Rows: how the result of each operation grows with what it is made of."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from jaxmup._infer._dims import are_same, dot_axes, params_of
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._infer._order import HALF, ZERO, Known, Pair, both
from jaxmup._infer._selections import sum_of_exponentials
from jaxmup._program import Node

_BESIDE = "a term of another order is beside it"


def _none(_: Known, node: Node) -> Pair:
    return both(ZERO)


def _same(known: Known, node: Node) -> Pair | None:
    return known[node.parents[0]]


def _size(known: Known, node: Node) -> Pair | None:
    """Of absolute values and extrema: the terms of their sums all have one sign."""
    pair = known[node.parents[0]]
    return None if pair is None else both(pair.typical)


def _nonlinear(known: Known, node: Node) -> Pair:
    for parent in node.parents:
        known.require(node, parent, f"`{node.op}` takes it")
    pair = known[node.parents[0]] if node.parents else None
    # Weights that are rounded stay a random matrix.
    return pair if pair is not None and known.nature(node) == "weight" else both(ZERO)


def _log(known: Known, node: Node) -> Pair:
    """Of a sum of exponentials it grows as the logarithm of their number, which is no power."""
    if sum_of_exponentials(node) is not None:
        return both(ZERO)
    return _nonlinear(known, node)


def _power(exponent: Fraction) -> Callable[[Known, Node], Pair | None]:
    def row(known: Known, node: Node) -> Pair | None:
        pair = known[node.parents[0]]
        return None if pair is None else both(pair.typical * exponent)

    return row


def _integer_power(known: Known, node: Node) -> Pair | None:
    return _power(Fraction(params_of(node)["y"]))(known, node)


def _any_power(known: Known, node: Node) -> Pair | None:
    exponent = known.uniform.get(node.parents[1])
    if exponent is None or len(set(map(float, exponent))) > 1:
        return _nonlinear(known, node)
    return _power(Fraction(float(exponent[0])).limit_denominator(64))(known, node)


def _index(known: Known, node: Node) -> Pair:
    """Of numbers that count along axes: the last is as large as they are."""
    params = params_of(node)
    if node.op == "iota":
        return both(ZERO.grown(known.growth(node, [params["dimension"]])))
    return both(ZERO.grown(known.growth(node.parents[0], params["axes"])))


def _place_of_largest(known: Known, node: Node) -> Pair | None:
    parent = node.parents[0]
    if not node.output:
        return _size(known, node)
    return both(ZERO.grown(known.growth(parent, [len(parent.shapes[0]) - 1])))


def _bounded(known: Known, node: Node) -> Pair | None:
    """Of integers that others bound: the smaller of the two orders."""
    value, bound = node.parents[-2:]
    x, y = known[value], known[bound]
    if x is None or y is None:
        return x
    return x if known.larger(x.typical, y.typical) is y.typical else y


def _times(known: Known, node: Node) -> Pair | None:
    left, right = node.parents
    x, y = known[left], known[right]
    if x is None or y is None:
        return None
    if are_same(left, right):  # a square, whose terms all have one sign
        return both(x.typical * 2)
    return Pair(x.aligned + y.aligned, x.typical + y.typical)


def _over(known: Known, node: Node) -> Pair | None:
    x, y = (known[parent] for parent in node.parents)
    if x is None or y is None:
        return x
    if known.shares.is_softmax(node):  # the largest is of order 0, as it is once one is chosen
        return both(ZERO)
    return Pair(x.aligned - y.typical, x.typical - y.typical)


def _sum_of(select: Callable[[Node], Sequence[Node]]) -> Callable[[Known, Node], Pair | None]:
    def row(known: Known, node: Node) -> Pair | None:
        terms = [term for term in select(node) if known[term] is not None]
        kept = [term for term in terms if not known.is_small(term)]
        if node.op == "select_n" and known.nature(node) != "constant":
            kept = [term for term in kept if known.nature(term) != "constant"]
        pairs = [(term, pair) for term in kept or terms[:1] if (pair := known[term]) is not None]
        if not pairs:
            return None
        nature = known.nature(node)
        if nature == "weight":  # a threshold does not say how a matrix grows
            pairs.sort(key=lambda each: known.nature(each[0]) != "weight")
        (_, first), *others = pairs
        typical = first.typical
        for term, pair in others:
            if nature == "weight" and known.nature(term) == nature:
                known.equate(pair.aligned - first.aligned, term, node, _BESIDE)
            elif nature != "constant":
                known.equate(pair.typical - typical, term, node, _BESIDE)
            typical = known.larger(typical, pair.typical)
        if any(map(known.is_tiny, terms)):
            known.floor(typical)
        return Pair(first.aligned, typical)

    return row


def _reduce_sum(known: Known, node: Node) -> Pair | None:
    x = node.parents[0]
    pair = known[x]
    params = params_of(node)
    if "window_dimensions" in params:
        windows = zip(*(each.params["window_dimensions"] for each in node.equations), strict=True)
        return None if pair is None else _summed(known, pair, sum(map(of_sizes, windows), NONE))
    axes = params["axes"] if "axes" in params else (params["axis"],) if "axis" in params else ()
    if pair is None:
        return None
    count = known.shares.count(x, axes)
    weighed = _weighed_by_table(known, x, axes)
    if weighed is not None and count:
        table, value = weighed
        order = known[value]
        assert order is not None
        return both(order.typical.grown(known.sum_of_table(table, axes, node, count)))
    return _summed(known, pair, count)


def _is_as_long(one: Node, other: Node, axes: Sequence[int]) -> bool:
    shapes = zip(one.shapes, other.shapes, strict=True)
    return all(mine[axis] == its[axis] for mine, its in shapes for axis in axes)


def _weighed_by_table(known: Known, node: Node, axes: Sequence[int]) -> tuple[Node, Node] | None:
    """The table and the value that something is the product of, with numbers all along axes."""
    while node.op in ("convert_element_type", "neg", "copy"):
        node = node.parents[0]
    if node.op != "mul":
        return None
    pairs = (node.parents, node.parents[::-1])
    return next(
        (
            (table, value)
            for table, value in pairs
            if table in known.shares.tables.met
            and len(table.shapes[0]) == len(node.shapes[0])
            and _is_as_long(table, node, axes)
            and known[table] is not None
            and known[value] is not None
            and known.nature(value) == "activation"
        ),
        None,
    )


def _summed(known: Known, pair: Pair, count: Growth) -> Pair:
    aligned = pair.aligned.grown(count)
    return Pair(aligned, known.larger(aligned, pair.typical.grown(count * HALF)))


def _fourier(known: Known, node: Node) -> Pair | None:
    ndim, number = len(node.shapes[0]), len(params_of(node)["fft_lengths"])
    if known.growth(node.parents[0], range(ndim - number, ndim)):
        known.unread.setdefault("fft", node)  # over the width: sums that are aligned in no way
    return known[node.parents[0]]


def _contraction(known: Known, node: Node) -> Pair | None:
    left, right = node.parents[:2]
    x, y = known[left], known[right]
    if x is None or y is None:
        return None
    if node.op == "conv_general_dilated":
        count = known.growth(right, params_of(node)["dimension_numbers"].rhs_spec[1:])
    else:
        count = known.shares.count_of_product(node)
    natures = known.nature(left), known.nature(right)
    if are_same(left, right):
        return both((x.typical * 2).grown(count))
    if natures == ("weight", "weight") and known.nature(node) == "weight":
        aligned = (x.aligned + y.aligned).grown(count)
        typical = (x.typical + y.typical).grown(count * HALF)
        return Pair(aligned, known.larger(aligned, typical))
    if known.nature(node) == "weight":  # whose numbers a table mixes
        position = natures.index("constant")
        table, axes = node.parents[position], _contracted(node)[position]
        weight = (y, x)[position]
        return Pair(
            weight.aligned.grown(known.sum_of_table(table, axes, node, count)),
            weight.typical.grown(known.norm_of_table(table, axes, node, count)),
        )
    pairs = [(x, y), (y, x)]
    weights = [p for p, nature in zip(pairs, natures, strict=True) if nature == "weight"]
    if not weights:
        for table, value, axes in zip((left, right), (y, x), _contracted(node), strict=True):
            if count and axes and table in known.shares.tables.met:
                return both(value.typical.grown(known.sum_of_table(table, axes, node, count)))
        return both((x.typical + y.typical).grown(count))
    # Of two weights, as a latent and a matrix, the matrix has the smaller coordinates.
    weight, act = weights[0]
    if len(weights) > 1 and known.larger(weight.aligned, act.aligned) is weight.aligned:
        weight, act = weights[1]
    summed = known.larger(weight.aligned.grown(count), weight.typical.grown(count * HALF))
    return both(summed + act.typical)


def _contracted(node: Node) -> tuple[Sequence[int], Sequence[int]]:
    """The axes of both operands that a product sums over."""
    if node.op == "conv_general_dilated":
        spec = params_of(node)["dimension_numbers"].rhs_spec[1:]
        return (), spec
    return dot_axes(node)[0]


def _refuse_growing(known: Known, node: Node) -> None:
    """Notes a matrix that is larger at other sizes."""
    matrix = node.parents[0]
    if known.growth(matrix, range(len(matrix.shapes[0]))[-2:]):
        known.unread.setdefault(node.op, node)


def _matrix(*degrees: Fraction | int) -> Callable[[Known, Node], Pair | None]:
    """Of what is made of whole matrices: to some degree in them, one for each result.

    How it grows with their sizes nobody has said.
    """

    def row(known: Known, node: Node) -> Pair | None:
        _refuse_growing(known, node)
        pair = known[node.parents[0]]
        if not degrees:
            return _nonlinear(known, node)
        return None if pair is None else both(pair.typical * degrees[node.output])

    return row


def _folded(known: Known, node: Node) -> Pair:
    """Of what a function of two is made of many by: of one size, however many must stay."""
    if known.growth(node.parents[0], range(len(node.parents[0].shapes[0]))):
        known.unread.setdefault(node.op, node)
    return _nonlinear(known, node)


def _solution(known: Known, node: Node) -> Pair | None:
    """Of the solution of linear equations, as of a quotient."""
    matrix, right = (known[parent] for parent in node.parents)
    _refuse_growing(known, node)
    if matrix is None or right is None:
        return right
    return both(right.typical - matrix.typical)


def _multiplied(known: Known, node: Node) -> Pair | None:
    """Of a product here and there: what it is multiplied by must be of order 0."""
    pair = known[node.parents[2]]
    if pair is not None:
        known.equate(pair.typical, node.parents[2], node, "the rest stays beside it")
    return known[node.parents[0]]


Row = Callable[[Known, Node], Pair | None]


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}

    def put(row: Row, names: str) -> None:
        rows.update(dict.fromkeys(names.split(), row))

    put(
        _none,
        "gt lt ge le eq ne sign is_finite not and or xor random_bits "
        "random_wrap random_unwrap random_seed random_fold_in random_split threefry2x32 "
        "shift_right_logical shift_left shift_right_arithmetic population_count reduce_and "
        "reduce_or reduce_xor rng_bit_generator rng_uniform random_gamma clz bitcast_convert_type "
        "lu_pivots_to_permutation axis_index create_token eq_to lt_to le_to nextafter "
        "random_clone empty empty2",
    )
    put(
        _same,
        "convert_element_type copy copy_p neg reduce_precision stop_gradient optimization_barrier "
        "sharding_constraint name pvary real imag conj mesh_cast broadcast_in_dim reshape squeeze "
        "expand_dims transpose slice dynamic_slice rev stack pad split sort gather psum_invariant "
        "all_gather all_to_all ppermute shard unshard tile layout_constraint pbroadcast pmean "
        "all_gather_invariant all_gather_reduced with_memory_space_constraint zeros_like "
        "device_put unstack broadcast_to to_edtype from_edtype reshard unvary",
    )
    put(
        _size,
        "abs reduce_max reduce_min cummax cummin top_k approx_top_k reduce_window_max pmax "
        "reduce_window_min select_and_gather_add pmin",
    )
    put(
        _nonlinear,
        "exp exp2 log1p expm1 tanh logistic sin cos tan asin acos atan sinh cosh asinh acosh "
        "atanh erf erfc erf_inv round floor ceil clamp atan2 rem lgamma digamma igamma igammac "
        "reduce_prod cumprod cumlogsumexp bessel_i0e bessel_i1e regularized_incomplete_beta "
        "polygamma zeta complex log2 polynomial one_minus_square igamma_grad_a",
    )
    put(_log, "log")
    put(_fourier, "fft")
    put(_multiplied, "scatter-mul scatter_mul")
    put(_matrix(HALF), "cholesky")
    put(_matrix(0, 1), "qr")
    put(_matrix(0, 1), "eigh")
    put(_matrix(1, 0, 0), "svd")
    put(_matrix(), "lu eig schur hessenberg geqrf householder_product custom_linear_solve")
    put(_folded, "reduce reduce_window")
    put(_solution, "triangular_solve")
    put(_index, "argmax argmin iota")
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
    put(_reduce_sum, "reduce_sum cumsum reduce_window_sum psum reduce_scatter")
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
OF_INTEGERS: Mapping[str, Row] = {
    **ROWS,
    **dict.fromkeys(("rem", "clamp"), _bounded),
    **dict.fromkeys(("top_k", "approx_top_k"), _place_of_largest),
}
"""The same for integers, which nothing is asked of but what they are as numbers."""
