"""Forward gains that make all orders of a program agree: a sparse system, solved exactly."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack

from jaxmup._infer._growth import NONE, Growth
from jaxmup._infer._order import Equation, Order, Unknown
from jaxmup._infer._views import Nature
from jaxmup._program import Node

_SLACK = 1e3  # what a factor costs that no parameter carries, against one that a parameter does
INSERTED = 0.5 * _SLACK
"""What a factor costs that is inserted in the program, rather than carried by a parameter."""
_BELOW = 1.0  # what it costs if gains make a value smaller that an eps keeps from zero
_FINEST = 96  # largest denominator of an exponent


class Solution(NamedTuple):
    """Gains, and what they leave.

    Args:
      gains: Growth of the gain of each unknown, without those that are one.
      left: The growth that is too much at each equation that no gains fulfil.
    """

    gains: dict[Unknown, Growth]
    left: list[tuple[Equation, Growth]]


def solve(
    equations: Sequence[Equation],
    cost: Callable[[Unknown], float],
    floored: Sequence[Order],
    rank: Callable[[Growth], tuple[float, float]],
) -> Solution:
    """The cheapest gains, few rather than many, that fulfil the equations, or most of them.

    The sum of absolute exponents is least, which is what makes them few; a factor that one
    parameter near it can carry is not spread over the model, and one that many places lack alike is
    carried by what they have in common. What a norm undoes, its eps does not: gains that shrink
    what the norm divides by cost more than those behind it.

    Args:
      equations: Orders that must be zero.
      cost: Cost of a gain, by its unknown; zero for one that is no parameter's.
      floored: Orders of values that a constant keeps from zero.
      rank: A function that is the larger, the faster something grows with the width, so that a
        narrower target gets the inverse of a wider one's gains.
    """
    if not any(equation.order.growth for equation in equations):
        return Solution({}, [])
    basis, coordinates = _directions(
        [e.order.growth for e in equations] + [o.growth for o in floored]
    )
    unknowns = list(dict.fromkeys(u for e in equations for u in e.order.degrees))
    gains: dict[Unknown, Growth] = {}
    for k, direction in enumerate(basis):
        wanted = [row[k] for row in coordinates]
        if not any(wanted[: len(equations)]):
            continue
        sign = 1 if rank(direction) > rank(NONE) else -1
        orders = [*(equation.order for equation in equations), *floored]
        slack = _slack(len(equations), len(floored), sign)
        for unknown, exponent in _exponents(orders, unknowns, wanted, cost, slack).items():
            gains[unknown] = gains.get(unknown, NONE) + direction * exponent
    gains = {unknown: growth for unknown, growth in gains.items() if growth}
    rest = [(equation, at(equation.order, gains)) for equation in equations]
    return Solution(gains, [(equation, growth) for equation, growth in rest if growth])


def at(order: Order, gains: Mapping[Unknown, Growth]) -> Growth:
    """The growth of a value of this order with these gains."""
    total = order.growth
    for unknown, degree in order.degrees.items():
        if unknown in gains:
            total = total + gains[unknown] * degree
    return total


def way_to_origin(
    equation: Equation, residual: Callable[[Node], Growth], nature: Callable[[Node], Nature]
) -> list[Node]:
    """Values of wrong order, from that of an equation to the first that had it.

    Args:
      equation: An equation that does not hold.
      residual: The growth of a value that it should not have.
      nature: The nature of a value.
    """
    node = equation.value
    if not residual(node):
        node = next(filter(residual, equation.site.parents), node)
    way: dict[Node, None] = {}
    while node not in way:
        way[node] = None
        wrong = (parent for parent in node.parents if residual(parent))
        node = next((parent for parent in wrong if nature(parent) == "activation"), node)
    return list(way)


def _slack(equations: int, floored: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """The cost of an order below zero, and above it, along a direction of this sign."""
    # All together less than a factor that nobody carries, however many norms there are.
    below = np.full(floored, min(_BELOW, 0.1 * INSERTED / max(floored, 1)))
    hard, free = np.full(equations, _SLACK), np.zeros(floored)
    soft = (below, free) if sign > 0 else (free, below)
    return np.concatenate([hard, soft[0]]), np.concatenate([hard, soft[1]])


def _exponents(
    orders: Sequence[Order],
    unknowns: Sequence[Unknown],
    wanted: Sequence[Fraction],
    cost: Callable[[Unknown], float],
    slack: tuple[np.ndarray, np.ndarray],
) -> dict[Unknown, Fraction]:
    """The exponents of gains along one direction; `wanted` are the orders' own."""
    column = {unknown: i for i, unknown in enumerate(unknowns)}
    rows, columns, values = [], [], []
    for row, order in enumerate(orders):
        for unknown, degree in order.degrees.items():
            if unknown in column:
                rows.append(row)
                columns.append(column[unknown])
                values.append(float(degree))
    n, m = len(orders), len(unknowns)
    matrix = csr_array((values, (rows, columns)), shape=(n, m))
    identity = csr_array((np.ones(n), (np.arange(n), np.arange(n))), shape=(n, n))
    # Gains and slacks, each as the difference of two that are not negative.
    constraints = hstack([matrix, -matrix, identity, -identity], format="csr")
    costs = np.array([cost(unknown) for unknown in unknowns])
    found = linprog(
        np.concatenate([costs, costs, *slack]),
        A_eq=constraints,
        b_eq=-np.array([float(x) for x in wanted]),
        bounds=(0, None),
        method="highs-ds",
    )
    values = found.x[:m] - found.x[m : 2 * m]
    exact = [Fraction(float(value)).limit_denominator(_FINEST) for value in values]
    return {unknown: x for unknown, x in zip(unknowns, exact, strict=True) if x}


def _directions(growths: Sequence[Growth]) -> tuple[list[Growth], list[list[Fraction]]]:
    """Growths that span all of them, and the exponents of each in those."""
    places = sorted({place for growth in growths for place in growth.powers}, key=str)
    basis: list[Growth] = []
    # Each row, reduced, with the combination of the basis that it is.
    reduced: list[tuple[int, list[Fraction], dict[int, Fraction]]] = []
    found: dict[Growth, dict[int, Fraction]] = {}
    for growth in growths:
        if not growth or growth in found:
            continue
        row = [growth.powers.get(place, Fraction(0)) for place in places]
        combination: dict[int, Fraction] = {}
        for pivot, other, made_of in reduced:
            if row[pivot]:
                factor = row[pivot] / other[pivot]
                row = [a - factor * b for a, b in zip(row, other, strict=True)]
                for k, x in made_of.items():
                    combination[k] = combination.get(k, Fraction(0)) + factor * x
        pivot = next((i for i, x in enumerate(row) if x), None)
        if pivot is not None:
            k = len(basis)
            basis.append(growth)
            reduced.append(
                (pivot, row, {k: Fraction(1), **{i: -x for i, x in combination.items()}})
            )
            combination = {k: Fraction(1)}
        found[growth] = combination
    zero: dict[int, Fraction] = {}
    return basis, [
        [found.get(growth, zero).get(k, Fraction(0)) for k in range(len(basis))]
        for growth in growths
    ]
