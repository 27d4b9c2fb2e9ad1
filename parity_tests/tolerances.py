"""How a difference is measured, how large each may be, and why."""

from typing import Any, NamedTuple

import numpy as np


class Tol(NamedTuple):
    """The largest relative difference, and why it is that."""

    largest: float
    why: str


# Every number that a test compares with is a row of this table.
TOL = {
    "rule": Tol(1e-14, "float64: a handful of roundings in powers of Python floats"),
    "one step": Tol(1e-12, "float64: sums of up to 16 terms in another order, through 5 layers"),
    "hundred steps": Tol(1e-11, "float64: each step starts from the differences of the last"),
    "fifty steps": Tol(1e-12, "float64: the same of sums of 8 terms; seen: 1e-15"),
    "schedule": Tol(1e-11, "float64: torch follows a cosine by recursion, optax by its formula"),
    "seam": Tol(1e-11, "float64: eight steps of either, and rounding where they meet"),
    "gradients": Tol(1e-11, "float64: as a step, through the roots of norms"),
    "whole model": Tol(1e-11, "float64: twenty steps, most of them of different programs"),
    "published": Tol(1e-11, "float64: two blocks, through softmax and the roots of norms"),
    "published, float32": Tol(1e-5, "the same in float32; issue 20 asks for 1e-5"),
    "one step, float32": Tol(3e-6, "25 roundings of 1.2e-7; seen: 7e-7"),
    "hundred steps, float32": Tol(2e-4, "of a hundred such steps; seen: 4e-5"),
    "one step, bfloat16": Tol(6e-2, "each layer is rounded by 2^-8 = 4e-3; seen: 3e-2"),
    "losses, bfloat16": Tol(6e-2, "of a hundred such steps; seen: 2.5e-2"),
    "weights, bfloat16": Tol(0.25, "the same: a ReLU that opens on one side only; seen: 0.12"),
    "printed": Tol(2e-4, "the source prints four decimals: 5e-5 of 0.33 and more"),
    "fixed point": Tol(1e-6, "a trial update of 1e-5 is read off to 1e-11; issue 9 asks for 1e-6"),
    "counter-example": Tol(1e-12, "float64: the same formula, on numbers up to 1"),
    "disagreement": Tol(1e-5, "what a mistake moves at least: a million times the hundred steps"),
    "optax.amsgrad": Tol(1e-2, "what the other place of the maximum moves at least; seen: 0.1"),
}

STANDARD_ERRORS = 5.0  # of the standard deviation of n normal samples, 1 / sqrt(2 n): 1 in 10^6


def relative(actual: Any, expected: Any) -> float:
    """The largest difference in each step over the largest entry expected in it; of all steps.

    The first axis of both is that of the steps. Entries of one step share a denominator: an entry
    is a sum whose terms may cancel, and it is rounded in units of the terms. The largest entry
    measures those; a sum that came out near zero measures nothing. From a step of zeros only zeros
    differ by less than infinity.

    Of dicts and tuples it is the largest of what they hold.
    """
    if isinstance(expected, tuple):
        return max(relative(a, e) for a, e in zip(actual, expected, strict=True))
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), (sorted(actual), sorted(expected))
        return max((relative(actual[name], expected[name]) for name in expected), default=0.0)
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    rest = tuple(range(1, expected.ndim))
    difference, largest = np.abs(actual - expected).max(rest), np.abs(expected).max(rest)
    of_zero = np.where(difference > 0, np.inf, 0.0)
    return float(np.divide(difference, largest, where=largest > 0, out=of_zero).max())
