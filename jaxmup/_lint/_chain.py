"""The numbers that a parametrization asks of an optimizer chain, and how trials are judged."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmup._families import Family
from jaxmup._finding import Finding
from jaxmup._lint._probe import Trial
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec

TOLERANCE = 0.03  # wrong factors are powers of width ratios, right ones agree to rounding
USUAL = 1e-3  # size of a gradient beside which eps is negligible, and that no clip acts on


@dataclasses.dataclass(frozen=True)
class Asked:
    """The numbers that a chain is asked for; arrays are over the parameters.

    Args:
      paths: Names of the parameters.
      specs: Spec of each parameter, in the order of the names.
      scalings: Scaling of each parameter, in the same order, all for one family.
      family: Family of the scalings.
    """

    paths: tuple[str, ...]
    specs: tuple[ParamSpec, ...]
    scalings: tuple[Scaling, ...]
    family: Family

    def of(self, field: str) -> np.ndarray:
        """A field of the scaling of each parameter."""
        return np.array([getattr(scaling, field) for scaling in self.scalings])

    @property
    def gradients(self) -> np.ndarray:
        """Growth of the gradients with the width, as the model gives them."""
        if not self.family.gradient_degree:
            return self.of("eps") / self.of("grad")  # so that the optimizer sees equals beside eps
        # Norms are the same in Table 9's gauge; an entry's share of one is its root.
        growth = np.array([spec.r_in * spec.r_out for spec in self.specs])
        return 1 / (self.of("norm") * np.sqrt(growth))

    @property
    def zeros(self) -> np.ndarray:
        """Weights that do not decay."""
        return np.zeros(len(self.paths))

    @property
    def weights(self) -> np.ndarray:
        """Weights of equal size, so small that weight decay is not seen beside a step."""
        return self.zeros + (0.01 if self.family.weight_degree else 0.0)


Updates = Mapping[Any, np.ndarray]  # two for each trial, shape (2, parameters)


class Check(NamedTuple):
    """Trials of a chain, and the mistakes that their updates show."""

    trials: Callable[[Asked], dict[Any, Trial]]
    findings: Callable[[Asked, Updates], Iterator[Finding]]


def same(x: np.ndarray) -> bool:
    """Says if all numbers are one, within the tolerance."""
    return x.size == 0 or bool(np.all(np.abs(x - np.median(x)) <= TOLERANCE * abs(np.median(x))))


def moving(x: np.ndarray) -> np.ndarray:
    """True for parameters that are updated at all: that one is frozen is no mistake."""
    return np.isfinite(x) & (x != 0)


def most_common(x: np.ndarray) -> float:
    """The number that most others are equal to."""
    votes = [np.count_nonzero(np.abs(x - one) <= TOLERANCE * np.abs(one)) for one in x]
    return float(x[int(np.argmax(votes))])
