"""Families of optimizers: how the size of a step follows from that of gradient and weight."""

import dataclasses
import math
from typing import Literal

from jaxmup._power import ONE, Power
from jaxmup._spec import Role

FamilyName = Literal["sgd", "adam", "adafactor", "muon", "shampoo"]
OptimizerName = Literal[
    "sgd",
    "momentum",
    "nesterov",
    "adam",
    "adamw",
    "amsgrad",
    "nadam",
    "radam",
    "adamax",
    "adabelief",
    "yogi",
    "rmsprop",
    "adagrad",
    "lion",
    "sign_sgd",
    "adam_atan2",
    "adafactor_unscaled",
    "adafactor",
    "lamb",
    "lars",
    "muon",
    "shampoo",
]

_MATRIX = Power(r_in=0.5, r_out=0.5)


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    r"""Optimizers whose step depends in the same way on gradients, on the weight and on its shape.

    With k = `gradient_degree` and j = `weight_degree`, an entry of a step has the size

    .. math:: \eta \cdot unit \cdot gradient^k \cdot weight^j .

    Scalings serve every optimizer of their family, and none of another.

    Args:
      name: what errors call it.
      gradient_degree: 1 if the step is proportional to the gradient, 0 if its size does not change
        with it.
      weight_degree: 1 if the step is proportional to the size of the weight, else 0.
      unit: size of the part of the step that acts on activations, entry by entry, relative to the
        base model at equal gradients and weights. One for optimizers that treat every entry alike.
        An orthogonalized matrix has singular values 1 at every width, so the entries of its part
        of rank one shrink as :math:`(r_{in} r_{out})^{-1/2}`.
      eps: what the optimizer's eps stands beside, relative to an entry of the gradient: one, or
        :math:`(r_{in} r_{out})^{1/2}` for the norm of a matrix; `None` if there is no eps.
      hidden_only: whether it is for matrices both of whose sides grow, and the other parameters
        train with the family `adam`.

    Raises:
      TypeError: if `unit` or `eps` is no `Power`.
      ValueError: if a degree is not a finite number.

    Example:
      >>> Family("normalized", gradient_degree=0, weight_degree=0, unit=Power(r_in=-0.5)).unit.r_in
      -0.5
    """

    name: str
    gradient_degree: float
    weight_degree: float
    unit: Power = ONE
    eps: Power | None = ONE
    hidden_only: bool = False

    def __post_init__(self) -> None:
        for degree in (self.gradient_degree, self.weight_degree):
            if not (isinstance(degree, int | float) and math.isfinite(degree)):
                raise ValueError(f"Degrees must be finite numbers. Got {degree!r} in {self}.")
        if not isinstance(self.unit, Power) or not isinstance(self.eps, Power | None):
            raise TypeError(
                f"`unit` and `eps` must be a `Power`. Got {self.unit!r} and {self.eps!r}."
            )

    def at(self, role: Role) -> "Family":
        """The family of a parameter of this role in a model that trains with this one."""
        return FAMILIES["adam"] if self.hidden_only and role != "hidden" else self


def shampoo(left: float = 0.25, right: float = 0.25) -> Family:
    r"""Shampoo, whose step is :math:`L^{-left}\, G\, R^{-right}` with Gram matrices L and R of G.

    Its eps is the root of what is added to a Gram matrix.

    Args:
      left: power of the preconditioner on the left.
      right: power of the preconditioner on the right.

    Example:
      >>> shampoo(0.5, 0.5).gradient_degree
      -1.0

    References:
      Qiu et al., "Hyperparameter Transfer Enables Consistent Gains of Matrix-Preconditioned
      Optimizers Across Scales", arXiv:2512.05620, Table 1.
    """
    power = left + right
    name = "shampoo" if (left, right) == (0.25, 0.25) else f"shampoo({left:g}, {right:g})"
    return Family(name, 1 - 2 * power, 0, unit=_MATRIX ** (-2 * power), eps=_MATRIX)


_ALL = (
    Family("sgd", gradient_degree=1, weight_degree=0, eps=None),
    Family("adam", gradient_degree=0, weight_degree=0),
    Family("adafactor", gradient_degree=0, weight_degree=1),
    Family("muon", 0, 0, unit=_MATRIX**-1.0, eps=_MATRIX, hidden_only=True),
    shampoo(),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


@dataclasses.dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer by the name that users know it by: its family, and where it is from."""

    family: FamilyName
    source: str


OPTIMIZERS: dict[OptimizerName, Optimizer] = {
    "sgd": Optimizer("sgd", "Robbins and Monro, A Stochastic Approximation Method, 1951"),
    "momentum": Optimizer("sgd", "Polyak, Some Methods of Speeding Up Convergence, 1964"),
    "nesterov": Optimizer("sgd", "Sutskever et al., On the Importance of Momentum, ICML 2013"),
    "adam": Optimizer("adam", "Kingma and Ba, arXiv:1412.6980"),
    "adamw": Optimizer("adam", "Loshchilov and Hutter, arXiv:1711.05101"),
    "amsgrad": Optimizer("adam", "Reddi et al., arXiv:1904.09237"),
    "nadam": Optimizer("adam", "Dozat, Incorporating Nesterov Momentum into Adam, 2016"),
    "radam": Optimizer("adam", "Liu et al., arXiv:1908.03265"),
    "adamax": Optimizer("adam", "Kingma and Ba, arXiv:1412.6980, Section 7.1"),
    "adabelief": Optimizer("adam", "Zhuang et al., arXiv:2010.07468"),
    "yogi": Optimizer("adam", "Zaheer et al., Adaptive Methods for Nonconvex Optimization, 2018"),
    "rmsprop": Optimizer("adam", "Tieleman and Hinton, Lecture 6.5, 2012"),
    "adagrad": Optimizer("adam", "Duchi et al., Adaptive Subgradient Methods, 2011"),
    "lion": Optimizer("adam", "Chen et al., arXiv:2302.06675"),
    "sign_sgd": Optimizer("adam", "Bernstein et al., arXiv:1802.04434"),
    "adam_atan2": Optimizer("adam", "Everett et al., arXiv:2407.05872, Section 4.5"),
    "adafactor_unscaled": Optimizer("adam", "Shazeer and Stern, arXiv:1804.04235, Section 7"),
    "adafactor": Optimizer("adafactor", "Shazeer and Stern, arXiv:1804.04235, Algorithm 4"),
    "lamb": Optimizer("adafactor", "You et al., arXiv:1904.00962"),
    "lars": Optimizer("adafactor", "You et al., arXiv:1708.03888"),
    "muon": Optimizer("muon", "Jordan et al., Muon, 2024"),
    "shampoo": Optimizer("shampoo", "Gupta et al., arXiv:1802.09568"),
}


def family_of(optimizer: OptimizerName | Family) -> Family:
    """The family of an optimizer, by its name; a `Family` is its own.

    Raises:
      ValueError: if there is no optimizer of that name, or a `Family` has the name of another.

    Example:
      >>> family_of("lion").name
      'adam'
    """
    if isinstance(optimizer, Family):
        if optimizer != FAMILIES.get(optimizer.name, optimizer):
            raise ValueError(
                f"The name of a `Family` must be its own. Got {optimizer}, whose name means "
                f"{FAMILIES[optimizer.name]}. Give it another name."
            )
        return optimizer
    if optimizer not in tuple(OPTIMIZERS):  # by equality: what is asked for may have no hash
        raise ValueError(
            f"`family` must be one of {', '.join(map(repr, OPTIMIZERS))}, or a `Family`. "
            f"Got {optimizer!r}."
        )
    return FAMILIES[OPTIMIZERS[optimizer].family]


def in_one_model(family: str) -> set[str]:
    """The families whose scalings may stand side by side where a model trains with `family`.

    Example:
      >>> sorted(in_one_model("muon")), sorted(in_one_model("sgd"))
      (['adam', 'muon'], ['sgd'])
    """
    known = FAMILIES.get(family)  # a family of the user's may be for hidden matrices alone
    return {family, "adam"} if known is None or known.hidden_only else {family}
