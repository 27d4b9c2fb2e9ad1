"""Parametrizations: every published table as a view of a physical rule and a gauge.

A gauge moves the three sizes of a physical rule by known powers of the multiplier `m`: weight and
step by `1/m`, the gradient by `m`. Everything else follows: an optimizer of degree k in the
gradient and degree j in the weight (its `Family`) needs `lr = step / (unit · gradientᵏ · weightʲ)`,
and an `eps` that stands beside the gradient grows as it does.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, get_args

from jaxmup import _check
from jaxmup._families import Family, OptimizerName, family_of
from jaxmup._physics import (
    GAUGES,
    MUP,
    NTK,
    ROLES,
    STANDARD,
    TABLE_9,
    Alignment,
    Gauge,
    Physics,
    each_role,
    everett,
)
from jaxmup._power import GAIN, ONE, SIGMA, Power
from jaxmup._spec import Role

ParametrizationName = Literal["mup", "standard", "ntk", "mean_field", "cellarium"]
GaugeName = Literal["table3", "table8", "table9", "tp4b", "unit", "ntk", "mean_field"]
MultiplierActsOn = Literal["smaller", "output"]
_CELLARIUM = "cellarium-ml, MuLinear (commit 51be8b0)"


@dataclasses.dataclass(frozen=True, slots=True)
class ABCD:
    """One row of a published table: the exponents of the width ratio r = n / n0 for one role.

    `W = r^-a · w`, `w ~ N(0, (σ r^-b)²)`, learning rate `η r^-c`, gradient fed to the optimizer
    `r^d · ∂L/∂w`. The width n is fan_out for `input` (biases and norm gains too) and fan_in for
    `hidden` and `output`.

    Args:
      a: Exponent of the multiplier.
      b: Exponent of the standard deviation at initialization.
      c: Exponent of the learning rate.
      d: Exponent of the factor on the gradient.

    Raises:
      TypeError: if an exponent is no number.
      ValueError: if an exponent is not finite.

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
        for name in ("a", "b", "c", "d"):
            _check.number(name, getattr(self, name), may_be_traced=False)
            object.__setattr__(self, name, _check.plain(getattr(self, name)))


@dataclasses.dataclass(frozen=True, slots=True)
class TableRow:
    """A row of `Parametrization.table()`.

    Args:
      role: Role of the parameters that it is for.
      abcd: Exponents of the width ratio in multiplier, initial values, learning rate and gradient.
      eps: Exponent of the width ratio in the optimizer's eps.
      source: Paper and table that the row is from.
    """

    role: Role
    abcd: ABCD
    eps: float
    source: str


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The rule of one role, each factor as a product of powers.

    Args:
      multiplier: Multiplier m of `W = m · w`.
      init_gain: Factor from σ to the standard deviation of the stored weight.
      lr: Factor on the learning rate.
      grad: Factor on the gradient before the optimizer sees it.
      eps: Factor on the optimizer's eps.
      decay: Share of the weight that decoupled weight decay takes off in one step.
      norm: Factor that brings the gradient of the stored weight to the gauge of Table 9.
      family: Family of the optimizer that parameters of this role train with.
      source: Paper and table that the rule is from.
    """

    multiplier: Power
    init_gain: Power
    lr: Power
    grad: Power
    eps: Power
    decay: Power
    norm: Power
    family: Family
    source: str


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """A physical rule in a gauge, for an optimizer family.

    Make one by name with `parametrization`, or from exponents with `Parametrization.from_table`.

    Args:
      name: Name of the rule, such as `"mup"`.
      family: Family of the optimizer that the learning rates are for.
      gauge: Name of the way in which weights are stored, such as `"table8"`.
      rows: Rule of each role: `input`, `hidden`, `output`, `fixed`.
      lr_scale_acts_on: Number that `ParamSpec.lr_scale`, α, multiplies: `"lr"` for the learning
        rate; `"multiplier"` for the compatibility convention, in which the forward multiplier takes
        `√α` and the initial values `1/√α`, so that with Adam a step of the effective weight is `√α`
        times as large.
      depth_alpha: Exponent α of depth: a residual block is multiplied by `depth_ratio^-α`; `None`
        if the parametrization says nothing about depth.

    Example:
      >>> parametrization("mup", "adam", gauge="table8").row("hidden").lr.r_in
      -1.0
    """

    name: str
    family: Family
    gauge: str
    rows: tuple[Row, ...]
    lr_scale_acts_on: Literal["lr", "multiplier"] = "lr"
    depth_alpha: float | None = None

    def __str__(self) -> str:
        alpha = self.depth_alpha
        depth = "" if alpha is None or self.name == "standard" else f", depth^-{alpha:g}"
        return f"{self.name}/{self.gauge} ({self.family.name}{depth})"

    @property
    def multiplier_acts_on(self) -> MultiplierActsOn:
        """The place in a layer where the multiplier of its kernel acts.

        Where kernels are stored with variance 1, it is the output, so that a product in low
        precision has inputs and kernel of that variance; else the smaller of inputs and kernel,
        which writes less memory.
        """
        gauge = GAUGES.get(self.gauge)
        return "output" if gauge is not None and gauge.unit_variance else "smaller"

    def row(self, role: Role) -> Row:
        """The rule of one role.

        Raises:
          ValueError: if there is no such role.
        """
        _check.one_of("role", role, ROLES)
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

    def residual_multiplier(self, depth_ratio: float) -> float:
        """The factor on the contribution of a residual block, `h + multiplier · block(h)`.

        Args:
          depth_ratio: Number of residual blocks over that of the base model.

        Raises:
          TypeError: if `depth_ratio` is no number.
          ValueError: if it is not a finite positive number, or it has changed and the
            parametrization says nothing about depth.

        Example:
          >>> parametrization("mup", "adam", depth_alpha=1.0).residual_multiplier(4.0)
          0.25

        References:
          Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers",
          arXiv:2505.01618, Table 1.
        """
        self.require_depth_ratio(depth_ratio)
        return depth_ratio ** -(self.depth_alpha or 0.0)

    def require_depth_ratio(self, depth_ratio: float) -> None:
        """Raises a `ValueError` unless the parametrization has a rule for this `depth_ratio`."""
        remedy = "It is the number of residual blocks over the base's."
        _check.number("depth_ratio", depth_ratio, above=0, remedy=remedy)
        if depth_ratio != 1 and self.depth_alpha is None:
            raise ValueError(_NO_DEPTH.format(self, depth_ratio))

    @classmethod
    def from_table(
        cls,
        name: str,
        optimizer: OptimizerName | Family,
        table: Mapping[Role, ABCD],
        *,
        source: str = "given by the user",
        lr_scale_acts_on: Literal["lr", "multiplier"] = "lr",
    ) -> "Parametrization":
        """A parametrization from a table role → `ABCD`.

        Its `eps` is the same at every width: that is what d is for.

        Args:
          name: Name for messages and tables.
          optimizer: Optimizer that the table was made for, by name or as a `Family`.
          table: Exponents of `input`, `hidden` and `output`; `fixed` parameters have none.
          source: Paper and table that the exponents are from.
          lr_scale_acts_on: Number that α multiplies; see `Parametrization`.

        Raises:
          TypeError: if a row is no `ABCD`.
          ValueError: if a role is missing, or a role, `optimizer` or `lr_scale_acts_on` is unknown.

        Example:
          >>> rows = {role: ABCD(0.0, 0.5, 0.0, 0.0) for role in ("input", "hidden", "output")}
          >>> mine = Parametrization.from_table("mine", "sgd", rows)
          >>> mine.row("output").init_gain.at(r_in=4.0, r_out=1.0)
          0.5
        """
        family = family_of(optimizer)
        _check.one_of("lr_scale_acts_on", lr_scale_acts_on, ("lr", "multiplier"))
        required = ("input", "hidden", "output")
        if set(table) != set(required):
            raise ValueError(f"`table` must have the roles {required}. Got {tuple(table)}.")
        for role, abcd in table.items():
            if not isinstance(abcd, ABCD):
                raise TypeError(f"`table` must hold `ABCD` rows. Got {abcd!r} for role {role!r}.")
        rows = (
            _row_of_abcd(role, table.get(role, ABCD(0, 0, 0, 0)), family.at(role), source)
            for role in ROLES
        )
        return cls(name, family, "as tabled", tuple(rows), lr_scale_acts_on)


def _table_row(role: Role, row: Row) -> TableRow:
    a, b = -row.multiplier.exponent(role) + 0.0, -row.init_gain.exponent(role) + 0.0
    c, d = -row.lr.exponent(role) + 0.0, row.grad.exponent(role)
    return TableRow(role, ABCD(a, b, c, d), row.eps.exponent(role), row.source)


def _row_of_abcd(role: Role, abcd: ABCD, family: Family, source: str) -> Row:
    width = Power(r_out=1.0) if role == "input" else Power(r_in=1.0)
    # d makes one eps right at every width, so it makes up for the gain on the gradient too.
    gradient, grad = (GAIN**-1.0, ONE) if family.eps is None else (ONE, GAIN)
    degrees = gradient**family.gradient_degree * GAIN**family.weight_degree
    return Row(
        multiplier=width**-abcd.a,
        init_gain=width**-abcd.b * GAIN,
        lr=width**-abcd.c * GAIN / degrees,
        grad=width**abcd.d * grad,
        eps=ONE,
        decay=ONE,
        norm=TABLE_9 * width**abcd.a * GAIN,
        family=family,
        source=source,
    )


def _row(physics: Physics, family: Family, multiplier: Power, gauge: Gauge) -> Row:
    stored = multiplier / GAIN  # W of muP = stored · w, where the forward pass lacks the gain
    weight, step = physics.weight / stored, physics.step / stored
    gradient = physics.gradient * stored
    beside_eps = gradient * (family.eps or ONE)
    grad = beside_eps**-1.0 if gauge.normalize_gradient else ONE
    gradient = gradient * grad
    degrees = gradient**family.gradient_degree * weight**family.weight_degree
    return Row(
        multiplier=multiplier,
        init_gain=weight,
        lr=step / (family.unit * degrees),
        grad=grad,
        eps=ONE if family.eps is None else beside_eps * grad,
        decay=physics.decay,
        norm=physics.norm / stored,
        family=family,
        source=f"{physics.source}; gauge: {gauge.source}",
    )


@functools.lru_cache  # layers ask for one parametrization again and again
def _build(
    name: str,
    family: Family,
    gauge_name: str,
    physics: Physics,
    own_gauge: str,
    depth_alpha: float | None,
) -> Parametrization:
    gauge = GAUGES[gauge_name]
    own = GAUGES[own_gauge].multiplier or each_role(ONE)
    if gauge.unit_variance:
        multipliers = each_role(SIGMA * physics.weight)
    else:
        multipliers = gauge.multiplier or own

    rows = (_row(physics, family.at(role), multipliers[role], gauge) for role in ROLES)
    return Parametrization(name, family, gauge_name, tuple(rows), depth_alpha=depth_alpha)


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


def parametrization(
    name: ParametrizationName = "mup",
    optimizer: OptimizerName | Family = "adam",
    *,
    gauge: GaugeName | None = None,
    alignment: Alignment | None = None,
    depth_alpha: float | None = None,
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

    Which gauge for what: `table8` treats all vector-like parameters alike (muP's default); `table3`
    needs no multipliers; `table9` gives every layer's gradient norm the same size; `tp4b` makes one
    `eps` right everywhere, so that stock optax optimizers can be chained between `scale_gradients`
    and `scale_updates`; `unit` stores unit-variance weights, for low precision. `cellarium` has no
    gauge to choose: its table gives every parameter one learning rate and one `eps`.

    Args:
      name: Name of the rule: `mup`, `standard` (only the initialization follows the width), `ntk`,
        `mean_field` (muP's physics in the mean-field gauge) or `cellarium` (the compatibility
        table: one width a layer).
      optimizer: Optimizer, by the name that it is known by, such as `lion`; a `Family` for one of
        your own. Optimizers of one family share their scalings: `sgd` (momentum, Nesterov), `adam`
        (whatever treats entries alike and divides by the size of their gradients), `adafactor`
        (with parameter scaling; LAMB, LARS), `muon` (hidden matrices; the rest trains with Adam)
        and `shampoo`.
      gauge: Way in which weights are stored; `None` for the one in which the parametrization was
        published.
      alignment: Alignment of updates and activations, `full` or `none`, for which every layer gets
        its largest stable learning rate; `None` for the parametrization's own rule.
      depth_alpha: Exponent α in [½, 1]: a residual block is multiplied by `depth_ratio^-α`, and its
        parameters learn accordingly; 1 is CompleteP. 0 scales nothing with depth, which features
        then outgrow: the control of a check over depth, and what `standard` does. `None` says
        nothing about depth, and `resolve` refuses a model whose depth has grown.

    Raises:
      TypeError: if `depth_alpha` is no number.
      ValueError: if a name is unknown, `depth_alpha` is out of range or scales a rule other than
        muP's, or `cellarium` is given a gauge, an alignment or an optimizer that it lacks.

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
      Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers",
      arXiv:2505.01618, Table 1.
    """
    _check.one_of("name", name, get_args(ParametrizationName))
    family = family_of(optimizer)
    if gauge is not None:
        _check.one_of("gauge", gauge, GAUGES)
    if alignment is not None:
        _check.one_of("alignment", alignment, get_args(Alignment))
    if depth_alpha is not None:
        _require_depth_alpha(depth_alpha, name, alignment)
        depth_alpha = _check.plain(depth_alpha)
    if name == "cellarium":
        return _cellarium(family, gauge, alignment)
    physics, own_gauge, gradient = _NAMED[name]
    if alignment is not None:
        physics = everett(physics.weight, gradient, alignment)
    if depth_alpha:
        physics = physics.in_depth(depth_alpha)
    elif physics is STANDARD:
        depth_alpha = 0.0  # a residual block is added as it is, however many there are
    return _build(name, family, gauge or own_gauge, physics, own_gauge, depth_alpha)


def _require_depth_alpha(alpha: float, name: str, alignment: str | None) -> None:
    _check.number("depth_alpha", alpha, may_be_traced=False, remedy=_TRY_ALPHA)
    if alpha == 0 and name in _NAMED:
        return
    _check.number("depth_alpha", alpha, at_least=0.5, at_most=1, remedy=_TRY_ALPHA)
    if _NAMED.get(name, (None,))[0] is not MUP or alignment is not None:
        raise ValueError(
            "`depth_alpha` is for muP's own learning rates, the names 'mup' and 'mean_field'. Got "
            f"name={name!r}, alignment={alignment!r}, depth_alpha={alpha!r}. Leave it out."
        )


def _cellarium(family: Family, gauge: str | None, alignment: str | None) -> Parametrization:
    if gauge is not None or alignment is not None:
        raise ValueError(
            "`cellarium` is one table in one gauge and takes neither `gauge` nor `alignment`. "
            f"Got gauge={gauge!r}, alignment={alignment!r}. Use name='mup' to choose a gauge."
        )
    _check.one_of("optimizer", family.name, tuple(_CELLARIUM_TABLES))
    return Parametrization.from_table(
        "cellarium",
        family,
        _CELLARIUM_TABLES[family.name],
        source=_CELLARIUM,
        lr_scale_acts_on="multiplier",
    )


_TRY_ALPHA = (
    "Below, the last layer's features grow with depth; above, the blocks contribute nothing. "
    "1.0 is CompleteP, 0.0 scales nothing with depth, `None` says nothing about it."
)
_NO_DEPTH = (
    "A parametrization must say what residual blocks are multiplied by as their number grows. {} "
    "says nothing about depth, which has grown by {:g}. Pass `depth_alpha=1.0` (CompleteP) to "
    "`jaxmup.parametrization`, or give the base model the depth of the target."
)
