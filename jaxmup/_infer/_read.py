"""The program of a model, read: kinds of axes of its parameters, forward gains, and why."""

import collections
import itertools
import types
from collections.abc import Callable, Collection, Mapping

import jax.numpy as jnp

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._correction import Correction
from jaxmup._finding import Finding
from jaxmup._infer import _refusals
from jaxmup._infer._findings import (
    missing_factor,
    unclear_table,
    uneven_parts,
    unlike_parts,
    unused_parameter,
)
from jaxmup._infer._gains import INSERTED, Solution, at, solve, way_to_origin
from jaxmup._infer._growth import NONE, Growth, of_sizes
from jaxmup._infer._leaf import Kinds
from jaxmup._infer._order import HALF, Equation, Unknown, rank_of
from jaxmup._infer._orders import Orders
from jaxmup._infer._programs import Programs
from jaxmup._infer._reading import Reading
from jaxmup._infer._sites import Sites
from jaxmup._infer._uneven import uneven
from jaxmup._infer._uses import Uses, natures
from jaxmup._infer._views import Part, Use
from jaxmup._infer._words import Words, alike, joined, line
from jaxmup._program import Flat, Node, flatten, is_open
from jaxmup._spec import AxisKind
from jaxmup._tree import PathName


class Reader:
    """The programs of a model, read once.

    Args:
      programs: The programs.
      given: Kinds of the axes of parameters that the user, or a jaxmup layer, has given.
      fixed: Names of the parameters that do not train.
      multipliers: What layers multiply their parameters by at base, delta and target; `None` if
        that is not known, so that no missing factor is looked for.
      corrects: True if a factor that no parameter can carry may be inserted in the program.

    Attributes:
      shown: Kind of each axis of each parameter as the program alone shows it.
      kinds: The same, but for those that are given.
    """

    def __init__(
        self,
        programs: Programs,
        given: Mapping[PathName, Kinds],
        fixed: Collection[PathName],
        corrects: bool = False,
        multipliers: Mapping[PathName, tuple[float, ...]] | None = types.MappingProxyType({}),
    ):
        self.flat: Flat = _one_by_one(flatten(*programs.programs))
        _require_same_lengths(self.flat)
        for position, values in programs.numbers.items():
            node = self.flat.inputs[position]
            node.op, node.value = "constant", values
        self.names = programs.names
        self.scales = programs.scales
        self.inputs = dict(zip(self.names, self.flat.inputs, strict=False))
        self.uses = Uses(self.flat, {node: name for name, node in self.inputs.items()})
        self.words = Words(self.flat, {node: name for name, node in self.inputs.items()})
        self.findings: dict[PathName, list[Finding]] = collections.defaultdict(list)
        if self.uses.followed.made_matrices:
            made = map(self.words.described, self.uses.followed.made_matrices)
            raise ValueError(_refusals.MADE.format(listed(made)))
        self._rank = rank_of(self.flat)
        self._warned: set[str] = set()
        self._find_uneven_parts()
        self._find_unlike_parts(given)
        self._find_unused(fixed)
        self.shown = {name: self._kinds(name) for name in self.names}
        self.kinds = self.shown | dict(given)
        self.solution = Solution({}, [])
        self.corrections: dict[PathName, list[Correction]] = {}
        if multipliers is not None:
            self._solve(fixed, corrects, multipliers)
            if self.solution.gains and not programs.knows_target:
                raise ValueError(_refusals.NO_TARGET)
            self._place_corrections(fixed)

    def read(self, name: PathName) -> Reading:
        """All that the program says of a parameter."""
        gain = self.solution.gains.get(name, NONE)
        return Reading(
            self.kinds[name],
            gain,
            self.uses.of(name),
            f"; carries {self.words.factor(gain)}{self._cause(name)}" if gain else "",
            tuple(self.corrections.get(name, ())),
            tuple(self.findings.get(name, ())),
        )

    # ---- roles

    def _find_uneven_parts(self) -> None:
        parts = uneven(self.flat, natures(self.uses))
        described = dict.fromkeys(map(self.words.described, parts))
        for node in parts:
            for name in itertools.islice(self.words.nearest(node), 1):
                self._add(uneven_parts(name, self.words.described(node)))
        if parts:
            names = joined(f"`{alike(next(self.words.nearest(node)))}`" for node in parts)
            _check.warn(_refusals.UNEVEN.format(listed(described), names))

    def _find_unlike_parts(self, given: Collection[PathName]) -> None:
        """Notes parameters whose parts are used in ways that ask for different numbers."""
        found = {
            name: unlike
            for name in self.names
            if name not in given and (unlike := self._unlike_parts(name))
        }
        for name, (use, other) in found.items():
            self._add(unlike_parts(name, use.with_axes(), other.with_axes()))
        if found:
            lines = dict.fromkeys(
                f"`{alike(name)}` are {use.with_axes()}, and {other.with_axes()}"
                for name, (use, other) in found.items()
            )
            _check.warn(_refusals.UNLIKE.format(listed(lines)))

    def _unlike_parts(self, name: PathName) -> tuple[Use, Use] | None:
        """A use each of two parts of a parameter that ask for different numbers."""
        by_part: dict[Part, list[Use]] = collections.defaultdict(list)
        for use in self.uses.of(name):
            by_part[use.part].append(use)
        first: dict[tuple[Growth, Growth], Use] = {}
        for part, uses in by_part.items():
            if any(other == part[: len(other)] for other in by_part if other != part):
                continue  # one that is also used in a larger part has no number of its own
            binding = max(uses, key=lambda use: self._rank(self._coordinates(name, use.kinds)[0]))
            first.setdefault(self._ratios(name, binding.kinds), binding)
        one, other, *_ = (*first.values(), None, None)
        return None if one is None or other is None else (one, other)

    def _ratios(self, name: PathName, kinds: Mapping[int, AxisKind]) -> tuple[Growth, Growth]:
        """The growths of the input and of the output axes of a parameter."""
        sizes = list(zip(*self.inputs[name].shapes, strict=True))
        growths: dict[AxisKind, Growth] = {"input": NONE, "output": NONE, "batch": NONE}
        for axis, kind in kinds.items():
            growths[kind] = growths[kind] + of_sizes(sizes[axis])
        return growths["input"], growths["output"]

    def _find_unused(self, fixed: Collection[PathName]) -> None:
        seen, queue = set(self.flat.outputs), list(self.flat.outputs)
        while queue:
            for parent in queue.pop().parents:
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
        for name, node in self.inputs.items():
            if node not in seen and name not in fixed:
                self._add(unused_parameter(name))

    def _add(self, finding: Finding) -> None:
        """Notes a finding with the parameter that it names, once."""
        found = self.findings[finding.where[0]]
        if finding not in found:
            found.append(finding)

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

    def _solve(
        self,
        fixed: Collection[PathName],
        corrects: bool,
        multipliers: Mapping[PathName, tuple[float, ...]],
    ) -> None:
        coordinates = {}
        for name, node in self.inputs.items():
            known = enumerate(self.kinds[name])
            kinds: dict[int, AxisKind] = {a: kind for a, kind in known if kind is not None}
            coordinates[node] = self._coordinates(name, kinds)
        # Our layers have drawn their values, and say themselves what they are.
        still = {*fixed, *multipliers}
        gains = {node: name for name, node in self.inputs.items() if name not in still}
        arguments = self.flat.inputs[len(self.flat.inputs) - len(self.scales) :]
        scales = dict(zip(arguments, self.scales, strict=True))
        applied = {self.inputs[name]: values for name, values in multipliers.items()}
        inserted: set[Node] = set()
        while True:
            self.orders = Orders(
                self.flat,
                natures(self.uses),
                self.uses.shares,
                coordinates,
                gains,
                scales,
                inserted,
                applied,
            )
            if self.orders.unread:
                unread = map(self.words.described, self.orders.unread.values())
                raise ValueError(_refusals.UNREAD.format(listed(unread)))
            if self.orders.uneven_loops:
                loops = map(self.words.described, self.orders.uneven_loops)
                raise ValueError(_refusals.LONGER.format(listed(loops)))
            self._find_unclear_tables()
            floored = [*self.orders.floored.values()]
            rank = self.orders.rank
            self.solution = solve(self.orders.equations, self._costs(), floored, rank)
            more = self._places_of_left() - inserted if corrects else set()
            if not more:
                break
            inserted |= more
        if self.solution.left:
            left = dict.fromkeys(self._described(*each) for each in self.solution.left)
            raise ValueError(_refusals.NOBODY.format(listed(left)))

    def _find_unclear_tables(self) -> None:
        sites = dict.fromkeys(self.orders.unclear.values())
        for site in sites:
            for name in itertools.islice(self.words.nearest(site), 1):
                self._add(unclear_table(name, self.words.described(site)))
        new = [place for place in map(self.words.place, sites) if place not in self._warned]
        self._warned.update(new)
        if new:
            _check.warn(_refusals.UNCLEAR.format(listed(dict.fromkeys(new))))

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
        return lambda unknown: INSERTED if isinstance(unknown, Node) else costs.get(unknown, 0.0)

    # ---- factors that no parameter carries

    def _way(self, equation: Equation, gains: Mapping[Unknown, Growth]) -> list[Node]:
        """Values of wrong order under some gains, from that of an equation to where it arose."""

        def residual(node: Node) -> Growth:
            pair = self.orders[node]
            return NONE if pair is None else at(pair.typical, gains)

        return way_to_origin(equation, residual, natures(self.uses))

    def _places_of_left(self) -> set[Node]:
        """The values that a factor on which would do what no parameter can."""
        found = set()
        for equation, _ in self.solution.left:
            way = self._way(equation, self.solution.gains)
            # Where the order arose, or the next after it that can be multiplied.
            found.update([node for node in way if is_open(node)][-1:])
        return found

    def _place_corrections(self, fixed: Collection[PathName]) -> None:
        """Gives each factor that is inserted to a parameter beside it."""
        marks = {node: gain for node, gain in self.solution.gains.items() if isinstance(node, Node)}
        sites = Sites(self.flat, self.words.names).sites(marks) if marks else {}
        for node, site in sites.items():
            one = Correction(site, marks[node].ratio(1), self.words.factor(marks[node]))
            beside = [name for name in self.words.nearest(node) if name not in fixed]
            name = (beside or list(self.inputs))[0]
            found = self.corrections.setdefault(name, [])
            if one not in found:
                found.append(one)
                factor = self.words.factor(-marks[node])
                value = self.words.place(node), self.words.operands(node)
                self._add(missing_factor(name, *value, factor, one.words))

    def _cause(self, name: PathName) -> str:
        """Words on the places whose missing factors a parameter carries."""
        wrong = (
            self.words.place(self._way(equation, {})[-1])
            for equation in self.orders.equations
            if equation.order.growth and name in equation.order.degrees
        )
        places = joined(wrong)
        return f" for {places}" if places else ""

    def _described(self, equation: Equation, growth: Growth) -> str:
        """An equation that no gains fulfil, in words."""
        origin = self._way(equation, self.solution.gains)[-1]
        return (
            f"{self.words.place(origin)} is {self.words.factor(growth)} times the base model's, "
            f"and {equation.why} at {line(equation.site)}\n    {self.words.operands(origin)}"
        )


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
        raise ValueError(_refusals.LENGTHS.format(listed(wrong)))


_SIDE_BY_SIDE = frozenset({"device_put", "optimization_barrier", "psum", "pmax", "pmin", "sort"})
"""Operations of several values, each of which makes one result."""
_OWN = {"looked up": 0.08, "added": 0.1}
"""What a parameter costs by its use, beside what it moves."""
