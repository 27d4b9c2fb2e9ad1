"""Values that are made of parameters alone, and the places where they meet activations."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxmup._infer._dims import Dims, params_of
from jaxmup._infer._shares import Covered
from jaxmup._program import Node
from jaxmup._spec import AxisKind

Nature = Literal["constant", "weight", "activation"]
"""What a value follows from: no input, parameters alone, or inputs too."""
Cut: TypeAlias = tuple[tuple[int, int, int], ...]
"""The axes of a value of which a part is taken, each with its first element and their number."""
Part: TypeAlias = tuple[Cut, ...]
"""A part of a parameter, by the cuts that it was taken by; `()` is all of it."""
_MOST_CUTS = 4  # that are told apart, one in another


class Source(NamedTuple):
    """An axis of a parameter, or of a part of one.

    Args:
      name: Name of the parameter.
      axis: Number of the axis in the parameter.
      part: The part, where elements have been taken from it.
    """

    name: str
    axis: int
    part: Part = ()

    @property
    def piece(self) -> "Piece":
        """The part that it is an axis of."""
        return self.name, self.part


Piece: TypeAlias = tuple[str, Part]
"""A part of a parameter of a name."""


class Mark(NamedTuple):
    """An axis that is followed, since only what becomes of it tells what it does.

    Args:
      kind: A batch axis of a product; an output axis of what may be a matrix that is made; or any
        other output axis.
      node: Number of the value that a parameter makes there.
      axis: Number of the axis, among the batch axes or among those of the parameter.
    """

    kind: Literal["batch", "matrix", "output"]
    node: int
    axis: int


Kind: TypeAlias = AxisKind | frozenset[Mark]
"""What an axis does; with marks, that is to be seen from what becomes of them."""


class Between(NamedTuple):
    """The axis between two parameters: a product sums over it, which one of them puts out.

    Args:
      free: The axes of parameters that each operand keeps.
      summed: Those that it is summed over.
    """

    free: tuple[frozenset[Source], frozenset[Source]]
    summed: tuple[frozenset[Source], frozenset[Source]]

    def kinds(self, inputs: Collection[Source]) -> dict[Source, AxisKind]:
        """Kinds of the axes that are summed over.

        Args:
          inputs: Axes that an activation is summed over with: the operand that has them is first.
        """
        first = not self.free[1].isdisjoint(inputs) and self.free[0].isdisjoint(inputs)
        # Of two that are one parameter's, the axis is an input.
        outputs: dict[Source, AxisKind] = dict.fromkeys(self.summed[first], "output")
        return {**outputs, **dict.fromkeys(self.summed[not first], "input")}


@dataclasses.dataclass(frozen=True)
class View:
    """A value that is made of parameters alone.

    Args:
      dims: The axes of parameters that each of its axes is made of.
      parameters: The parameters, or parts of them.
      linear: True if it is homogeneous in them.
      known: What axes that it no longer has did, on the way to it.
      between: The products on the way to it, an inner one before an outer one.
    """

    dims: Dims
    parameters: frozenset[Piece]
    linear: bool = True
    known: frozenset[tuple[Source, AxisKind]] = frozenset()
    between: tuple[Between, ...] = ()

    def cut(self, cut: Cut) -> "View":
        """The view of a part of this value."""

        def of(source: Source) -> Source:
            return source._replace(part=(*source.part, cut)[-_MOST_CUTS:])

        def of_all(sources: frozenset[Source]) -> frozenset[Source]:
            return frozenset(map(of, sources))

        def of_both(pair: tuple[frozenset[Source], ...]) -> Any:
            return tuple(map(of_all, pair))

        return View(
            tuple(map(of_all, self.dims)),
            frozenset((name, (*part, cut)[-_MOST_CUTS:]) for name, part in self.parameters),
            self.linear,
            frozenset((of(source), kind) for source, kind in self.known),
            tuple(Between(of_both(one.free), of_both(one.summed)) for one in self.between),
        )


def cut_of(node: Node, numbers: Mapping[Node, Any]) -> Cut:
    """The cut by which a value is a part of another: axes, where it begins, how long it is.

    It is empty for what is no part, or one that is only known when the program runs.

    Args:
      node: The value.
      numbers: The constants all of whose elements are one number.
    """
    if not node.equations or not node.parents:
        return ()
    params, whole, own = params_of(node), node.parents[0].shapes[0], node.shapes[0]
    if node.op == "slice":
        starts: Sequence[int] = params["start_indices"]
    elif node.op == "split":
        before = sum(params["sizes"][: node.output])
        starts = [before * (axis == params["axis"]) for axis in range(len(whole))]
    elif node.op == "unstack":
        return ((params["axis"], node.output, 1),)
    elif node.op == "dynamic_slice" and all(index in numbers for index in node.parents[1:]):
        starts = [int(numbers[index][0]) for index in node.parents[1:]]
    elif node.op == "gather" and node.parents[1] in numbers:
        start, sizes = int(numbers[node.parents[1]][0]), params["slice_sizes"]
        every = enumerate(zip(sizes, whole, strict=True))
        return tuple((axis, start, size) for axis, (size, length) in every if size != length)
    else:
        return ()
    every = enumerate(zip(starts, own, whole, strict=True))
    return tuple((axis, start, size) for axis, (start, size, length) in every if size != length)


class Use(NamedTuple):
    """A place where a parameter meets an activation.

    Args:
      kinds: What its axes do there.
      verb: What is done with it, such as `"looked up"`.
      node: The value that is made of it there.
      part: The part of it that is meant.
    """

    kinds: Mapping[int, AxisKind]
    verb: str
    node: Node
    part: Part = ()

    def __str__(self) -> str:
        """Such as *looked up at model.py:115*."""
        return f"{self.verb} at {self.node.line or 'an unknown line'}"

    def with_axes(self) -> str:
        """Such as *multiplied at model.py:115, axes batch, input, output*."""
        return f"{self}, axes {', '.join(self.kinds[axis] for axis in sorted(self.kinds))}"


def parted(
    dims: Dims, summed: Collection[int], apart: Collection[int]
) -> tuple[frozenset[Source], frozenset[Source]]:
    """Sources of the axes that are not summed over, and of those that are, but for some."""
    parts: tuple[set[Source], set[Source]] = set(), set()
    for axis, sources in enumerate(dims):
        if axis not in apart:
            parts[axis in summed].update(sources)
    return frozenset(parts[0]), frozenset(parts[1])


def mixed(views: Sequence[View], covered: Covered | None) -> frozenset[tuple[Source, AxisKind]]:
    """Kinds of the axes along which matrices are mixed by weights that sum to 1."""
    if covered is None:
        return frozenset()
    found: set[tuple[Source, AxisKind]] = set()
    for position, view in enumerate(views):
        kind: AxisKind = "output" if position == covered.position else "batch"
        for axis in covered.axes[position]:
            found |= {(source, kind) for source in view.dims[axis]}
    return frozenset(found)


def decided(by_kind: Mapping[Kind, bool]) -> Kind:
    """The kind of an axis whose parts do several things: that of the parts that grow."""
    growing_kinds: list[Kind] = [kind for kind, is_growing in by_kind.items() if is_growing]
    ranks = {"input": 0, "output": 1}  # of all others, the first
    return min(
        growing_kinds or by_kind,
        key=lambda kind: ranks.get(kind, 2) if isinstance(kind, str) else 2,
    )
