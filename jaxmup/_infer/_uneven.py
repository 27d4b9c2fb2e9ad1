"""Parts of one axis that grow unlike the whole, for which no one number is right."""

import collections
from collections.abc import Callable, Mapping, Sequence

from jaxmup._infer._dims import params_of
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._infer._views import Nature
from jaxmup._program import Flat, Node

Children = Mapping[Node, Sequence[Node]]


def uneven(flat: Flat, nature: Callable[[Node], Nature]) -> list[Node]:
    """Values that take a part of an axis, or join parts, that grow unlike the whole.

    Parts that are changed one by one and put back together, as by partial rotary embeddings, are
    none: the axis is used as a whole.
    """
    wrong = [
        node
        for node in flat.nodes
        if node.equations and nature(node) != "constant" and _is_uneven(node, nature)
    ]
    children: dict[Node, list[Node]] = collections.defaultdict(list)
    for node in flat.nodes if wrong else ():
        for parent in node.parents:
            children[parent].append(node)
    whole: set[Node] = set()
    for node in wrong:
        if node.op != "concatenate":
            joined = _joined_again(node, children, set(flat.outputs))
            whole |= {node, *joined} if joined else set()
    return [node for node in wrong if node not in whole]


def _is_uneven(node: Node, nature: Callable[[Node], Nature]) -> bool:
    if node.op in ("slice", "split", "dynamic_slice"):
        whole = node.parents[0]
        if whole.op == "sort":  # the first or last of all
            return False
        axes = range(len(node.shapes[0]))
        return any(_growth(whole, axis) not in (NONE, _growth(node, axis)) for axis in axes)
    if node.op == "concatenate":
        axis = params_of(node)["dimension"]
        parts = [part for part in node.parents if nature(part) != "constant"]
        return any(_growth(part, axis) != _growth(node, axis) for part in parts)
    return False


def _joined_again(part: Node, children: Children, outputs: set[Node]) -> set[Node]:
    """The places where a part of a value is put back among the others, if all of it is."""
    shapes = part.parents[0].shapes
    found: set[Node] = set()
    seen, waiting = {part}, [part]
    while waiting:
        node = waiting.pop()
        if node in outputs:
            return set()
        for child in children[node]:
            if child.op == "concatenate" and child.shapes == shapes:
                found.add(child)
            elif child.op not in _APART:
                return set()
            elif child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


def _growth(node: Node, axis: int) -> Growth:
    return of_sizes(tuple(shape[axis] for shape in node.shapes))


_APART = frozenset(
    "add sub mul neg convert_element_type copy stop_gradient slice split concatenate reshape stack "  # noqa: SIM905
    "transpose broadcast_in_dim squeeze expand_dims rev".split()
)
"""Operations that a part goes through by itself, and linearly."""
