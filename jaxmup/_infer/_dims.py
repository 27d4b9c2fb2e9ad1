"""Axes of a value, followed through what only moves its elements."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from jaxmup._program import Node

Dims: TypeAlias = tuple[frozenset[Any], ...]
"""For each axis of a value, what it is made of."""
EMPTY: frozenset[Any] = frozenset()


def params_of(node: Node) -> dict[str, Any]:
    """The parameters of the equation that makes a value, in the base model."""
    return node.equations[0].params if node.equations else {}


def grows(node: Node, axis: int) -> bool:
    """True if an axis differs between base and delta."""
    return node.shapes[0][axis] != node.shapes[1][axis]


def growing(node: Node) -> list[int]:
    """The axes that differ between base and delta."""
    return [axis for axis in range(len(node.shapes[0])) if grows(node, axis)]


def dot_axes(node: Node) -> tuple[Any, Any]:
    """The contracted and the batch axes of a product's two operands."""
    params = params_of(node)
    if "dimension_numbers" in params:
        return params["dimension_numbers"]
    ragged = params["ragged_dot_dimension_numbers"]
    contracted, (left, right) = ragged.dot_dimension_numbers
    # A group of rows meets a matrix of its own: the axis of groups is a batch axis of the matrices.
    return contracted, (tuple(left), (*right, *ragged.rhs_group_dimensions))


def is_product(node: Node) -> bool:
    """True of `dot_general` and its ragged kind."""
    return node.op in ("dot_general", "ragged_dot_general", "ragged_dot")


def gathered(node: Node) -> tuple[list[int], list[int], list[int]]:
    """Axes of a gather's operand: looked up, kept, and where those kept are in the result."""
    numbers = params_of(node)["dimension_numbers"]
    batching = tuple(getattr(numbers, "operand_batching_dims", ()))
    gone = (*numbers.collapsed_slice_dims, *batching)
    ndim = len(node.parents[0].shapes[0])
    window = [axis for axis in range(ndim) if axis not in gone]
    sizes, whole = params_of(node)["slice_sizes"], node.parents[0].shapes[0]
    looked_up = [axis for axis in range(ndim) if axis in gone or sizes[axis] < whole[axis]]
    return looked_up, window, list(numbers.offset_dims)


def rearranged_by(node: Node) -> tuple[int, int] | None:
    """The axis of a gather's operand of which it takes as many elements as it has.

    Returns:
      The axis of the operand, the last of several, and that of the result.
    """
    looked_up, _, offsets = gathered(node)
    operand = node.parents[0]
    old = [axis for axis in looked_up if grows(operand, axis)]
    new = [axis for axis in growing(node) if axis not in offsets]
    if not old or not new or _sizes(operand, old[-1]) != _sizes(node, new[-1]):
        return None
    return old[-1], new[-1]


def _sizes(node: Node, axis: int) -> list[int]:
    return [shape[axis] for shape in node.shapes]


def moved(node: Node, parent: int, dims: Dims) -> Dims:
    """The marks of the axes of a value, from those of one of its parents.

    Args:
      node: The value.
      parent: Position of the parent.
      dims: What the axes of the parent are made of.
    """
    if not any(dims):
        return (EMPTY,) * len(node.shapes[0])
    op, params, ndim = node.op, params_of(node), len(node.shapes[0])
    if op == "slice" and not node.equations:  # an iteration of a scan
        return dims[1:]
    if op == "stack":
        return (EMPTY, *dims)
    if op == "unstack":
        return tuple(d for axis, d in enumerate(dims) if axis != params["axis"])
    if op == "reshape":
        return _reshaped(node.parents[0].shapes, node.shapes, dims)
    if op == "transpose":
        return tuple(dims[axis] for axis in params["permutation"])
    if op == "broadcast_in_dim":
        return _placed(ndim, params["broadcast_dimensions"], dims)
    if op == "squeeze":
        return tuple(d for axis, d in enumerate(dims) if axis not in params["dimensions"])
    if op == "gather" and parent == 0:
        _, window, offsets = gathered(node)
        found = list(_placed(ndim, offsets, [dims[axis] for axis in window]))
        rearranged = rearranged_by(node)
        if rearranged is not None:
            found[rearranged[1]] = dims[rearranged[0]]
        return tuple(found)
    if op.startswith(("reduce_", "arg")) and "axes" in params:
        return tuple(d for axis, d in enumerate(dims) if axis not in params["axes"])
    if is_product(node):
        return _of_product(node, parent, dims)
    if len(dims) == ndim:
        return dims
    return (EMPTY,) * ndim


def _placed(ndim: int, positions: Sequence[int], dims: Iterable[frozenset[Any]]) -> Dims:
    found = [EMPTY] * ndim
    for position, sources in zip(positions, dims, strict=True):
        found[position] = sources
    return tuple(found)


def _of_product(node: Node, parent: int, dims: Dims) -> Dims:
    contracted, batch = dot_axes(node)
    free = [i for i in range(len(dims)) if i not in (*contracted[parent], *batch[parent])]
    kept = [dims[i] for i in free]
    ndim = len(node.shapes[0])
    if "ragged_dot_dimension_numbers" in params_of(node):
        return _placed(ndim, range(ndim - len(kept), ndim) if parent else range(len(kept)), kept)
    shared = [dims[i] for i in batch[parent]]
    before = len(shared)
    start = before if parent == 0 else ndim - len(kept)
    positions = [*range(before), *range(start, start + len(kept))]
    return _placed(ndim, positions, [*shared, *kept])


def _reshaped(old: Sequence[tuple[int, ...]], new: Sequence[tuple[int, ...]], dims: Dims) -> Dims:
    """Blocks of axes that have the same number of elements at every size correspond."""
    found = [EMPTY] * len(new[0])
    for ours, theirs in blocks(old, new):
        # An axis of one element at all sizes holds nothing of what was merged or split.
        kept = [k for k in theirs if len(theirs) == 1 or any(shape[k] > 1 for shape in new)]
        for k in kept:
            found[k] = EMPTY.union(*(dims[i] for i in ours))
    return tuple(found)


def blocks(
    old: Sequence[tuple[int, ...]], new: Sequence[tuple[int, ...]]
) -> Iterable[tuple[range, range]]:
    i = j = 0
    n, m = len(old[0]), len(new[0])
    while i < n or j < m:
        i1, j1 = min(i + 1, n), min(j + 1, m)
        while True:
            sizes = [
                (math.prod(o[i:i1]), math.prod(k[j:j1])) for o, k in zip(old, new, strict=True)
            ]
            unequal = next((pair for pair in sizes if pair[0] != pair[1]), None)
            if unequal is None or (i1 == n and j1 == m):
                break
            if (unequal[0] < unequal[1] or j1 == m) and i1 < n:
                i1 += 1
            else:
                j1 += 1
        yield range(i, i1), range(j, j1)
        i, j = i1, j1
