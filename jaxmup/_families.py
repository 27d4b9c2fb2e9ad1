"""Families of optimizers: how the size of a step follows from that of gradient and weight."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxmup import _check
from jaxmup._power import ONE, Power, representation
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
      name: Name in errors and records; that of no other family.
      gradient_degree: Power k of the gradient: 1 if the step is proportional to it, 0 if the size
        of the step does not change with it.
      weight_degree: Power j of the weight: 1 if the step is proportional to its size, else 0.
      unit: Size of the part of the step that acts on activations, entry by entry, relative to the
        base model at equal gradients and weights. One for optimizers that treat every entry alike.
        An orthogonalized matrix has singular values 1 at every width, so the entries of its part
        of rank one shrink as :math:`(r_{in} r_{out})^{-1/2}`.
      eps: Size of what the optimizer's eps is added to, relative to an entry of the gradient: one,
        or :math:`(r_{in} r_{out})^{1/2}` for the norm of a matrix; `None` if there is no eps.
      hidden_only: Whether it is for matrices both of whose sides grow, and the other parameters
        train with the family `adam`.

    Raises:
      TypeError: if a degree is no number, or `unit` or `eps` no `Power`.
      ValueError: if a degree is not finite.

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

    def __repr__(self) -> str:
        return representation(self)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"`name` must be a string. Got {self.name!r}.")
        if not self.name:
            raise ValueError("`name` must not be empty. Errors and tables show it.")
        for name in ("gradient_degree", "weight_degree"):
            _check.number(name, getattr(self, name), may_be_traced=False)
            object.__setattr__(self, name, _check.plain(getattr(self, name)))
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
      left: Power of the preconditioner on the left.
      right: Power of the preconditioner on the right.

    Raises:
      TypeError, ValueError: if a power is not a finite number.

    Example:
      >>> shampoo(0.5, 0.5).gradient_degree
      -1.0

    References:
      Qiu et al., "Hyperparameter Transfer Enables Consistent Gains of Matrix-Preconditioned
      Optimizers Across Scales", arXiv:2512.05620, Table 1.
    """
    remedy = "The preconditioner is raised to minus this power; 0.25 is Shampoo's."
    _check.number("left", left, at_least=0, may_be_traced=False, remedy=remedy)
    _check.number("right", right, at_least=0, may_be_traced=False, remedy=remedy)
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
class KnownOptimizer:
    """An optimizer that users know by a name.

    Args:
      family: Family whose scalings it shares.
      source: Paper or note that it is from.
    """

    family: Family
    source: str


_SOURCES: dict[OptimizerName, tuple[FamilyName, str]] = {
    "sgd": ("sgd", "Robbins and Monro, A Stochastic Approximation Method, 1951"),
    "momentum": ("sgd", "Polyak, Some Methods of Speeding Up Convergence, 1964"),
    "nesterov": ("sgd", "Sutskever et al., On the Importance of Momentum, ICML 2013"),
    "adam": ("adam", "Kingma and Ba, arXiv:1412.6980"),
    "adamw": ("adam", "Loshchilov and Hutter, arXiv:1711.05101"),
    "amsgrad": ("adam", "Reddi et al., arXiv:1904.09237"),
    "nadam": ("adam", "Dozat, Incorporating Nesterov Momentum into Adam, 2016"),
    "radam": ("adam", "Liu et al., arXiv:1908.03265"),
    "adamax": ("adam", "Kingma and Ba, arXiv:1412.6980, Section 7.1"),
    "adabelief": ("adam", "Zhuang et al., arXiv:2010.07468"),
    "yogi": ("adam", "Zaheer et al., Adaptive Methods for Nonconvex Optimization, 2018"),
    "rmsprop": ("adam", "Tieleman and Hinton, Lecture 6.5, 2012"),
    "adagrad": ("adam", "Duchi et al., Adaptive Subgradient Methods, 2011"),
    "lion": ("adam", "Chen et al., arXiv:2302.06675"),
    "sign_sgd": ("adam", "Bernstein et al., arXiv:1802.04434"),
    "adam_atan2": ("adam", "Everett et al., arXiv:2407.05872, Section 4.5"),
    "adafactor_unscaled": ("adam", "Shazeer and Stern, arXiv:1804.04235, Section 7"),
    "adafactor": ("adafactor", "Shazeer and Stern, arXiv:1804.04235, Algorithm 4"),
    "lamb": ("adafactor", "You et al., arXiv:1904.00962"),
    "lars": ("adafactor", "You et al., arXiv:1708.03888"),
    "muon": ("muon", "Jordan et al., Muon, 2024"),
    "shampoo": ("shampoo", "Gupta et al., arXiv:1802.09568"),
}
OPTIMIZERS: dict[OptimizerName, KnownOptimizer] = {
    name: KnownOptimizer(FAMILIES[family], source) for name, (family, source) in _SOURCES.items()
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
            f"`optimizer` must be one of {', '.join(map(repr, OPTIMIZERS))}, or a `Family`. "
            f"Got {optimizer!r}."
        )
    return OPTIMIZERS[optimizer].family


def family_record(family: Family) -> str | dict[str, Any]:
    """A family for JSON: its name, or every field of one of the user's own.

    Example:
      >>> family_record(FAMILIES["adam"])
      'adam'
    """
    return family.name if family == FAMILIES.get(family.name) else dataclasses.asdict(family)


def read_family(record: str | Mapping[str, Any]) -> Family:
    """The family that `family_record` returned the record of.

    Raises:
      KeyError: if there is no family of that name.
      TypeError: if a field is missing or unknown.

    Example:
      >>> read_family(family_record(shampoo(0.5, 0.5))) == shampoo(0.5, 0.5)
      True
    """
    if isinstance(record, str):
        return FAMILIES[record]
    powers = {name: Power(**value) for name, value in record.items() if isinstance(value, Mapping)}
    return Family(**{**record, **powers})


def in_one_model(family: Family) -> set[Family]:
    """The families whose scalings may stand side by side where a model trains with `family`.

    Example:
      >>> sorted(one.name for one in in_one_model(FAMILIES["muon"]))
      ['adam', 'muon']
      >>> [one.name for one in in_one_model(FAMILIES["sgd"])]
      ['sgd']
    """
    return {family, FAMILIES["adam"]} if family.hidden_only else {family}
