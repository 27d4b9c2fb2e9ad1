"""Sums of random signs: by how much values and gradients fall short until features have aligned.

muP's exponents speak of sums whose terms have aligned: `n` terms of order `1/n` add up to order 1.
At initialization most signs are random, and the same sum is of order `n^-1/2`. The first steps are
between the two. Where such sums stand can be read off the program:

- Forward, a weight's sum is as muP made it, unless it sums over more than it puts out: a readout, a
  layer that narrows. A product of two activations, as that of queries and keys, is a random sum
  over whatever grows.
- Backward, the gradient of a value sums over whatever its uses have grown by. A hidden layer's
  weights are as small as that needs. But the gradient of an attention logit, of a gate, of an
  output that is embedded again is a product of features and their gradients over all of them.
- Of several ways to the loss the one with the fewest such sums counts: a residual stream has none.
- The gradient of a factor is as small as the other factor.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxmup._program import ClosedJaxpr, Flat, Line, Node, flatten, is_inexact
from jaxmup._tree import PathName
from jaxmup.coord_check._tags import logits_in, numbered, tag_of

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"})
# They put values beside others, or take some out: a gradient sums over nothing.
_MOVES = frozenset(
    {
        "concatenate", "pad", "gather", "dynamic_slice", "dynamic_update_slice", "slice", "stack",
        "scatter", "scatter-add", "scatter_add", "shard", "unshard", "sort", "top_k", "rev",
        "transpose", "reshape", "squeeze", "carry", "choice", "select_n", "copy", "split",
    }
)  # fmt: skip
# Of order 1 whatever they are made of is not.
_OF_ORDER_ONE = frozenset({"exp", "exp2", "logistic", "cos", "erfc", "rsqrt"})
_POSITIVE = frozenset({"exp", "exp2", "logistic", "abs", "square", "sqrt"})
_LOOSE = frozenset({"reshape", "transpose", "convert_element_type", "squeeze", "copy", "name"})


class Signs(NamedTuple):
    """The effects of random signs on a model in its first steps.

    Args:
      gradients: Exponent by which the gradient of each parameter may fall short at first.
      outputs: Exponent by which each tagged value may, by the name that `collecting` gives it.
      unseen: Names of the tagged values that the loss does not depend on.
      lines: Lines of the user's code that tagged values and attention logits come from, and that
        parameters are first used at, where there are any.
    """

    gradients: Mapping[PathName, float]
    outputs: Mapping[str, float]
    unseen: frozenset[str]
    lines: Mapping[str, Line]


ALIGNED = Signs({}, {}, frozenset(), {})
"""No sums of random signs."""


def signs_of(
    programs: Sequence[ClosedJaxpr], names: Sequence[PathName], ratio: float = 2.0
) -> Signs:
    """The effects of random signs on a model, read off its loss.

    Args:
      programs: The loss, with tags inside, at one size or two; the parameters are its first inputs.
      names: Names of the parameters, in the order of the inputs.
      ratio: The larger size over the smaller.

    Raises:
      ValueError: if the programs do other things.
    """
    flat = flatten(*programs)
    graph = _Graph(flat, math.log(ratio), len(names))
    tagged = [(tag, node) for node in flat.nodes if (tag := tag_of(node)) is not None]
    named = dict(zip(numbered(tag for tag, _ in tagged), (node for _, node in tagged), strict=True))
    gradients = {
        name: short if math.isfinite(short := graph.backward[node]) else 0.0
        for name, node in zip(names, flat.inputs, strict=False)
    }
    return Signs(
        gradients,
        {name or "output": graph.forward[node] for name, node in named.items()},
        frozenset(n or "output" for n, node in named.items() if math.isinf(graph.backward[node])),
        _lines_of_uses(flat, names) | _lines_of(named) | _lines_of(logits_in(flat.nodes)),
    )


def _lines_of(nodes: Mapping[str, Node]) -> dict[str, Line]:
    return {name or "output": node.line for name, node in nodes.items() if node.line is not None}


def _lines_of_uses(flat: Flat, names: Sequence[PathName]) -> dict[str, Line]:
    """The first line at which each parameter is used."""
    name_of = dict(zip(flat.inputs, names, strict=False))
    lines: dict[str, Line] = {}
    for node in flat.nodes:
        for parent in node.parents:
            if parent in name_of and node.line is not None:
                lines.setdefault(name_of[parent], node.line)
    return lines


class _Graph:
    """A loss as a graph of values, and by how much each falls short.

    Args:
      flat: The loss at one size or two.
      log_ratio: Logarithm of the larger size over the smaller.
      number: Number of parameters.
    """

    def __init__(self, flat: Flat, log_ratio: float, number: int):
        self.log_ratio = log_ratio
        self.weights, self.constants = _natures(flat, number)
        self.forward = self._falls_short(flat.nodes)
        self.backward = self._gradient_falls_short(flat)

    def growth(self, node: Node, axes: Sequence[int] | None = None) -> float:
        """The exponent of the number of entries, or of those along some axes."""
        small, large = (
            math.prod(shape if axes is None else [shape[axis] for axis in axes])
            for shape in (node.shapes[0], node.shapes[-1])
        )
        return math.log(large / small) / self.log_ratio if small and large else 0.0

    def _falls_short(self, nodes: Sequence[Node]) -> dict[Node, float]:
        # What a loop carries follows from itself: it starts out as falling short of anything, and
        # comes down to the least of what is added to it.
        short = {node: math.inf if node.op == "carry" else 0.0 for node in nodes}
        changed = True
        while changed:
            changed = False
            for node in nodes:
                new = self._forward(node, short)
                if not math.isclose(new, short[node], abs_tol=1e-9):
                    short[node], changed = new, True
        return {node: value if math.isfinite(value) else 0.0 for node, value in short.items()}

    def _forward(self, node: Node, short: Mapping[Node, float]) -> float:
        parents = [one for one in node.parents if is_inexact(one.types[0])]
        if not parents or not is_inexact(node.types[0]) or node.op in _OF_ORDER_ONE:
            return 0.0
        if node.op in _PRODUCTS:
            return sum(short[one] for one in parents) + self._random_sum(node) / 2
        if node.op == "mul":
            return sum(short[one] for one in parents)
        if node.op == "div":
            return short[parents[0]]
        if node.op == "reduce_sum" and not _is_positive(parents[0]):
            lost = self.growth(parents[0]) - self.growth(node)
            return short[parents[0]] + max(0.0, lost) / 2
        # Biases start at zero, and so do states: what is added to them counts.
        terms = [one for one in parents if one not in self.weights | self.constants] or parents
        return min(short[one] for one in terms)

    def _random_sum(self, node: Node) -> float:
        """The exponent of the number of terms that a product sums with random signs."""
        left, right = node.parents[:2]
        if left in self.weights or right in self.weights or node.op != "dot_general":
            features = right if left in self.weights else left
            # muP's weights make up for a sum over `n` terms where they put out as many.
            return max(0.0, self.growth(features) - self.growth(node))
        if _root(left) is _root(right):
            return 0.0
        return self.growth(left, _contracted(node))

    def _gradient_falls_short(self, flat: Flat) -> dict[Node, float]:
        short = dict.fromkeys(flat.nodes, math.inf)
        for output in flat.outputs:
            short[output] = 0.0
        changed = True
        while changed:
            changed = False
            for node in reversed(flat.nodes):
                if node.op == "stop_gradient" or math.isinf(short[node]):
                    continue
                for position, parent in enumerate(node.parents):
                    if not is_inexact(parent.types[0]):
                        continue
                    new = short[node] + self._edge(node, position)
                    if new < short[parent] - 1e-9:
                        short[parent], changed = new, True
        return short

    def _edge(self, node: Node, position: int) -> float:
        """By how much the gradient of a parent falls short of that of a value."""
        parent, others = node.parents[position], list(node.parents)
        del others[position]
        factors = 0.0
        if node.op in _PRODUCTS or node.op == "mul":
            factors = sum(self.forward[one] for one in others if is_inexact(one.types[0]))
        elif node.op == "div" and position == 1:
            factors = self.forward[others[0]]
        if node.op in _MOVES:
            return factors
        summed = self.growth(node) - self.growth(parent)
        of_two = node.op == "dot_general" and others[0] not in self.weights
        if of_two or (node.op == "dot_general" and parent in self.weights):
            summed += self.growth(node.parents[0], _contracted(node))
        return factors + max(0.0, summed) / 2


def _natures(flat: Flat, number: int) -> tuple[set[Node], set[Node]]:
    """The values that follow from parameters alone, and those that follow from no input."""
    of_parameters, of_inputs = set(flat.inputs[:number]), set(flat.inputs[number:])
    for made in (of_parameters, of_inputs):
        changed = True
        while changed:
            new = {
                node
                for node in flat.nodes
                if node not in made and any(one in made for one in node.parents)
            }
            made |= new
            changed = bool(new)
    return of_parameters - of_inputs, set(flat.nodes) - of_parameters - of_inputs


def _contracted(node: Node) -> Sequence[int]:
    return node.equations[0].params["dimension_numbers"][0][0]


def _root(node: Node) -> Node:
    while node.op in _LOOSE:
        node = node.parents[0]
    return node


def _is_positive(node: Node) -> bool:
    node = _root(node)
    if node.op == "integer_pow":
        return node.equations[0].params["y"] % 2 == 0
    if node.op == "mul":
        return _root(node.parents[0]) is _root(node.parents[1])
    return node.op in _POSITIVE
