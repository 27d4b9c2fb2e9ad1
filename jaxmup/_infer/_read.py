"""The program of a model, read: kinds of axes of its parameters, forward gains, and why."""

import collections
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmup import _check
from jaxmup._check import is_number, listed
from jaxmup._infer._gains import Solution, at, solve
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._infer._leaf import Kinds
from jaxmup._infer._order import HALF, Equation, Unknown, rank_of
from jaxmup._infer._orders import Orders
from jaxmup._infer._reading import Reading
from jaxmup._infer._uses import Uses, natures, uneven
from jaxmup._inputs import take_arrays
from jaxmup._model import Instance, call_with_size
from jaxmup._program import ClosedJaxpr, Flat, Node, flatten
from jaxmup._spec import AxisKind
from jaxmup._tree import PathName, Size


class Programs(NamedTuple):
    """The programs of a model at several sizes.

    Args:
      programs: At base, delta and target.
      names: Names of the parameters, which are the first inputs, in their order.
      knows_target: True if the last program grows as the target does.
      scales: Size of the coordinates of each argument at each size, if they are not all of order 0.
    """

    programs: Sequence[ClosedJaxpr]
    names: Sequence[PathName]
    knows_target: bool
    scales: Sequence[tuple[float, ...]] = ()


def programs_of(
    small: Instance,
    other: Instance,
    large: Instance,
    with_depth: Callable[[Size], Instance],
    input_scale: Callable[..., Any] | None = None,
) -> Programs:
    """The programs of a model, all with the base model's structure.

    A target of another depth stands for itself with the base model's depth: whatever base and delta
    have alike does not belong to the width.

    Args:
      small: The base model.
      other: The model beside it.
      large: The target.
      with_depth: Function of a size to the model of that size.
      input_scale: Function of a size to the size of the coordinates of the inputs.

    Raises:
      TypeError: if the model is nothing that can be called.
      ValueError: if the model refuses its inputs.
    """
    names = list(small.parameters)
    alike: Instance | None = large
    if list(large.parameters) != names:
        like = _with_depth_of_base(small.size, other.size, large.size)
        alike = None if like is None else with_depth(like)
        if alike is not None and list(alike.parameters) != names:
            alike = None
    programs = [small.program(), other.program()]
    programs.append(programs[1] if alike is None else alike.program())
    scales = []
    if input_scale is not None:
        instances = (small, other, other if alike is None else alike)
        scales = list(zip(*(_scales_of(one, input_scale) for one in instances), strict=True))
    return Programs(programs, names, alike is not None, scales)


def _scales_of(instance: Instance, input_scale: Callable[..., Any]) -> list[float]:
    """The size of the coordinates of each argument of a call."""
    number = len(take_arrays(instance.inputs)[0])
    found = jax.tree.leaves(call_with_size(input_scale, instance.size, {}))
    if len(found) == 1:
        found *= number
    if len(found) != number or not all(is_number(x) and x > 0 for x in found):
        raise ValueError(
            "`input_scale` must return a positive number, or one for each array of `inputs`, of "
            f"which there are {number}. For `{instance.what}` = {instance.size!r} it returned "
            f"{found}."
        )
    return [float(x) for x in found]


def _with_depth_of_base(base: Size, delta: Size, target: Size) -> Size | None:
    """The target where base and delta differ, the base model elsewhere."""
    if not all(isinstance(size, Mapping) for size in (base, delta, target)):
        return None
    grown = [name for name in (base.keys() | delta.keys()) if base.get(name) != delta.get(name)]
    kept = {name: value for name, value in base.items() if name not in grown}
    return {**kept, **{name: target[name] for name in grown if name in target}}


class Reader:
    """The programs of a model, read once.

    Args:
      programs: The programs.
      given: Kinds of the axes of parameters that the user, or a jaxmup layer, has given.
      fixed: Names of the parameters that cannot carry a gain, as those that do not train.
      has_gains: False if layers apply factors of their own, so that no factor is missing.

    Attributes:
      shown: Kind of each axis of each parameter as the program alone shows it.
      kinds: The same, but for those that are given.
    """

    def __init__(
        self,
        programs: Programs,
        given: Mapping[PathName, Kinds],
        fixed: Collection[PathName],
        has_gains: bool,
    ):
        self.flat: Flat = _one_by_one(flatten(*programs.programs))
        _require_same_lengths(self.flat)
        self.names = programs.names
        self.scales = programs.scales
        self.inputs = dict(zip(self.names, self.flat.inputs, strict=False))
        self.uses = Uses(self.flat, {node: name for name, node in self.inputs.items()})
        if self.uses.made_matrices:
            raise ValueError(_MADE.format(listed(map(_described, self.uses.made_matrices))))
        self._rank = rank_of(self.flat)
        self._warn_of_uneven_parts()
        self.shown = {name: self._kinds(name) for name in self.names}
        self.kinds = self.shown | dict(given)
        self.solution = Solution({}, [])
        if has_gains:
            self._solve(fixed)
            if self.solution.gains and not programs.knows_target:
                raise ValueError(_NO_TARGET)

    def read(self, name: PathName) -> Reading:
        """All that the program says of a parameter."""
        gain = self.solution.gains.get(name, NONE)
        carries = f"; carries {self.factor(gain)}" if gain else ""
        return Reading(self.kinds[name], gain, self.uses.of(name), carries)

    # ---- roles

    def _warn_of_uneven_parts(self) -> None:
        parts = dict.fromkeys(map(_described, uneven(self.flat, natures(self.uses))))
        if parts:
            _check.warn(_UNEVEN.format(listed(parts)))

    def _coordinates(self, name: PathName, kinds: Mapping[int, AxisKind]) -> tuple[Growth, Growth]:
        """The aligned and the typical order of the coordinates of a parameter under muP."""
        node = self.inputs[name]
        sizes = list(zip(*node.shapes, strict=True))
        summed = NONE
        for axis, kind in kinds.items():
            if kind == "input":
                summed = summed + of_sizes(sizes[axis])
        is_matrix = any(k == "output" and of_sizes(sizes[axis]) for axis, k in kinds.items())
        return -summed, -(summed * HALF) if is_matrix else -summed

    def _kinds(self, name: PathName) -> tuple[AxisKind | None, ...]:
        """The kind of each axis, by the use with the largest coordinates, which binds."""
        uses = self.uses.of(name)

        def size(at: int) -> tuple[tuple[float, float], int, int]:
            # Of two that are alike the later one: a norm of the weights looks at them before.
            growth = self._coordinates(name, uses[at].kinds)[0]
            return self._rank(growth), len(uses[at].kinds), at

        found: dict[int, AxisKind] = {}
        for position in sorted(range(len(uses)), key=size, reverse=True):
            found = {**uses[position].kinds, **found}
        return tuple(found.get(axis) for axis in range(len(self.inputs[name].shapes[0])))

    # ---- orders and gains

    def _solve(self, fixed: Collection[PathName]) -> None:
        coordinates = {}
        for name, node in self.inputs.items():
            known = enumerate(self.kinds[name])
            kinds: dict[int, AxisKind] = {a: kind for a, kind in known if kind is not None}
            coordinates[node] = self._coordinates(name, kinds)
        gains = {node: name for name, node in self.inputs.items() if name not in fixed}
        arguments = self.flat.inputs[len(self.flat.inputs) - len(self.scales) :]
        scales = dict(zip(arguments, self.scales, strict=True))
        self.orders = Orders(
            self.flat, natures(self.uses), self.uses.shares, coordinates, gains, scales
        )
        if self.orders.unread:
            unread = [f"`{op}` at {node.line}" for op, node in self.orders.unread.items()]
            raise ValueError(_UNREAD.format(listed(unread)))
        self.solution = solve(self.orders.equations, self._costs())
        if self.solution.left:
            raise ValueError(_NOBODY.format(listed(self._described_left())))

    def _costs(self) -> Callable[[Unknown], float]:
        """The cost of an exponent of each gain: what it moves of what is wrong, and a little more.

        So a factor that many places lack costs as much in what they have in common as in each of
        them, and the little more decides: for few parameters, for those that are used first, as
        queries before keys, and against moving biases along.
        """
        index = {node: i for i, node in enumerate(self.flat.nodes)}
        moved: dict[Unknown, float] = collections.defaultdict(float)
        for equation in self.orders.equations:
            part = 1.0 if equation.order.growth else 0.5  # of what is right, something must follow
            for unknown, degree in equation.order.degrees.items():
                moved[unknown] += part * abs(float(degree))
        costs: dict[Unknown, float] = {}
        total = len(self.flat.nodes)
        for name in self.inputs:
            uses = self.uses.of(name)
            first = min((index[use.node] for use in uses), default=total) / total
            own = max((_OWN.get(use.verb, 0.03) for use in uses), default=0.03)
            costs[name] = moved[name] + own * (1 + 0.05 * first)
        return lambda unknown: costs.get(unknown, 0.0)

    # ---- words

    def factor(self, growth: Growth) -> str:
        """A growth as a power of a size, such as `(64/1024)^1/2`."""
        for sizes in self._sizes():
            one = of_sizes(sizes)
            for power in (1, HALF, 2, Fraction(1, 4), Fraction(3, 2), Fraction(3, 4)):
                if one * power == growth:
                    return f"({sizes[-1]}/{sizes[0]})^{power}"
                if one * -power == growth:
                    return f"({sizes[0]}/{sizes[-1]})^{power}"
        return f"{math.exp(growth.log(1)):.4g} at `target`"

    def _sizes(self) -> list[tuple[int, ...]]:
        every = [axis for node in self.inputs.values() for axis in zip(*node.shapes, strict=True)]
        return sorted(axis for axis in dict.fromkeys(every) if of_sizes(axis))

    def _residual(self, node: Node) -> Growth:
        pair = self.orders.orders.get(node)
        return NONE if pair is None else at(pair.typical, self.solution.gains)

    def _described_left(self) -> list[str]:
        found: dict[str, None] = {}
        for equation, growth in self.solution.left:
            origin = self._origin(equation)
            found[
                f"{origin.line or 'an unknown line'}: `{origin.op}` is {self.factor(growth)} times "
                f"the base model's, and {equation.why} at {equation.site.line or 'its end'}"
            ] = None
        return list(found)

    def _origin(self, equation: Equation) -> Node:
        """The value whose order first was another than zero."""
        node = equation.value
        if not self._residual(node):
            others = [p for p in equation.site.parents if self._residual(p)]
            node = others[0] if others else node
        seen: set[Node] = set()
        while node not in seen:
            seen.add(node)
            wrong = [p for p in node.parents if self._residual(p)]
            acts = [p for p in wrong if self.uses.nature.get(p) == "activation"]
            if not acts:
                return node
            node = acts[0]
        return node


def _one_by_one(flat: Flat) -> Flat:
    """The program, in which no value follows from those that only go through beside it."""
    for node in flat.nodes:
        if node.op in _SIDE_BY_SIDE and len(node.parents) > 1:
            node.parents = [node.parents[node.output]]
    return flat


def _require_same_lengths(flat: Flat) -> None:
    """Raises a `ValueError` if iterations that build on each other are of a growing number."""
    wrong = [
        f"{scan.line or 'an unknown line'}: {scan.lengths[0]} in `base`, {scan.lengths[1]} in "
        "`delta`"
        for scan in flat.scans
        if scan.lengths[0] != scan.lengths[1]
        and any(jnp.issubdtype(node.types[0].dtype, jnp.inexact) for node in scan.carry)
    ]
    if wrong:
        raise ValueError(_LENGTHS.format(listed(wrong)))


def _described(node: Node) -> str:
    return (
        f"`{node.op}` at {node.line or 'an unknown line'}, of {node.parents[0].shapes[0]} in `base`"
    )


_SIDE_BY_SIDE = frozenset({"device_put", "optimization_barrier", "psum", "pmax", "pmin", "sort"})
"""Operations of several values, each of which makes one result."""
_OWN = {"looked up": 0.08, "added": 0.1}
"""What a parameter costs by its use, beside what it moves."""
_NO_TARGET = (
    "muP asks for factors that this model lacks, and base and delta alone do not tell how large "
    "they are at a target of another depth. Give `base`, `delta` and `target` as mappings, with "
    "the depth as an entry of its own."
)
_LENGTHS = (
    "A loop that hands values on must have as many iterations in `base` as in `delta`: layers and "
    "steps are no width. It differs at{}\n"
    "Give both the same number; that of `target` may be another."
)
_UNREAD = (
    "Every operation of the model must be one of which it is known how its result grows with the "
    "width. Of these it is not:{}\n"
    "Give an `apply` that computes them with other operations."
)
_MADE = (
    "A matrix must be a parameter. One that the model makes itself, by a product of activations "
    "with a parameter, has axes that muP has no rule for. It is used by{}\n"
    "Make the matrices parameters that activations choose from, or give rules and no `inputs`."
)
_UNEVEN = (
    "Some parts of an axis grow otherwise than the whole. The parameters that make it, or sum "
    "over it, have one number for all parts, which is right for the whole alone. It is taken apart "
    "or put together by{}\n"
    "Make each part by a parameter of its own, or let all parts grow alike."
)
_NOBODY = (
    "The factors that muP asks for and the model lacks must be ones that a parameter can carry. "
    "These are not:{}\n"
    "Multiply by the inverse there, or by a power of it at the places that follow."
)
