"""Uses of the parameters of a program: where each meets an activation, and on which axes."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxmup._infer._dims import (
    EMPTY,
    are_same,
    dot_axes,
    gathered,
    growing,
    grows,
    is_product,
    moved,
    params_of,
    rearranged_by,
)
from jaxmup._infer._followed import Followed
from jaxmup._infer._shares import Shares
from jaxmup._infer._views import (
    Between,
    Kind,
    Nature,
    Piece,
    Source,
    Use,
    View,
    cut_of,
    decided,
    mixed,
    parted,
)
from jaxmup._program import Flat, Node
from jaxmup._spec import AxisKind


class Uses:
    """The nature of all values of a program, and the uses of its parameters.

    Args:
      flat: The program at several sizes.
      names: Names of the parameters, by the input that each is.

    Attributes:
      nature: What each value follows from.
      views: Of each value that follows from parameters alone, which.
      shares: The axes over which values sum up to the order of one element.
      followed: The axes of activations, and what became of them.
    """

    def __init__(self, flat: Flat, names: Mapping[Node, str]):
        self.flat, self.names = flat, names
        self.nature: dict[Node, Nature] = {}
        self.views: dict[Node, View] = {}
        self._met: list[tuple[Piece, dict[int, Kind], str, Node]] = []
        self.shares = Shares(flat)
        self.followed = Followed(flat, names, self.nature, self.shares)
        # What comes around in a loop is known only after the loop: until nothing changes any more.
        self._loops = any(node.op == "carry" for node in flat.nodes)
        for _ in range(12):
            before = dict(self.nature), dict(self.views), dict(self.followed.origins)
            self._met.clear()
            for node in flat.nodes:
                self._visit(node)
            if not self._loops or before == (self.nature, self.views, self.followed.origins):
                break
        for output in flat.outputs:
            if self.nature[output] == "weight":
                self._meet(output, output, _outputs(output), "returned")

    def of(self, name: str) -> list[Use]:
        """The uses of a parameter."""
        return self._by_name.get(name, [])

    @functools.cached_property
    def _by_name(self) -> dict[str, list[Use]]:
        found: dict[str, list[Use]] = collections.defaultdict(list)
        for (name, part), kinds, verb, node in self._met:
            settled: dict[int, AxisKind] = {}
            for axis, kind in kinds.items():
                settled[axis] = self.followed.settled(kind)
            found[name].append(Use(settled, verb, node, part))
        return dict(found)

    # ---- one value

    def _visit(self, node: Node) -> None:
        if node.op == "input":
            self._input(node)
            return
        natures = [self.nature.get(parent, "constant") for parent in node.parents]
        weights = [p for p, n in zip(node.parents, natures, strict=True) if n == "weight"]
        acts = [p for p, n in zip(node.parents, natures, strict=True) if n == "activation"]
        # Integers that follow from inputs choose and mask; what they choose from says what it is.
        self.nature[node] = "activation" if acts else "weight" if weights else "constant"
        if not weights and not acts:
            return
        if weights and not acts:
            self._combine(node, weights)
        elif weights and self._is_modulated(node, weights, acts):
            self.nature[node] = "weight"
            self._combine(node, weights)
        else:
            for weight in dict.fromkeys(weights):
                self._use(node, weight)
        if self.nature[node] == "activation":
            self.followed.follow(node)

    def _input(self, node: Node) -> None:
        name = self.names.get(node)
        self.nature[node] = "activation" if name is None else "weight"
        if name is not None:
            axes = range(len(node.shapes[0]))
            self.views[node] = View(
                tuple(frozenset({Source(name, axis)}) for axis in axes), frozenset({(name, ())})
            )

    # ---- parameters among themselves

    def _combine(self, node: Node, weights: list[Node]) -> None:
        """The view of a value of parameters and constants."""
        op = node.op
        if is_product(node):
            self._product(node)
            return
        if op == "conv_general_dilated":  # of parameters alone: no activation, but used as such
            self.nature[node] = "activation"
            for weight in weights:
                self._use(node, weight)
            return
        dims = [EMPTY] * len(node.shapes[0])
        known: set[tuple[Source, AxisKind]] = set()
        for position, parent in enumerate(node.parents):
            view = self.views.get(parent)
            if view is None or self.nature[parent] != "weight":
                continue
            known |= view.known
            known |= {(source, "batch") for source in self._left(node, position, view)}
            if not (op == "gather" and position):
                dims = [a | b for a, b in zip(dims, moved(node, position, view.dims), strict=True)]
        views = [self.views[weight] for weight in weights if weight in self.views]
        made = View(
            tuple(dims),
            frozenset().union(*(view.parameters for view in views)),
            all(view.linear for view in views) and self._is_homogeneous(node),
            frozenset(known),
            tuple(dict.fromkeys(product for view in views for product in view.between)),
        )
        cut = cut_of(node, self.shares.numbers)
        self.views[node] = made.cut(cut) if cut else made

    def _left(self, node: Node, position: int, view: View) -> Iterable[Source]:
        """Axes of parameters that a value no longer has, since one element of them was taken."""
        axes: Sequence[int] = ()
        if node.op == "slice" and not node.equations:
            axes = (0,)
        elif node.op == "squeeze":
            axes = params_of(node)["dimensions"]
        elif node.op == "gather" and position == 0:
            axes = _looked_up(node)
        elif node.op == "reduce_sum":  # with the identity: one of them
            axes = list(self.shares.over(node.parents[0], params_of(node)["axes"]))
        return [source for axis in axes for source in view.dims[axis]]

    def _is_homogeneous(self, node: Node) -> bool:
        """True if a factor on the parameters is a factor on what is made of them."""
        constants = [p for p in node.parents if self.nature.get(p) == "constant"]
        if node.op in ("add", "sub"):
            return not constants
        if node.op == "div":
            return node.parents[1] in constants
        return node.op in _HOMOGENEOUS

    def _product(self, node: Node) -> None:
        """A product of two parameters, or of one and an array of constants."""
        left, right = node.parents
        if "constant" in (self.nature[left], self.nature[right]):
            if self._mixes(node):
                return
            self.nature[node] = "activation"
            self._use(node, left if self.nature[left] == "weight" else right)
            return
        (left_in, right_in), (left_batch, right_batch) = dot_axes(node)
        vectors = [
            not any(axis not in (*summed, *batch) for axis in growing(one))
            for one, summed, batch in (
                (left, left_in, left_batch),
                (right, right_in, right_batch),
            )
        ]
        covered = self.shares.covered.get(node)
        is_square = are_same(left, right)  # as in a norm of the weights, which says nothing of them
        is_sum = any(grows(left, axis) for axis in left_in) and covered is None
        if is_sum and any(vectors) and not is_square:
            # A learned vector, as a latent, in the place of an activation.
            self.nature[node] = "activation"
            vector, matrix = (left, right) if vectors[0] else (right, left)
            self._meet(node, vector, _outputs(vector), "multiplied by a matrix")
            self._use(node, matrix)
            return
        views = self.views[left], self.views[right]
        # x @ (A @ B): the axis between them is what A puts out and B sums over.
        apart = ((), ()) if covered is None else covered.axes
        kept, summed = zip(
            parted(views[0].dims, left_in, apart[0]),
            parted(views[1].dims, right_in, apart[1]),
            strict=True,
        )
        own = () if is_square else (Between(kept, summed),)
        dims = [
            a | b
            for a, b in zip(
                moved(node, 0, views[0].dims), moved(node, 1, views[1].dims), strict=True
            )
        ]
        self.views[node] = View(
            tuple(dims),
            views[0].parameters | views[1].parameters,
            views[0].linear and views[1].linear,
            views[0].known | views[1].known | mixed(views, covered),
            tuple(dict.fromkeys((*views[0].between, *views[1].between, *own))),
        )

    def _mixes(self, node: Node) -> bool:
        """Makes the view of the product with a matrix of constants that mixes features, if it is.

        As a rotation of the outputs of a matrix, or running sums: what stands along the axis that
        is summed over stands along the one that is left.
        """
        position = int(self.nature[node.parents[0]] == "constant")
        weight, table = node.parents[position], node.parents[1 - position]
        contracted, batch = dot_axes(node)
        gone = (*contracted[1 - position], *batch[1 - position])
        free = [axis for axis in growing(table) if axis not in gone]
        if not free or not any(grows(weight, axis) for axis in contracted[position]):
            return False
        view = self.views[weight]
        mixed_up = EMPTY.union(*(view.dims[axis] for axis in contracted[position]))
        marks = tuple(mixed_up if axis in free else EMPTY for axis in range(len(table.shapes[0])))
        sides = moved(node, position, view.dims), moved(node, 1 - position, marks)
        dims = tuple(a | b for a, b in zip(*sides, strict=True))
        self.views[node] = dataclasses.replace(view, dims=dims)
        return True

    # ---- parameters and activations

    def _is_modulated(self, node: Node, weights: list[Node], acts: list[Node]) -> bool:
        """True of a matrix that activations scale, mask or choose, and that stays one.

        So do spectral norms, masks on weights and experts that are looked up. Two of its axes grow;
        of a gain or an embedding one does.
        """
        weight = weights[0]
        position = node.parents.index(weight)
        if node.op not in ("mul", "div", "gather", "dynamic_slice", "select_n"):
            return False
        if len(set(weights)) > 1 and node.op != "select_n":
            return False
        if position and node.op in ("div", "gather", "dynamic_slice"):
            return False
        view = self.views.get(weight)
        if view is None:
            return False
        if node.op == "gather":
            dims, whole = moved(node, 0, view.dims), node
        else:
            dims, whole = view.dims, weight
        if node.op in ("mul", "div"):
            # Without the axes that other activations have brought into it.
            own = zip(weight.shapes[0], view.dims, strict=True)
            size = math.prod(length for length, sources in own if sources)
            if any(math.prod(act.shapes[0]) > size for act in acts):
                return False
        return sum(1 for axis, sources in enumerate(dims) if sources and grows(whole, axis)) > 1

    def _use(self, node: Node, weight: Node) -> None:
        """Notes what the axes of a weight do where it meets an activation."""
        position, ndim = node.parents.index(weight), len(weight.shapes[0])
        kinds = _outputs(weight)
        verb = _VERBS.get(node.op, f"read by `{node.op}`")
        if is_product(node):
            contracted, batch = dot_axes(node)
            ragged = "ragged_dot_dimension_numbers" in params_of(node)
            for axis in contracted[position]:
                kinds[axis] = "input"
            covered = self.shares.covered.get(node)
            if covered is not None and covered.position == position:
                for axis in covered.axes[position]:
                    kinds[axis] = "output"
            for axis in self.followed.chosen_by_product(node, position):
                kinds[axis] = "batch"
            for i, axis in enumerate(batch[position]):
                kinds[axis] = (
                    "batch" if ragged else frozenset({self.followed.mark(node, "batch", i)})
                )
            verb = "multiplied"
        elif node.op == "conv_general_dilated":
            numbers = params_of(node)["dimension_numbers"]
            spec = numbers.rhs_spec if position == 1 else numbers.lhs_spec
            for axis in range(ndim):
                kinds[axis] = "input" if grows(weight, axis) and position == 1 else "batch"
            kinds[spec[0]], kinds[spec[1]] = "output", "input"
        elif node.op == "gather" and position == 0:
            for axis in _looked_up(node):
                kinds[axis] = "batch"
        elif node.op == "dynamic_slice" and position == 0:
            for axis in range(ndim):
                if node.shapes[0][axis] != weight.shapes[0][axis]:
                    kinds[axis] = "batch"
        else:  # element by element: an axis of experts of the other is one of experts here
            for other in node.parents:
                origins = self.followed.origins.get(other)
                if origins is not None and len(origins) == ndim:
                    for axis, marks in enumerate(origins):
                        known = frozenset(mark for mark in marks if mark.kind != "matrix")
                        kinds[axis] = known or kinds[axis]
        for axis, marks in enumerate(self.followed.output_marks(node, position)):
            kind = kinds[axis]
            if isinstance(kind, frozenset) or kind == "output":
                kinds[axis] = (marks | kind if isinstance(kind, frozenset) else marks) or kind
        self._meet(node, weight, kinds, verb)

    def _meet(self, node: Node, weight: Node, kinds: Sequence[Kind], verb: str) -> None:
        view = self.views.get(weight)
        if view is None:
            return
        found: dict[Piece, dict[int, dict[Kind, bool]]] = {piece: {} for piece in view.parameters}
        for axis, (sources, kind) in enumerate(zip(view.dims, kinds, strict=True)):
            for source in sources:
                by_kind = found[source.piece].setdefault(source.axis, {})
                by_kind[kind] = by_kind.get(kind, False) or grows(weight, axis)
        for product in reversed(view.between):
            inputs = {
                Source(name, axis, part)
                for (name, part), axes in found.items()
                for axis, kinds in axes.items()
                if "input" in kinds
            }
            for source, kind in product.kinds(inputs).items():
                found[source.piece].setdefault(source.axis, {}).setdefault(kind, True)
        for source, kind in view.known:
            if kind != "batch" or source.axis not in found[source.piece]:
                found[source.piece].setdefault(source.axis, {}).setdefault(kind, True)
        for piece, axes in found.items():
            does: dict[int, Kind] = {axis: decided(by_kind) for axis, by_kind in axes.items()}
            self._met.append((piece, does, verb, node))


def _looked_up(node: Node) -> list[int]:
    """The axes of a gather's operand that are looked up, but for one that is only rearranged."""
    rearranged = rearranged_by(node)
    return [axis for axis in gathered(node)[0] if rearranged is None or axis != rearranged[0]]


def _outputs(node: Node) -> list[Kind]:
    return ["output"] * len(node.shapes[0])


def natures(uses: Uses) -> Callable[[Node], Nature]:
    """The nature of a value."""
    return lambda node: uses.nature.get(node, "constant")


_HOMOGENEOUS = frozenset(
    "convert_element_type copy neg reduce_precision stop_gradient optimization_barrier "  # noqa: SIM905
    "sharding_constraint copy_p name pvary carry choice shard unshard real imag conj mesh_cast mul "
    "concatenate pad slice dynamic_slice rev add_any select_n split cumsum dynamic_update_slice "
    "expand_dims reshape transpose broadcast_in_dim squeeze gather stack reduce_sum abs "
    "reduce_max reduce_min max min".split()
)
_VERBS = {
    "add": "added",
    "sub": "added",
    "add_any": "added",
    "mul": "a gain",
    "div": "a gain",
    "gather": "looked up",
    "dynamic_slice": "looked up",
    "conv_general_dilated": "convolved with",
}
