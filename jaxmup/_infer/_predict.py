"""The growth of every value of a program, as muP predicts it."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from jaxmup._infer._gains import at, way_to_origin
from jaxmup._infer._growth import NONE, Growth
from jaxmup._infer._leaf import Kinds
from jaxmup._infer._order import Unknown
from jaxmup._infer._programs import traced
from jaxmup._infer._read import Reader
from jaxmup._infer._uses import natures
from jaxmup._model import Instance
from jaxmup._program import Node
from jaxmup._tree import PathName


class Predicted(NamedTuple):
    """A value and how muP has it grow.

    Args:
      node: The value, in the programs of all sizes.
      logs: Natural logarithm of its size over that at the first size, one for each size; `None`
        for what follows from no input, or is exactly zero.
      lacks: The same of how much larger it is where parameters do not carry the factors that the
        program lacks; `None` where no such factor arises.
    """

    node: Node
    logs: tuple[float, ...] | None
    lacks: tuple[float, ...] | None = None


def predicted(
    instances: Sequence[Instance], kinds: Mapping[PathName, Kinds], trained: Collection[PathName]
) -> list[Predicted]:
    """The growth of every value of a model's program once each missing factor is carried.

    Sums are taken as aligned, which is the most that training can do.

    Args:
      instances: The whole model of each size, what is frozen too; of one structure, at least two.
      kinds: Kinds of the axes of parameters, where they are known.
      trained: Names of the parameters that train, which alone can carry a gain.

    Returns:
      One for each node of `flatten`, in its order.

    Raises:
      ValueError: as `infer`: if the programs differ in structure, an operation is unknown, or
        nobody can carry a factor.
    """
    programs = traced(instances)
    reader = Reader(programs, kinds, {*programs.names} - {*trained}, True)
    missing = _missing(reader)

    def logs(growth: Growth) -> tuple[float, ...]:
        return (0.0, *(growth.log(size) for size in range(len(instances) - 1)))

    found = []
    for node in reader.flat.nodes:
        pair = reader.orders[node]
        growth = None if pair is None else at(pair.typical, reader.solution.gains)
        if growth is None or reader.uses.nature[node] == "constant":
            found.append(Predicted(node, None))
            continue
        found.append(
            Predicted(node, logs(growth), logs(missing[node]) if node in missing else None)
        )
    return found


def _missing(reader: Reader) -> dict[Node, Growth]:
    """The factors that the program lacks, by the values where they arise."""
    gains = reader.solution.gains
    left_out = {unknown: NONE if isinstance(unknown, str) else gains[unknown] for unknown in gains}

    def growth(node: Node, gains: Mapping[Unknown, Growth]) -> Growth:
        pair = reader.orders[node]
        return NONE if pair is None else at(pair.typical, gains)

    found: dict[Node, Growth] = {}
    for equation in reader.orders.equations:
        if not at(equation.order, left_out):
            continue
        way = way_to_origin(equation, lambda node: growth(node, left_out), natures(reader.uses))
        for node in reversed(way):  # what has the order that it should have is behind its origin
            if lacks := growth(node, left_out) - growth(node, gains):
                found[node] = lacks
                break
    return found
