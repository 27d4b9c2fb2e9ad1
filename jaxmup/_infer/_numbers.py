"""Constants of a program all of whose elements are one number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._check import is_traced
from jaxmup._program import Flat, Node, bind

Number: TypeAlias = tuple[Any, ...]
"""A number at each size."""


def numbers(flat: Flat) -> Mapping[Node, Number]:
    """The number that all elements of a value are, of the values that no input has a part in."""
    known = _Numbers()
    for node in flat.nodes:
        number = known.of(node)
        if number is not None:
            known.found[node] = number
    return known.found


class _Numbers:
    """Numbers that are known so far."""

    def __init__(self) -> None:
        self.found: dict[Node, Number] = {}
        self._evaluated: dict[Any, Any] = {}

    def of(self, node: Node) -> Number | None:
        """That of a value all of whose parents are known, if they are."""
        if node.op == "constant":
            assert node.value is not None
            return _one_number(node.value)
        if node.output or not node.parents or not node.equations:
            return None
        if jnp.issubdtype(node.types[0].dtype, np.complexfloating):
            return None
        values = [self.found[parent] for parent in node.parents if parent in self.found]
        if len(values) < len(node.parents):
            return None
        if node.op in _KEEPS_NUMBERS:
            return values[0]
        if node.op == "reduce_sum":
            return _summed(node, values[0])
        if node.op not in _OF_NUMBERS:
            return None
        return tuple(
            self._evaluate(node, i, [value[i] for value in values])
            for i in range(len(node.equations))
        )

    def _evaluate(self, node: Node, size: int, values: Sequence[Any]) -> Any:
        equation = node.equations[size]
        dtypes = tuple(parent.types[0].dtype for parent in node.parents)
        key = (node.op, str(equation.params), dtypes, tuple(map(str, values)))
        if key not in self._evaluated:
            args = [np.asarray(v, dtype) for v, dtype in zip(values, dtypes, strict=True)]
            with jax.ensure_compile_time_eval():
                self._evaluated[key] = np.asarray(bind(equation, args)[0]).flat[0]
        return self._evaluated[key]


def _summed(node: Node, number: Number) -> Number:
    counts = [math.prod(shape) for shape in node.parents[0].shapes]
    left = [math.prod(shape) for shape in node.shapes]
    return tuple(
        value * (count // rest) for value, count, rest in zip(number, counts, left, strict=True)
    )


_KEEPS_NUMBERS = frozenset(
    "broadcast_in_dim reshape squeeze expand_dims transpose slice dynamic_slice copy rev "  # noqa: SIM905
    "stop_gradient optimization_barrier sharding_constraint reduce_max reduce_min gather".split()
)
_OF_NUMBERS = frozenset(
    "add sub mul div neg sqrt rsqrt square integer_pow pow exp log exp2 max min tanh abs sign "  # noqa: SIM905
    "floor ceil round convert_element_type select_n gt lt ge le eq ne rem not and or is_finite "
    "cbrt log1p expm1 logistic sin cos".split()
)


def _one_number(values: Sequence[Any]) -> Number | None:
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
