"""The physical rules and the gauges: what parametrizations are made of.

A physical rule says how three sizes of a parameter grow with the width of the model, each relative
to the base model and measured on the effective weight `W`: the **weight** (standard deviation of
`W` at initialization), the **step** (size of the change of `W` in one optimizer step) and the
**gradient** (size of `∂L/∂W`). A gauge says how `W = m · w` is stored.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from jaxmup._power import DEPTH_RATIO, ONE, Power
from jaxmup._spec import Role

Alignment = Literal["full", "none"]
ROLES: tuple[Role, ...] = get_args(Role)

TABLE_9 = Power(r_in=-0.5, r_out=0.5)


@dataclasses.dataclass(frozen=True, slots=True)
class Physics:
    """The growth of an effective weight and of its steps, relative to the base model.

    Args:
      weight: Standard deviation of `W` at initialization.
      step: Size of the change of an entry of `W` in one optimizer step.
      gradient: Size of an entry of `∂L/∂W`.
      source: Paper and table that the rule is from.
      decay: Share of an entry of `W` that weight decay takes off in one step.
      norm: Factor on `∂L/∂W` that gives every layer's gradient the same norm at every width; one
        where norms are taken as they are.
    """

    weight: Power
    step: Power
    gradient: Power
    source: str
    decay: Power = ONE
    norm: Power = TABLE_9

    def in_depth(self, alpha: float) -> "Physics":
        """The same in residual blocks, whose outputs are multiplied by `depth_ratio^-alpha`."""
        return dataclasses.replace(
            self,
            step=self.step * DEPTH_RATIO ** (alpha - 1),
            gradient=self.gradient * DEPTH_RATIO**-alpha,
            decay=self.decay * DEPTH_RATIO ** (alpha - 1),
            source=f"{self.source}; depth: {_COMPLETE_P}, Table 1",
        )


_TP4 = "Yang and Hu, Feature Learning in Infinite-Width Neural Networks, arXiv:2011.14522"
_TP4B = "Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814"
_TP5 = "Yang et al., Tensor Programs V, arXiv:2203.03466"
_SPECTRAL = "Yang et al., A Spectral Condition for Feature Learning, arXiv:2310.17813"
_EVERETT = (
    "Everett et al., Scaling Exponents Across Parameterizations and Optimizers, arXiv:2407.05872"
)
_UMUP = "Blake et al., u-muP, arXiv:2407.17465"
_COMPLETE_P = "Dey et al., CompleteP, arXiv:2505.01618"

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
STANDARD = Physics(
    _FAN_IN_WEIGHT, step=ONE, gradient=ONE, source=f"{_TP4B}, Example 2.2.2", norm=ONE
)
NTK = Physics(
    weight=_FAN_IN_WEIGHT,
    step=Power(r_in=-1.0, r_out=-0.5),
    gradient=Power(r_out=-0.5),
    source=f"{_TP4B}, Definition 2.4.1",
)


def everett(weight: Power, gradient: Power, alignment: Alignment) -> Physics:
    """The largest stable step when updates and activations are fully aligned, or not at all.

    With full alignment an update acts on an activation as a sum of fan_in terms of one sign; with
    none, as a sum of random signs, and the readout may not outgrow its initial values, so the step
    follows the weight.
    """
    step = Power(r_in=-1.0) if alignment == "full" else weight
    return Physics(weight, step, gradient, f"{_EVERETT}, Table 1, {alignment} alignment")


@dataclasses.dataclass(frozen=True, slots=True)
class Gauge:
    """The way in which an effective weight `W = m · w` is stored.

    Args:
      multiplier: Multiplier `m` of each role; `None` for the parametrization's own.
      source: Paper and table that the gauge is from.
      unit_variance: Whether `m` is the standard deviation of `W`, so that `w` has variance 1 at
        every width.
      normalize_gradient: Whether the gradient is multiplied so that one `eps` is right at every
        width (the exponent d).
    """

    multiplier: Mapping[Role, Power] | None
    source: str
    unit_variance: bool = False
    normalize_gradient: bool = False


def each_role(power: Power, output: Power | None = None) -> dict[Role, Power]:
    """One power for every role, or another for `output`."""
    return {role: output if output and role == "output" else power for role in ROLES}


GAUGES: dict[str, Gauge] = {
    "table3": Gauge(each_role(ONE), f"{_TP5}, Table 3"),
    "table8": Gauge(each_role(ONE, output=Power(r_in=-1.0)), f"{_TP5}, Table 8"),
    "table9": Gauge(each_role(TABLE_9), f"{_TP5}, Table 9; {_TP4}"),
    "tp4b": Gauge(None, f"{_TP4B}, Section 2", normalize_gradient=True),
    "unit": Gauge(None, f"{_UMUP}, Table 2 (muP learning rates)", unit_variance=True),
    "ntk": Gauge(each_role(_FAN_IN_WEIGHT), f"{_TP4B}, Definition 2.4.1"),
    "mean_field": Gauge(each_role(_SPECTRAL_WEIGHT), f"{_EVERETT}, Table 1"),
}
