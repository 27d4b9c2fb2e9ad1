"""Tables: the constants of a program that are arrays of unlike numbers, looked at at each size."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._check import is_traced
from jaxmup._infer._dims import growing
from jaxmup._infer._numbers import Number
from jaxmup._program import Flat, Node, bind

Arrays: TypeAlias = tuple[np.ndarray, ...]
"""A table at base, delta and the other sizes."""
_MOST = 10**6  # elements of an array that is looked at


class Tables:
    """Values that follow from no input, computed where they meet one that does.

    Args:
      flat: The program at several sizes.
      numbers: The constants all of whose elements are one number, which are no tables.

    Attributes:
      met: The tables, each with the first value that is made of it and of an input.
    """

    def __init__(self, flat: Flat, numbers: Mapping[Node, Number]):
        self.met: dict[Node, Node] = {}
        self._known: dict[Node, Arrays | None] = {}
        self._evaluated: dict[object, np.ndarray | None] = {}
        self._largest_singular: dict[int, float] = {}
        constant: set[Node] = set()
        for node in flat.nodes:
            if _is_constant(node, constant):
                constant.add(node)
                continue
            for parent in node.parents:
                if parent in constant and parent not in numbers:
                    self.met.setdefault(parent, node)

    def few(self, node: Node) -> frozenset[int]:
        """The axes that grow along which the number of elements that are not zero does not."""
        arrays = self._arrays(node)
        return frozenset(
            axis
            for axis in (growing(node) if arrays else ())
            if len({int(np.count_nonzero(x, axis).max(initial=0)) for x in arrays or ()}) == 1
        )

    def largest(self, node: Node) -> list[float] | None:
        """The largest absolute value at each size that can be looked at."""
        return self._measured(node, lambda x: np.abs(x).max())

    def typical(self, node: Node) -> list[float] | None:
        """The root of the mean square of the elements that are not zero."""
        return self._measured(node, lambda x: np.sqrt(np.mean(x[x != 0] ** 2)))

    def sums(self, node: Node, axes: Collection[int]) -> list[float] | None:
        """The most that sums over axes multiply values by: the largest sum of absolute values.

        A matrix multiplies the root mean square of values by its largest singular value, times the
        root of inputs over outputs. It is that where it grows less, as of a rotation, a sum of
        whose numbers is large while no values are large along all of its rows.
        """
        over = tuple(axes)
        sums = self._measured(node, lambda x: np.abs(x).sum(over).max())
        if sums is None or len(node.shapes[0]) != 2 or len(over) != 1 or len(growing(node)) != 2:
            return sums
        inputs, outputs = over[0], 1 - over[0]

        singular = self._singular(self._arrays(node) or ())
        shapes = node.shapes[: len(sums)]
        root = [math.sqrt(shape[inputs] / shape[outputs]) for shape in shapes]
        typical = [x * y for x, y in zip(singular, root, strict=True)]
        lengths = [shape[inputs] for shape in shapes]
        far = max(range(len(sums)), key=lambda i: abs(lengths[i] - lengths[0]))
        ratios = typical[far] / typical[0], sums[far] / sums[0]
        is_less = ratios[0] < ratios[1] if lengths[far] > lengths[0] else ratios[0] > ratios[1]
        return typical if is_less else sums

    def norms(self, node: Node, axes: Iterable[int]) -> list[float] | None:
        """The largest root of a sum of squares over axes."""
        over = tuple(axes)
        return self._measured(node, lambda x: np.sqrt((x**2).sum(over)).max())

    def _singular(self, arrays: Arrays) -> list[float]:
        """The largest singular value at each size, computed once for all layers that share it."""
        for x in arrays:
            if id(x) not in self._largest_singular:
                self._largest_singular[id(x)] = float(np.linalg.norm(np.asarray(x, np.float64), 2))
        return [self._largest_singular[id(x)] for x in arrays]

    def _measured(self, node: Node, measure: Callable[[np.ndarray], float]) -> list[float] | None:
        arrays = [np.asarray(x, np.float64) for x in self._arrays(node) or ()]
        if not arrays or not all(x.any() and np.isfinite(x).all() for x in arrays):
            return None
        return [float(measure(x)) for x in arrays]

    # ---- computed

    def _arrays(self, node: Node) -> Arrays | None:
        """A table at base, delta and the other sizes, up to the first that is too large."""
        is_table = node in self.met or node.op == "constant"
        found = self._at_each_size(node) if is_table else None
        return found if found is not None and len(found) > 1 else None

    def _at_each_size(self, node: Node) -> Arrays | None:
        if node not in self._known:
            self._known[node] = self._computed(node)
        return self._known[node]

    def _computed(self, node: Node) -> Arrays | None:
        if node.op == "constant":
            values = zip(node.value or (), node.types, strict=False)
            return _leading([self._held(value, kind.dtype) for value, kind in values])
        if node.op not in _COMPUTED:
            return None
        parents = [self._at_each_size(parent) for parent in node.parents]
        known = [parent for parent in parents if parent is not None]
        if len(known) < len(parents):
            return None
        sizes = range(min([len(node.equations), *map(len, known)]))
        return _leading([self._evaluate(node, i, [x[i] for x in known]) for i in sizes])

    def _held(self, value: object, dtype: np.dtype) -> np.ndarray | None:
        """An array that the program holds, if it is one of numbers, and not too large."""
        if not _is_real(dtype) or is_traced(value) or np.size(value) > _MOST:  # type: ignore[arg-type]
            return None
        # What several layers hold is looked at once.
        return self._evaluated.setdefault(id(value), np.asarray(value, dtype))

    def _evaluate(self, node: Node, size: int, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        if math.prod(node.shapes[size]) > _MOST or not _is_real(node.types[size].dtype):
            return None
        equation = node.equations[size]
        key = (node.op, node.output, str(equation.params), tuple(map(id, inputs)))
        if key not in self._evaluated:
            with jax.ensure_compile_time_eval():
                self._evaluated[key] = np.asarray(bind(equation, inputs)[node.output])
        return self._evaluated[key]


def _is_constant(node: Node, constant: set[Node]) -> bool:
    if node.parents:
        return bool(node.equations) and constant.issuperset(node.parents)
    return node.op in ("constant", "iota")


def _leading(arrays: Sequence[np.ndarray | None]) -> Arrays | None:
    """The arrays before the first that is not known."""
    known = [array is not None for array in [*arrays, None]].index(False)
    return tuple(array for array in arrays[:known] if array is not None) or None


def _is_real(dtype: np.dtype) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))


_COMPUTED = frozenset(
    "iota add sub mul div neg abs sqrt rsqrt square integer_pow pow exp exp2 log log1p expm1 max "  # noqa: SIM905
    "min tanh logistic sin cos sign floor ceil round convert_element_type select_n gt lt ge le eq "
    "ne rem not and or broadcast_in_dim reshape squeeze expand_dims transpose slice dynamic_slice "
    "copy rev concatenate pad gather cumsum cumprod reduce_sum reduce_max reduce_min dot_general "
    "stop_gradient clamp split".split()
)
"""Operations that make tables of tables."""
