"""Check: the step grows with gradient and weight as those of the family do."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmup._finding import Finding
from jaxmup._lint._chain import Asked, Check, Updates, moving
from jaxmup._lint._probe import Trial

_GRADIENTS = (1e-6, 1e-3, 1.0)
_WEIGHTS = (0.01, 0.02)
_SIGNS = (1, -1)  # half the difference of the two is the step without what decay takes off


def _trials(asked: Asked) -> dict[Any, Trial]:
    sizes = [(size, float(asked.weights[0])) for size in _GRADIENTS]
    sizes += [(1.0, weight) for weight in _WEIGHTS]
    return {
        (sign, gradient, weight): Trial(sign * gradient * asked.gradients, asked.zeros + weight)
        for sign in _SIGNS
        for gradient, weight in sizes
    }


def _findings(asked: Asked, updates: Updates) -> Iterator[Finding]:
    def step(gradient: float, weight: float) -> np.ndarray:
        ahead, back = (updates[sign, gradient, weight][0] for sign in _SIGNS)
        return np.abs(ahead - back)

    def growth(small: np.ndarray, large: np.ndarray) -> float:
        both = moving(small) & moving(large)
        return float(np.median(large[both] / small[both])) if both.any() else np.nan

    weight = float(asked.weights[0])
    steps = [step(gradient, weight) for gradient in _GRADIENTS]
    decades = [growth(small, large) for small, large in itertools.pairwise(steps)]
    heavier = growth(*(step(1.0, weight) for weight in _WEIGHTS))
    # An eps makes a step follow small gradients and a clip keeps it from following large ones, so
    # all must be beyond doubt.
    for what, degree, follows, ignores in (
        ("gradient", asked.family.gradient_degree, min(decades) > 500, max(decades) < 2),
        ("weight", asked.family.weight_degree, heavier > 1.9, heavier < 1.1),
    ):
        if (degree == 0 and follows) or (degree == 1 and ignores):
            does, should = ("grows", "does not") if follows else ("does not grow", "does")
            yield Finding(
                "family-mismatch",
                f"The step {does} in proportion to the {what}; in the family "
                f"{asked.family.name!r}, which the scalings are for, it {should}.",
                (),
                "Learning rates, eps and weight decay of one family are wrong for another.",
                "Resolve the specs with `jaxmup.parametrization(name, optimizer)` for the "
                "optimizer that is used.",
            )


FAMILY = Check(_trials, _findings)
