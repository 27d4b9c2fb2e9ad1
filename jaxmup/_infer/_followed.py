"""Axes of activations that come from parameters, followed to see what becomes of them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from jaxmup._infer._dims import (
    EMPTY,
    Dims,
    dot_axes,
    gathered,
    growing,
    grows,
    is_product,
    moved,
    params_of,
)
from jaxmup._infer._growth import of_sizes
from jaxmup._infer._selections import is_positive
from jaxmup._infer._shares import Shares
from jaxmup._infer._views import Kind, Mark, Nature
from jaxmup._program import Flat, Node
from jaxmup._spec import AxisKind


class Followed:
    """The marks of the axes of all activations, and what is known of each mark.

    An axis that a parameter puts out is one of features if another sums over it, and a batch axis
    if it is chosen among, or each of its members goes its own way. That shows only later in the
    program: so it is marked where it begins.

    Args:
      flat: The program at several sizes.
      parameters: The inputs that are parameters.
      nature: What each value follows from, as far as it is known.
      shares: The axes over which values sum up to the order of one element.

    Attributes:
      origins: Of each activation, the marks of its axes.
      made_matrices: Products with a matrix that activations have made.
    """

    def __init__(
        self,
        flat: Flat,
        parameters: Collection[Node],
        nature: Mapping[Node, Nature],
        shares: Shares,
    ):
        self.nature, self.shares = nature, shares
        self.origins: dict[Node, Dims] = {}
        self.made_matrices: dict[Node, None] = {}
        self._index = {node: i for i, node in enumerate(flat.nodes)}
        self._features: set[Mark] = set()
        self._chosen: set[Mark] = set()
        self._choosing: set[Mark] = set()
        self._apart: set[Mark] = set()
        self._choices = shares.growths()
        self._members = _sizes_of_members(flat, parameters)

    def follow(self, node: Node) -> None:
        """Hands the marks of the operands of an activation on to it, and notes what they meet."""
        dims: list[frozenset[Mark]] = [EMPTY] * len(node.shapes[0])
        for position, parent in enumerate(node.parents):
            origins = self.origins.get(parent)
            if origins is None:
                continue
            if is_product(node):
                self._note_features(node, position, origins)
                self._note_made_matrix(node, position, origins)
            self._note_chosen(node, position, origins)
            if not (node.op == "gather" and position):
                new = moved(node, position, self._still_followed(node, position, origins))
                dims = [a | b for a, b in zip(dims, new, strict=True)]
        for new in self._started(node):
            dims = [a | b for a, b in zip(dims, new, strict=True)]
        for axis in self.shares.made.get(node, ()):
            self._choosing |= dims[axis]
            dims[axis] = _without_outputs(dims[axis])
        if any(dims):
            self.origins[node] = tuple(dims)

    def settled(self, kind: Kind) -> AxisKind:
        """The kind of a parameter's axis, once all is known of what became of it.

        It is features where a parameter sums over it; what is chosen or stands apart is batch.
        Scores by which something is chosen are features, also where they are what is chosen.
        """
        if not isinstance(kind, frozenset):
            return kind
        chosen = kind & ((self._chosen | self._apart) - self._choosing)
        is_apart = chosen or any(mark.kind == "batch" for mark in kind)
        return "batch" if is_apart and not kind & self._features else "output"

    def mark(self, node: Node, kind: Literal["batch", "matrix", "output"], axis: int) -> Mark:
        """The mark of an axis that begins at a value."""
        return Mark(kind, self._index[node], axis)

    def output_marks(self, node: Node, position: int) -> Dims:
        """Marks of the axes of a parameter that are as long as one that is chosen among."""
        weight = node.parents[position]
        is_any = self._choices or self._members
        if not is_any or node.op == "conv_general_dilated":
            return (EMPTY,) * len(weight.shapes[0])
        return tuple(
            frozenset({self.mark(node, "output", axis)})
            if of_sizes(sizes) in self._choices or sizes in self._members
            else EMPTY
            for axis, sizes in enumerate(zip(*weight.shapes, strict=True))
        )

    def chosen_by_product(self, node: Node, position: int) -> frozenset[int]:
        """The axes of an operand that the other one chooses among."""
        covered = self.shares.covered.get(node)
        if covered is None or covered.position == position:
            return frozenset()
        by_constants = self.nature.get(node.parents[covered.position], "constant") == "constant"
        return frozenset() if by_constants else covered.axes[position]

    def _still_followed(self, node: Node, position: int, origins: Dims) -> Dims:
        """The marks of an operand, without those of its free axes in a product of activations.

        They are features, of keys or values, whatever is summed over them.
        """
        if not is_product(node) or node in self.shares.covered:
            return origins
        if any(self.nature[parent] != "activation" for parent in node.parents):
            return origins
        batch = dot_axes(node)[1][position]
        return tuple(
            marks if axis in batch else _without_outputs(marks)
            for axis, marks in enumerate(origins)
        )

    def _started(self, node: Node) -> Iterable[Dims]:
        """The marks of the axes that a value has from the parameters in it."""
        natures = [self.nature.get(parent, "constant") for parent in node.parents]
        if "weight" not in natures:
            return
        position = natures.index("weight")
        yield moved(node, position, self.output_marks(node, position))
        if is_product(node) and "dimension_numbers" in params_of(node):
            dims = [EMPTY] * len(node.shapes[0])
            for i in range(len(dot_axes(node)[1][0])):
                dims[i] = frozenset({self.mark(node, "batch", i)})
            yield tuple(dims)
            yield self._outputs_of_matrix(node, position)

    def _note_chosen(self, node: Node, position: int, origins: Dims) -> None:
        """An axis that is summed over with weights that sum to 1, or of which a few are taken."""
        axes: Iterable[int] = ()
        parent = node.parents[position]
        if is_product(node):
            axes = self.chosen_by_product(node, position)
        elif node.op == "reduce_sum":
            axes = self.shares.over(parent, params_of(node)["axes"])
        elif node.op == "gather" and not position:
            offsets = gathered(node)[2]
            if not any(axis not in offsets for axis in growing(node)):
                axes = gathered(node)[0]
        for axis in axes:
            self._chosen |= {mark for mark in origins[axis] if mark.kind == "output"}
        if node.op == "reduce_sum" and is_positive(parent):  # of a softmax, or its logarithm
            self._choosing = self._choosing.union(*(origins[a] for a in params_of(node)["axes"]))

    def _note_features(self, node: Node, position: int, origins: Dims) -> None:
        """An axis that a weight sums over is one of features."""
        if self.nature[node.parents[1 - position]] == "weight":
            contracted, _ = dot_axes(node)
            for axis in set(contracted[position]) - self.chosen_by_product(node, position):
                self._features |= origins[axis]
            for axis in dot_axes(node)[1][position]:  # members, each with a weight of its own
                self._apart |= {mark for mark in origins[axis] if mark.kind == "output"}

    def _outputs_of_matrix(self, node: Node, position: int) -> Dims:
        """Marks of the axes that a product gets from a weight, where they may be a matrix's.

        That is where two of them grow, or one that is as large as two.
        """
        weight = node.parents[position]
        contracted, batch = dot_axes(node)
        summed = (*contracted[position], *batch[position])
        free = [axis for axis in growing(weight) if axis not in summed]
        sizes = list(zip(*weight.shapes, strict=True))
        squares = [of_sizes(sizes[axis]) * 2 for axis in growing(weight)]
        # Queries of many heads are a matrix too, but one that a sum over the width has made.
        is_merged = len(free) > 1 and not any(grows(weight, axis) for axis in contracted[position])
        if not is_merged and not any(of_sizes(sizes[axis]) in squares for axis in free):
            return (EMPTY,) * len(node.shapes[0])
        marks = [
            frozenset({self.mark(node, "matrix", axis)}) if axis in free else EMPTY
            for axis in range(len(sizes))
        ]
        return moved(node, position, tuple(marks))

    def _note_made_matrix(self, node: Node, position: int, origins: Dims) -> None:
        """A matrix of activations that another sums over one axis of, and keeps the other."""
        if any(self.nature[parent] != "activation" for parent in node.parents):
            return
        if "dimension_numbers" not in params_of(node):
            return
        contracted, batch = dot_axes(node)
        parent = node.parents[position]

        def marks(axes: Iterable[int]) -> set[int]:
            found = (mark for axis in axes if grows(parent, axis) for mark in origins[axis])
            return {mark.node for mark in found if mark.kind == "matrix"}

        kept = [
            axis
            for axis in range(len(origins))
            if axis not in (*contracted[position], *batch[position])
        ]
        if marks(contracted[position]) & marks(kept):
            self.made_matrices[node] = None


def _sizes_of_members(flat: Flat, parameters: Collection[Node]) -> set[tuple[int, ...]]:
    """The sizes of the axes along which each element has a weight of its own."""
    found: set[tuple[int, ...]] = set()
    called: set[Node] = set()
    for node in flat.nodes:
        if (node.op == "input" and node not in parameters) or not called.isdisjoint(node.parents):
            called.add(node)
        if is_product(node) and any(parent not in called for parent in node.parents):
            left = node.parents[0]
            sizes = list(zip(*left.shapes, strict=True))
            found.update(sizes[axis] for axis in dot_axes(node)[1][0])
    return found


def _without_outputs(marks: frozenset[Mark]) -> frozenset[Mark]:
    return frozenset(mark for mark in marks if mark.kind != "output")
