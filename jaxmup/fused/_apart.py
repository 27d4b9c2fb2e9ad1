"""A proof that a program keeps layers apart: each layer's results follow from its own inputs.

The program is interpreted over what is known of each value. One that has layers is known by the
axis that they lie along, which is followed through every operation. Any other must be the same for
all layers, or a layer would see how many others there are: of it are known the axes along which it
is uniform, since a broadcast gives it an axis of layers later. What has no rule is refused.
"""

import math
from collections.abc import Callable, Sequence

from jaxmup._program import (
    Atom,
    Choice,
    ClosedJaxpr,
    Equation,
    Loop,
    While,
    aval_of,
    called,
    interpret,
    is_call,
)

Where = int | frozenset[int]  # the axis of layers, or the axes along which an array is uniform
Shapes = list[tuple[int, ...]]
Rule = Callable[[Equation, list[Where], Shapes], Sequence[Where]]


class MixesLayersError(ValueError):
    """An equation that mixes layers, or that is not known to keep them apart."""


def axes_of_layers(program: ClosedJaxpr, inputs: Sequence[Where]) -> list[Where]:
    """The axis of layers of each output, or the axes along which it is uniform.

    Args:
      program: The traced program.
      inputs: Axis of layers of each input, or the axes along which it is uniform.

    Raises:
      MixesLayersError: naming the operation that mixes layers.
    """

    def step(equation: Equation, known: list[Where]) -> list[Where]:
        through = _through(equation, known, [aval_of(atom).shape for atom in equation.invars])
        return [w if isinstance(w, frozenset) else int(w) for w in through]  # NumPy's are no `int`

    # The values of an array that the program holds may differ along each axis.
    constants: list[Where] = [frozenset()] * len(program.consts)
    return interpret(program, inputs, step, literal=_everywhere, constants=constants)


def _through(equation: Equation, known: list[Where], shapes: Shapes) -> Sequence[Where]:
    name = equation.primitive.name
    if name in ELEMENTWISE:
        axis = _common(name, known, shapes)
        return [axis] * len(equation.outvars)
    if is_call(equation):
        return axes_of_layers(called(equation), known)
    # Any operation on values that all layers share makes another such value. The few that have a
    # rule for these too keep track of where they are uniform; else that is forgotten.
    if name not in _OF_SHARED and not any(isinstance(w, int) for w in known):
        return [frozenset() if aval_of(v).shape else _everywhere(v) for v in equation.outvars]
    rule = _RULES.get(name) or (_reduce if name.startswith(("reduce_", "arg")) else None)
    if rule is None:
        raise MixesLayersError(f"`{name}` is not known to keep layers apart")
    return rule(equation, known, shapes)


def _common(name: str, known: Sequence[Where], shapes: Sequence[tuple[int, ...]]) -> Where:
    # Scalars go with everything, as `select_n` and `clamp` take them.
    arrays = [(w, shape) for w, shape in zip(known, shapes, strict=True) if shape]
    axes = {w for w, _ in arrays if isinstance(w, int)}
    if not axes:
        return _shared_axes([w for w, _ in arrays])
    axis = axes.pop()
    for w, shape in arrays:
        if w != axis and not (isinstance(w, frozenset) and (axis in w or shape[axis] == 1)):
            raise MixesLayersError(f"`{name}` brings together arrays of several layers")
    return axis


def _reduce(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    axis, axes = _one(known), equation.params["axes"]
    if axis in axes:
        raise MixesLayersError(f"`{equation.primitive.name}` takes all layers together")
    return [axis - sum(a < axis for a in axes)] * len(equation.outvars)


def _broadcast(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    dims, shape = equation.params["broadcast_dimensions"], equation.params["shape"]
    if isinstance(known[0], int):
        return [dims[known[0]]]
    # An axis is uniform if it is new, or stretched from length 1, or was uniform before.
    kept = {d for i, d in enumerate(dims) if i not in known[0] and shapes[0][i] == shape[d]}
    return [frozenset(range(len(shape))) - kept]


def _reshape(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    new, old = aval_of(equation.outvars[0]).shape, shapes[0]
    if not isinstance(known[0], int):
        return [_everywhere(equation.outvars[0]) if len(known[0]) == len(old) else frozenset()]
    axis = known[0]
    # The axis is still one of its own if as many elements as before come in front of it.
    for i, size in enumerate(new):
        if size == old[axis] and math.prod(new[:i]) == math.prod(old[:axis]):
            return [i]
    raise MixesLayersError("`reshape` takes layers together with another axis")


def _transpose(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    return [equation.params["permutation"].index(_one(known))]


def _squeeze(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    axis = _one(known)
    return [axis - sum(a < axis for a in equation.params["dimensions"])]


def _slice(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    axis = _one(known)
    if aval_of(equation.outvars[0]).shape[axis] != shapes[0][axis]:
        raise MixesLayersError(f"`{equation.primitive.name}` takes some of the layers")
    return [axis]


def _dot(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    contracted, batch = equation.params["dimension_numbers"]
    for side, axis in enumerate(known):
        if isinstance(axis, int) and axis in contracted[side]:
            raise MixesLayersError("`dot_general` sums over layers")
    places = {
        batch[side].index(axis)
        for side, axis in enumerate(known)
        if isinstance(axis, int) and axis in batch[side]
    }
    # As a free axis of one operand, layers would meet all rows of the other; in a batch axis of
    # both, a layer meets the same layer.
    both = all(isinstance(axis, int) for axis in known)
    if len(places) == 1 and both:
        return [places.pop()]
    raise MixesLayersError("`dot_general` multiplies layers with each other")


def _along(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    """Operations along one axis: a cumulative sum, a sort, a reversal, a join."""
    params, axis = equation.params, _common(equation.primitive.name, known, shapes)
    acted = params.get("axis", params.get("dimension", params.get("dimensions")))
    if axis in (acted if isinstance(acted, tuple) else (acted,)):
        raise MixesLayersError(f"`{equation.primitive.name}` goes along the layers")
    return [axis] * len(equation.outvars)


def _branch(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    if isinstance(known[0], int):
        raise MixesLayersError("`cond` decides for all layers by one of them")
    _, operands = Choice(equation).split(known)
    found = [axes_of_layers(branch, operands) for branch in Choice(equation).branches]
    return [_joined(ways) for ways in zip(*found, strict=True)]


def _repeat(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    """A `while` whose number of iterations is no layer's own."""
    loop = While(equation)
    of_test, of_body, carry = loop.split(known)
    # A value that starts as shared by all layers may have their axis after an iteration. Each round
    # lets what is known of the carry go through one more, until it stays as it is.
    for _ in range(len(carry) + 1):
        found = axes_of_layers(loop.body, [*of_body, *carry])
        joined = [_joined(pair) for pair in zip(carry, found, strict=True)]
        if joined == carry:
            axes_of_layers(loop.test, [*of_test, *carry])
            return carry
        carry = joined
    raise MixesLayersError("`while` moves the axis of layers")


def _scan(equation: Equation, known: list[Where], shapes: Shapes) -> list[Where]:
    loop = Loop.of(equation)
    constants, carry, scanned = loop.split(known)
    if 0 in [w for w in scanned if isinstance(w, int)]:
        raise MixesLayersError("`scan` goes through the layers")
    slices = [_shifted(w, -1) for w in scanned]
    # Until what is known of the carry stays as it is, as in `_repeat`.
    for _ in range(len(carry) + 1):
        found = axes_of_layers(loop.body, [*constants, *carry, *slices])
        joined = [_joined(pair) for pair in zip(carry, found[: loop.carry], strict=True)]
        if joined == carry:
            return [*carry, *(_shifted(w, 1) for w in found[loop.carry :])]
        carry = joined
    raise MixesLayersError("`scan` moves the axis of layers")


def _joined(ways: Sequence[Where]) -> Where:
    axes = {w for w in ways if isinstance(w, int)}
    if len(axes) > 1:
        raise MixesLayersError("layers lie along different axes")
    if not axes:
        return _shared_axes(ways)
    axis = axes.pop()
    if any(isinstance(w, frozenset) and axis not in w for w in ways):
        raise MixesLayersError("an array of several layers is chosen as a whole")
    return axis


def _shared_axes(ways: Sequence[Where]) -> frozenset[int]:
    """The axes along which all of these arrays are uniform; none has an axis of layers."""
    sets = [w for w in ways if isinstance(w, frozenset)]
    return frozenset.intersection(*sets) if sets else frozenset()


def _shifted(w: Where, by: int) -> Where:
    return w + by if isinstance(w, int) else frozenset(a + by for a in w if a + by >= 0)


def _one(known: Sequence[Where]) -> int:
    (axis,) = {w for w in known if isinstance(w, int)}
    return axis


def _everywhere(atom: Atom) -> frozenset[int]:
    return frozenset(range(len(aval_of(atom).shape)))


ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp conj
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
    ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter
    not one_minus_square or pow real reduce_precision rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh
    xor
    """.split()  # noqa: SIM905
)
_OF_SHARED = frozenset({"broadcast_in_dim", "reshape", "cond", "scan", "while"})
_RULES: dict[str, Rule] = {
    "argsort": _along,
    "broadcast_in_dim": _broadcast,
    "concatenate": _along,
    "cond": _branch,
    "cumlogsumexp": _along,
    "cummax": _along,
    "cummin": _along,
    "cumprod": _along,
    "cumsum": _along,
    "dot_general": _dot,
    "reshape": _reshape,
    "rev": _along,
    "scan": _scan,
    "slice": _slice,
    "sort": _along,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "while": _repeat,
}
