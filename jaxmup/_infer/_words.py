"""Words on a program: its values by their lines, and growths as powers of the user's sizes."""

import collections
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from jaxmup._infer._growth import Growth, of_sizes
from jaxmup._program import Flat, Node
from jaxmup._tree import PathName

_POWERS = (Fraction(1), Fraction(1, 2), Fraction(2), Fraction(1, 4), Fraction(3, 2), Fraction(3, 4))
_MOST_NAMES = 3


class Words:
    """Words on the values of a program.

    Args:
      flat: The program at several sizes.
      names: Names of the parameters, by the input that each is.
    """

    def __init__(self, flat: Flat, names: Mapping[Node, PathName]):
        self.flat, self.names = flat, names
        every = (axis for node in names for axis in zip(*node.shapes, strict=True))
        self._sizes = sorted(axis for axis in dict.fromkeys(every) if of_sizes(axis))

    def factor(self, growth: Growth) -> str:
        """A growth as a power of a size, such as *(64/1024)^1/2*."""
        for sizes in self._sizes:
            one = of_sizes(sizes)
            for power in _POWERS:
                if one * power == growth:
                    return _power(sizes[-1], sizes[0], power)
                if one * -power == growth:
                    return _power(sizes[0], sizes[-1], power)
        return f"{math.exp(growth.log(1)):.4g} at `target`"

    def place(self, node: Node) -> str:
        """Operation that makes a value, and its line: *`dot_general` at model.py:115*."""
        return f"`{node.op}` at {line(node)}"

    def described(self, node: Node) -> str:
        """A value with its operands, such as *`dot_general` at model.py:115, of (8, 64) and …*."""
        return f"{self.place(node)}, {self.operands(node)}"

    def operands(self, node: Node) -> str:
        """Shapes that a value is made of at base and target, and the parameter that is nearest."""
        operands = [parent for parent in node.parents if parent.shapes[0]] or node.parents
        small, large = (
            " and ".join(dict.fromkeys(str(operand.shapes[i]) for operand in operands[:2]))
            for i in (0, -1)
        )
        shapes = f"of {small}" if small == large else f"of {small} in `base`, {large} at `target`"
        first = next(self.nearest(node), None)
        return shapes if first is None else f"{shapes}, made with `{alike(first)}`"

    def nearest(self, node: Node) -> Iterator[PathName]:
        """The parameters that a value follows from, those with the fewest values between first."""
        seen, queue = {node}, collections.deque([node])
        while queue:
            node = queue.popleft()
            if node in self.names:
                yield self.names[node]
            for parent in node.parents:
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)


def alike(name: PathName) -> str:
    """The name of a parameter and of its like in other layers, such as *layers/*/kernel*."""
    return re.sub(r"\d+", "*", name)


def line(node: Node) -> str:
    """The user's line that a value comes from, such as *model.py:115*."""
    return str(node.line or "an unknown line")


def joined(words: Iterable[str]) -> str:
    """The first few of some words, each once, and how many more there are."""
    every = list(dict.fromkeys(words))
    more = len(every) - _MOST_NAMES
    return ", ".join(every[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _power(above: int, below: int, power: Fraction) -> str:
    return f"{above}/{below}" if power == 1 else f"({above}/{below})^{power}"
