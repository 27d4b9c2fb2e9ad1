"""The physical rules, the gauges, and every published table as a view of the two.

A parametrization says how three sizes of a parameter grow with the width of the model, each
relative to the base model and measured on the effective weight `W`: the **weight** (standard
deviation of `W` at initialization), the **step** (size of the change of `W` in one optimizer step)
and the **gradient** (size of `∂L/∂W`). That is its physics.

A gauge says how `W = m · w` is stored. It moves the three sizes by known powers of `m`: weight and
step by `1/m`, the gradient by `m`. Everything else follows: an optimizer whose step has degree k in
the gradient and degree j in the weight needs `lr = step / (gradientᵏ · weightʲ)`, and an `eps` that
stands beside the gradient grows as it does.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

from jaxmup._power import ONE, SIGMA, Power
from jaxmup._spec import Role

FamilyName = Literal["sgd", "adam", "adafactor"]
ParametrizationName = Literal["mup", "standard", "ntk", "mean_field", "cellarium"]
GaugeName = Literal["table3", "table8", "table9", "tp4b", "unit", "ntk", "mean_field"]
Alignment = Literal["full", "none"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """Optimizers whose step has the same degree in the history of gradients and in the weight.

    Args:
      name: what users call it.
      gradient_degree: 1 if the step is proportional to the gradient, 0 if its size does not change
        with it.
      weight_degree: 1 if the step is proportional to the size of the weight, else 0.
    """

    name: FamilyName
    gradient_degree: int
    weight_degree: int


FAMILIES: dict[str, Family] = {
    "sgd": Family("sgd", gradient_degree=1, weight_degree=0),  # momentum and Nesterov too
    "adam": Family(
        "adam", gradient_degree=0, weight_degree=0
    ),  # AdamW, AMSGrad and the sign-like too
    "adafactor": Family("adafactor", gradient_degree=0, weight_degree=1),  # with parameter scaling
}


@dataclasses.dataclass(frozen=True, slots=True)
class Physics:
    """How an effective weight starts and moves as the model grows, relative to the base model.

    Args:
      weight: standard deviation of `W` at initialization.
      step: size of the change of an entry of `W` in one optimizer step.
      gradient: size of an entry of `∂L/∂W`.
      source: where the rule is from.
    """

    weight: Power
    step: Power
    gradient: Power
    source: str


_TP4 = "Yang and Hu, Feature Learning in Infinite-Width Neural Networks, arXiv:2011.14522"
_TP4B = "Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814"
_TP5 = "Yang et al., Tensor Programs V, arXiv:2203.03466"
_SPECTRAL = "Yang et al., A Spectral Condition for Feature Learning, arXiv:2310.17813"
_EVERETT = (
    "Everett et al., Scaling Exponents Across Parameterizations and Optimizers, arXiv:2407.05872"
)
_UMUP = "Blake et al., u-muP, arXiv:2407.17465"
_CELLARIUM = "cellarium-ml, MuLinear (commit 51be8b0)"

_FAN_IN_WEIGHT = Power(r_in=-0.5)
_SPECTRAL_WEIGHT = Power(r_in=-0.5, taper=1.0)

MUP = Physics(
    weight=_SPECTRAL_WEIGHT,
    step=Power(r_in=-1.0),
    gradient=Power(r_out=-1.0),
    source=f"{_TP5}, Table 3; unequal widths: {_SPECTRAL}, Section 4.1",
)
# Standard practice scales nothing but the initialization, so every optimizer acts as if no size
# changed.
STANDARD = Physics(_FAN_IN_WEIGHT, step=ONE, gradient=ONE, source=f"{_TP4B}, Example 2.2.2")
NTK = Physics(
    weight=_FAN_IN_WEIGHT,
    step=Power(r_in=-1.0, r_out=-0.5),
    gradient=Power(r_out=-0.5),
    source=f"{_TP4B}, Definition 2.4.1",
)


def _everett(weight: Power, gradient: Power, alignment: Alignment) -> Physics:
    """The largest stable step when updates and activations are fully aligned, or not at all.

    With full alignment an update acts on an activation as a sum of fan_in terms of one sign; with
    none, as a sum of random signs, and the readout may not outgrow its initial values, so the step
    follows the weight.
    """
    step = Power(r_in=-1.0) if alignment == "full" else weight
    return Physics(weight, step, gradient, f"{_EVERETT}, Table 1, {alignment} alignment")


@dataclasses.dataclass(frozen=True, slots=True)
class Gauge:
    """How the effective weight `W = m · w` is stored.

    Args:
      multiplier: `m` for each role; `None` takes the parametrization's own multipliers.
      unit_variance: take `m` to be the standard deviation of `W`, so that `w` has variance 1 at
        every width.
      normalize_gradient: multiply the gradient so that one `eps` is right at every width (the
        exponent d).
      source: where the gauge is from.
    """

    multiplier: Mapping[Role, Power] | None
    source: str
    unit_variance: bool = False
    normalize_gradient: bool = False


def _each_role(power: Power, output: Power | None = None) -> dict[Role, Power]:
    return {role: output if output and role == "output" else power for role in ROLES}


GAUGES: dict[str, Gauge] = {
    "table3": Gauge(_each_role(ONE), f"{_TP5}, Table 3"),
    "table8": Gauge(_each_role(ONE, output=Power(r_in=-1.0)), f"{_TP5}, Table 8"),
    "table9": Gauge(_each_role(Power(r_in=-0.5, r_out=0.5)), f"{_TP5}, Table 9; {_TP4}"),
    "tp4b": Gauge(None, f"{_TP4B}, Section 2", normalize_gradient=True),
    "unit": Gauge(None, f"{_UMUP}, Table 2 (muP learning rates)", unit_variance=True),
    "ntk": Gauge(_each_role(_FAN_IN_WEIGHT), f"{_TP4B}, Definition 2.4.1"),
    "mean_field": Gauge(_each_role(_SPECTRAL_WEIGHT), f"{_EVERETT}, Table 1"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class ABCD:
    """One row of a published table: the exponents of the width ratio r = n / n0 for one role.

    `W = r^-a · w`, `w ~ N(0, (σ r^-b)²)`, learning rate `η r^-c`, gradient fed to the optimizer
    `r^d · ∂L/∂w`. The width n is fan_out for `input` (biases and norm gains too) and fan_in for
    `hidden` and `output`.

    Raises:
      ValueError: if an exponent is not a finite number.

    Example:
      >>> ABCD(a=0.0, b=0.5, c=1.0, d=1.0)  # the hidden layers of muP
      ABCD(a=0.0, b=0.5, c=1.0, d=1.0)

    References:
      Yang and Littwin, "Tensor Programs IVb", arXiv:2308.01814, Definition 2.2.1.
    """

    a: float
    b: float
    c: float
    d: float

    def __post_init__(self) -> None:
        for exponent in dataclasses.astuple(self):
            if not (isinstance(exponent, int | float) and math.isfinite(exponent)):
                raise ValueError(f"Exponents must be finite numbers. Got {self}.")


@dataclasses.dataclass(frozen=True, slots=True)
class TableRow:
    """A row of `Parametrization.table()`.

    Args:
      role: which parameters it is for.
      abcd: their exponents.
      eps: the exponent of the width ratio in the optimizer's eps.
      source: where the row is from.
    """

    role: Role
    abcd: ABCD
    eps: float
    source: str


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The rule of one role, each factor as a product of powers.

    `init_gain` is what σ is multiplied by to give the standard deviation of the stored weight.
    """

    multiplier: Power
    init_gain: Power
    lr: Power
    grad: Power
    eps: Power
    source: str


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """A physical rule in a gauge, for an optimizer family.

    Make one by name with `parametrization`, or from exponents with `Parametrization.from_table`.

    Args:
      name: its name, such as `"mup"`.
      family: the optimizer family whose learning rates it holds.
      gauge: how weights are stored, such as `"table8"`.
      rows: the rule of each role, in the order of `ROLES`.
      lr_scale_acts_on: whether α multiplies the learning rate, or `√α` the forward multiplier with
        `1/√α` on the initial values (the compatibility convention, under which α acts as `√α` with
        Adam).

    Example:
      >>> parametrization("mup", "adam", gauge="table8").row("hidden").lr
      Power(r_in=-1.0, r_out=0.0, taper=0.0, sigma=0.0)
    """

    name: str
    family: FamilyName
    gauge: str
    rows: tuple[Row, ...]
    lr_scale_acts_on: Literal["lr", "multiplier"] = "lr"

    def __str__(self) -> str:
        return f"{self.name}/{self.gauge} ({self.family})"

    def row(self, role: Role) -> Row:
        """The rule of one role."""
        return self.rows[ROLES.index(role)]

    def table(self) -> tuple[TableRow, ...]:
        """The exponents of each role where all widths grow together, each row with its source.

        Example:
          >>> for row in parametrization("mup", "adam", gauge="tp4b").table():
          ...     print(row.role, row.abcd)
          input ABCD(a=0.0, b=0.0, c=0.0, d=1.0)
          hidden ABCD(a=0.0, b=0.5, c=1.0, d=1.0)
          output ABCD(a=1.0, b=0.0, c=0.0, d=1.0)
          fixed ABCD(a=0.0, b=0.0, c=0.0, d=0.0)
        """
        return tuple(_table_row(role, self.row(role)) for role in ROLES)

    @classmethod
    def from_table(
        cls,
        name: str,
        family: FamilyName,
        table: Mapping[Role, ABCD],
        *,
        source: str = "given by the user",
        lr_scale_acts_on: Literal["lr", "multiplier"] = "lr",
    ) -> "Parametrization":
        """A parametrization from a table role → `ABCD`.

        Its `eps` is the same at every width: that is what d is for.

        Args:
          name: what to call it.
          family: the optimizer family that the table was made for.
          table: the exponents of `input`, `hidden` and `output`; `fixed` parameters have none.
          source: where the table is from.
          lr_scale_acts_on: see `Parametrization`.

        Raises:
          TypeError: if a row is no `ABCD`.
          ValueError: if a role is missing or unknown, or `family` or `lr_scale_acts_on` is unknown.

        Example:
          >>> rows = {role: ABCD(0.0, 0.5, 0.0, 0.0) for role in ("input", "hidden", "output")}
          >>> mine = Parametrization.from_table("mine", "sgd", rows)
          >>> mine.row("output").init_gain.at(r_in=4.0, r_out=1.0)
          0.5
        """
        _require_one_of("family", family, FAMILIES)
        _require_one_of("lr_scale_acts_on", lr_scale_acts_on, ("lr", "multiplier"))
        required = ("input", "hidden", "output")
        if set(table) != set(required):
            raise ValueError(f"`table` must have the roles {required}. Got {tuple(table)}.")
        for role, abcd in table.items():
            if not isinstance(abcd, ABCD):
                raise TypeError(f"`table` must hold `ABCD` rows. Got {abcd!r} for role {role!r}.")
        rows = (_row_of_abcd(role, table.get(role, ABCD(0, 0, 0, 0)), source) for role in ROLES)
        return cls(name, family, "as tabled", tuple(rows), lr_scale_acts_on)


def _table_row(role: Role, row: Row) -> TableRow:
    a, b = -row.multiplier.exponent(role) + 0.0, -row.init_gain.exponent(role) + 0.0
    c, d = -row.lr.exponent(role) + 0.0, row.grad.exponent(role)
    return TableRow(role, ABCD(a, b, c, d), row.eps.exponent(role), row.source)


def _row_of_abcd(role: Role, abcd: ABCD, source: str) -> Row:
    width = Power(r_out=1.0) if role == "input" else Power(r_in=1.0)
    return Row(
        multiplier=width**-abcd.a,
        init_gain=width**-abcd.b,
        lr=width**-abcd.c,
        grad=width**abcd.d,
        eps=ONE,
        source=source,
    )


def _row(physics: Physics, family: Family, multiplier: Power, gauge: Gauge) -> Row:
    weight, step, gradient = (
        physics.weight / multiplier,
        physics.step / multiplier,
        physics.gradient * multiplier,
    )
    grad = gradient**-1.0 if gauge.normalize_gradient else ONE
    gradient = gradient * grad
    return Row(
        multiplier=multiplier,
        init_gain=weight,
        lr=step / (gradient**family.gradient_degree * weight**family.weight_degree),
        grad=grad,
        eps=gradient if family.gradient_degree == 0 else ONE,
        source=f"{physics.source}; gauge: {gauge.source}",
    )


def _build(
    name: str, family: FamilyName, gauge_name: str, physics: Physics, own_gauge: str
) -> Parametrization:
    gauge = GAUGES[gauge_name]
    own = GAUGES[own_gauge].multiplier or _each_role(ONE)
    if gauge.unit_variance:
        multipliers = _each_role(SIGMA * physics.weight)
    else:
        multipliers = gauge.multiplier or own
    rows = (_row(physics, FAMILIES[family], multipliers[role], gauge) for role in ROLES)
    return Parametrization(name, family, gauge_name, tuple(rows))


# Parametrization of the abcd layer that this project reimplements: c = 0, so any optimizer with one
# learning rate.
_CELLARIUM_TABLES: dict[str, dict[Role, ABCD]] = {
    "sgd": {
        "input": ABCD(-0.5, 0.5, 0.0, 0.0),
        "hidden": ABCD(0.0, 0.5, 0.0, 0.0),
        "output": ABCD(0.5, 0.5, 0.0, 0.0),
    },
    "adam": {
        "input": ABCD(0.0, 0.0, 0.0, 1.0),
        "hidden": ABCD(1.0, -0.5, 0.0, 2.0),
        "output": ABCD(1.0, 0.0, 0.0, 1.0),
    },
}

# name: physics, its own gauge, and the size of its gradients where the alignment is given.
_NAMED: dict[str, tuple[Physics, str, Power]] = {
    "mup": (MUP, "table8", MUP.gradient),
    "standard": (STANDARD, "table3", Power(r_out=-0.5)),
    "ntk": (NTK, "ntk", NTK.gradient),
    "mean_field": (MUP, "mean_field", MUP.gradient),
}


def _require_one_of(
    what: str, value: object, known: Mapping[str, object] | tuple[str, ...]
) -> None:
    if value not in tuple(known):  # by equality: what is asked for may have no hash
        raise ValueError(f"`{what}` must be one of {', '.join(map(repr, known))}. Got {value!r}.")


def parametrization(
    name: ParametrizationName = "mup",
    family: FamilyName = "adam",
    *,
    gauge: GaugeName | None = None,
    alignment: Alignment | None = None,
) -> Parametrization:
    r"""A parametrization by name, for an optimizer family, in a gauge.

    muP, the default, is the whole rule below for a weight whose input axes have grown by `r_in` and
    whose output axes have grown by `r_out`, in the multiplier-free gauge `table3`; every other
    gauge and table is a view of it.

    .. math::
      std(W) = \sigma\, r_{in}^{-1/2} \min(1, \sqrt{r_{out}/r_{in}}), \quad
      \eta_{adam} = \eta\, r_{in}^{-1}, \quad \eta_{sgd} = \eta\, r_{out}/r_{in}, \quad
      eps = \epsilon\, r_{out}^{-1}

    (For a target narrower than the base the minimum becomes a maximum: the factor from base to
    target is the inverse of that from target to base.)

    Which gauge for what: `table8` treats all vector-like parameters alike and permits weight tying
    (muP's default); `table3` needs no multipliers; `table9` gives every layer's gradient norm the
    same size; `tp4b` makes one `eps` right everywhere, so that stock optax optimizers can be
    chained between `scale_gradients` and `scale_updates`; `unit` stores unit-variance weights, for
    low precision. `cellarium` has no gauge to choose: its table gives every parameter one learning
    rate and one `eps`.

    Args:
      name: `mup`, `standard` (only the initialization follows the width), `ntk`, `mean_field`
        (muP's physics in the mean-field gauge) or `cellarium` (the compatibility table: one width a
        layer).
      family: `sgd` (momentum, Nesterov), `adam` (Adam, AdamW, AMSGrad and the sign-like) or
        `adafactor` (with parameter scaling).
      gauge: how weights are stored; `None` takes the one that the parametrization was published in.
      alignment: give every layer the largest stable learning rate for `full` alignment of updates
        and activations, or for `none`, instead of the parametrization's own rule.

    Raises:
      ValueError: if a name is unknown, or `cellarium` is given a gauge, an alignment or a family
        that it lacks.

    Example:
      >>> print(parametrization("mup", "sgd"))
      mup/table8 (sgd)
      >>> [row.abcd.c for row in parametrization("standard", "adam", alignment="full").table()]
      [0.0, 1.0, 1.0, 0.0]

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9.
      Yang et al., "A Spectral Condition for Feature Learning", arXiv:2310.17813.
      Everett et al., "Scaling Exponents Across Parameterizations and Optimizers", arXiv:2407.05872,
      Table 1.
    """
    _require_one_of("name", name, get_args(ParametrizationName))
    _require_one_of("family", family, FAMILIES)
    if gauge is not None:
        _require_one_of("gauge", gauge, GAUGES)
    if alignment is not None:
        _require_one_of("alignment", alignment, get_args(Alignment))
    if name == "cellarium":
        return _cellarium(family, gauge, alignment)
    physics, own_gauge, gradient = _NAMED[name]
    if alignment is not None:
        physics = _everett(physics.weight, gradient, alignment)
    return _build(name, family, gauge or own_gauge, physics, own_gauge)


def _cellarium(family: FamilyName, gauge: str | None, alignment: str | None) -> Parametrization:
    if gauge is not None or alignment is not None:
        raise ValueError(
            "`cellarium` is one table in one gauge and takes neither `gauge` nor `alignment`. "
            f"Got gauge={gauge!r}, alignment={alignment!r}. Use name='mup' to choose a gauge."
        )
    _require_one_of("family", family, tuple(_CELLARIUM_TABLES))
    return Parametrization.from_table(
        "cellarium",
        family,
        _CELLARIUM_TABLES[family],
        source=_CELLARIUM,
        lr_scale_acts_on="multiplier",
    )
