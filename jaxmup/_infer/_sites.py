"""Sites: values of a program, found again in its programs of other sizes, inputs and flags."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

from jaxmup._correction import Site, SourceLine
from jaxmup._infer._words import alike
from jaxmup._program import Flat, Node, lines_of
from jaxmup._tree import PathName

T = TypeVar("T", bound=Hashable)

_INPUT = "..."


class Sites:
    """The values of a program, by what is the same in its programs of all sizes and inputs.

    Args:
      flat: The program.
      names: Names of the parameters, by the input that each is.
    """

    def __init__(self, flat: Flat, names: Mapping[Node, PathName]):
        self.flat = flat
        self._made_of = _made_of(flat, names)
        self._known: dict[Node, tuple[SourceLine, ...]] = {}

    def sites(self, wanted: Mapping[Node, T]) -> dict[Node, Site]:
        """The site of each of the wanted values; alike values of one mark share theirs.

        Args:
          wanted: A mark of each value.
        """
        return {node: self._site(node, wanted) for node in wanted}

    def find(self, site: Site) -> list[Node]:
        """The values of a site: none if it is not in the program, or not as often as it was."""
        found = self._alike(site.op, site.output, site.operands, site.lines)
        if not site.which:
            return found
        return [found[i] for i in site.which] if len(found) == site.number else []

    def _site(self, node: Node, wanted: Mapping[Node, T]) -> Site:
        lines = self._lines(node)
        key = node.op, node.output, self._operands(node)
        for depth in range(min(1, len(lines)), len(lines) + 1):
            alike = self._alike(*key, lines[:depth])
            if all(wanted.get(other) == wanted[node] for other in alike):
                return Site(*key, lines[:depth])
        alike = self._alike(*key, lines)
        which = (i for i, other in enumerate(alike) if wanted.get(other) == wanted[node])
        return Site(*key, lines, len(alike), tuple(which))

    def _alike(
        self, op: str, output: int, operands: Sequence[str], lines: Sequence[SourceLine]
    ) -> list[Node]:
        """The values of which all this is true, in the order of the program."""
        return [
            node
            for node in self.flat.nodes
            if node.op == op
            and node.equations
            and node.output == output
            and self._operands(node) == operands
            and self._lines(node)[: len(lines)] == lines
        ]

    def _lines(self, node: Node) -> tuple[SourceLine, ...]:
        """The user's lines of a value, in files that are called the same on other machines."""
        if node not in self._known:
            self._known[node] = tuple(
                SourceLine("/".join(PurePath(file).parts[-2:]), line, function)
                for file, line, function in lines_of(node.path)
            )
        return self._known[node]

    def _operands(self, node: Node) -> tuple[str, ...]:
        return tuple(_words(self._made_of[parent]) for parent in node.parents)


def _made_of(flat: Flat, names: Mapping[Node, PathName]) -> dict[Node, frozenset[str]]:
    """All that each value follows from: parameters by their names, and whatever else goes in."""
    found: dict[Node, frozenset[str]] = {}
    carries = [node for node in flat.nodes if node.op == "carry"]
    while True:  # until what goes around in loops is known
        before = [found.get(node) for node in carries]
        for node in flat.nodes:
            if node.op == "input":
                # Layers are alike, and a target may have more of them.
                name = names.get(node, _INPUT)
                found[node] = frozenset({alike(name)})
            else:
                parents: Iterable[frozenset[str]] = (
                    found.get(p, frozenset()) for p in node.parents
                )
                found[node] = frozenset().union(*parents)
        if before == [found.get(node) for node in carries]:
            return found


def _words(sources: frozenset[str]) -> str:
    return _INPUT if _INPUT in sources else ", ".join(sorted(sources))
