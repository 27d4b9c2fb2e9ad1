"""The growth of every value of a program, as muP predicts it."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from jaxmup._infer._gains import at
from jaxmup._infer._leaf import Kinds
from jaxmup._infer._programs import traced
from jaxmup._infer._read import Reader
from jaxmup._model import Instance
from jaxmup._program import Node
from jaxmup._tree import PathName


class Predicted(NamedTuple):
    """A value and how muP has it grow.

    Args:
      node: The value, in the programs of all sizes.
      logs: Natural logarithm of its size over that at the first size, one for each size; `None`
        for what follows from no input, or is exactly zero.
    """

    node: Node
    logs: tuple[float, ...] | None


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
    sizes = range(len(instances) - 1)
    found = []
    for node in reader.flat.nodes:
        pair = reader.orders[node]
        growth = None if pair is None else at(pair.typical, reader.solution.gains)
        if growth is None or reader.uses.nature[node] == "constant":
            found.append(Predicted(node, None))
            continue
        logs = (0.0, *(growth.log(size) for size in sizes))
        found.append(Predicted(node, logs))
    return found
