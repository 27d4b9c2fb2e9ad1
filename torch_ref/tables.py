r"""The abcd tables with c = 0 of the reference layer, as data with their sources.

Relative to a base width n0, a row (a, b, c, d) means

    W = sqrt(alpha) (n0/n)^a w        std(w) = sigma (n0/n)^b / sqrt(alpha)
    lr of w = eta (n0/n)^c            gradient of w is multiplied by (n/n0)^d
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch_ref import _check

Layer = Literal["input", "hidden", "output"]
OptimizerName = Literal["sgd", "adam", "adamw", "amsgrad"]


@dataclass(frozen=True)
class Exponents:
    """The four exponents of one parameter; all dimensionless."""

    a: float
    b: float
    c: float
    d: float


@dataclass(frozen=True)
class Table:
    """One row of exponents for each kind of layer, and where they were published.

    Biases use the `input` row: like an input weight, they have one axis that grows.
    """

    input: Exponents
    hidden: Exponents
    output: Exponents
    source: str


SGD = Table(
    input=Exponents(a=-0.5, b=0.5, c=0.0, d=0.0),
    hidden=Exponents(a=0.0, b=0.5, c=0.0, d=0.0),
    output=Exponents(a=0.5, b=0.5, c=0.0, d=0.0),
    source=(
        "Yang and Hu, Feature Learning in Infinite-Width Neural Networks, arXiv:2011.14522; "
        "the same as Yang et al., Tensor Programs V, arXiv:2203.03466, Table 9"
    ),
)

# The paper's hidden row is (0, 1/2, 1, 1); its Prop. 2.2.3 lets (a + 1, b - 1, c - 1, d + 1)
# stand in for it, which brings c to 0: one learning rate then serves every parameter.
ADAM = Table(
    input=Exponents(a=0.0, b=0.0, c=0.0, d=1.0),
    hidden=Exponents(a=1.0, b=-0.5, c=0.0, d=2.0),
    output=Exponents(a=1.0, b=0.0, c=0.0, d=1.0),
    source=(
        "Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814, Def. 2.5.1, "
        "hidden row shifted by Prop. 2.2.3"
    ),
)

TABLES: Mapping[str, Table] = MappingProxyType(
    {"sgd": SGD, "adam": ADAM, "adamw": ADAM, "amsgrad": ADAM}
)


def exponents(layer: Layer, optimizer: OptimizerName) -> Exponents:
    """The row of a weight: `layer` picks the row of the table of `optimizer`.

    Raises:
      ValueError: if `layer` or `optimizer` is unknown.

    Examples:
      >>> exponents("hidden", "adam")
      Exponents(a=1.0, b=-0.5, c=0.0, d=2.0)
      >>> exponents("output", "sgd")
      Exponents(a=0.5, b=0.5, c=0.0, d=0.0)

    References:
      The `source` of `SGD` and `ADAM`.
    """
    _check.one_of("layer", layer, ("input", "hidden", "output"))
    _check.one_of("optimizer", optimizer, TABLES)
    return getattr(TABLES[optimizer], layer)
