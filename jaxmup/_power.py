"""Products of powers of width and depth ratios: the numbers that rules are made of."""

import dataclasses
import math
from typing import Any

from jaxmup import _check
from jaxmup._spec import Role


def _tapers(r_in: float, r_out: float) -> bool:
    """Says if the output grows slower than the input.

    For a target narrower than the base the comparison turns round, so that the factor from base to
    target is the inverse of the factor from target to base. Where one axis has grown as much as the
    other has shrunk, both ways taper.
    """
    growth = r_in * r_out
    if math.isclose(growth, 1.0):
        return True
    return r_out < r_in if growth > 1 else r_out > r_in


def representation(record: Any) -> str:
    """The representation of a dataclass, without the fields that have their default.

    Example:
      >>> representation(Power(r_in=-1.0, taper=0.0))
      'Power(r_in=-1.0)'
    """
    fields = dataclasses.fields(record)
    shown = [
        f"{field.name}={value!r}"
        for field in fields
        if (value := getattr(record, field.name)) != field.default
    ]
    return f"{type(record).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, slots=True)
class Power:
    """A product of powers, by its exponents.

    It is `r_in^p · r_out^q · taper^t · σ^s · depth_ratio^l · gain^f`.
    `taper` is `√(r_out / r_in)` where the output of a weight grows slower than its input, else 1. σ
    is the standard deviation of the effective weight at base width. `depth_ratio` and `gain` are
    `ParamSpec.depth_ratio` and `ParamSpec.forward_gain`.

    Raises:
      TypeError: if an exponent is no number.
      ValueError: if an exponent is not finite.

    Example:
      >>> (Power(r_in=-1.0) / Power(r_out=1.0)).at(r_in=4.0, r_out=2.0)
      0.125
    """

    r_in: float = 0.0
    r_out: float = 0.0
    taper: float = 0.0
    sigma: float = 0.0
    depth_ratio: float = 0.0
    gain: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check.number(field.name, getattr(self, field.name), may_be_traced=False)

    def __repr__(self) -> str:
        return representation(self)

    def __mul__(self, other: "Power") -> "Power":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Power(*(ours + theirs for ours, theirs in pairs))

    def __pow__(self, exponent: float) -> "Power":
        return Power(*(power * exponent for power in dataclasses.astuple(self)))

    def __truediv__(self, other: "Power") -> "Power":
        return self * other**-1.0

    def at(
        self,
        r_in: float,
        r_out: float,
        sigma: float = 1.0,
        depth_ratio: float = 1.0,
        gain: float = 1.0,
    ) -> float:
        """The value of the product; exactly 1.0 where all arguments are 1."""
        taper = self.taper / 2 if _tapers(r_in, r_out) else 0.0
        power_in, power_out = self.r_in - taper, self.r_out + taper
        rest = sigma**self.sigma * depth_ratio**self.depth_ratio * gain**self.gain
        if r_in == r_out:  # so that powers that cancel do so exactly
            return r_in ** (power_in + power_out) * rest
        return r_in**power_in * r_out**power_out * rest

    def varies(self, role: Role) -> bool:
        """True if it is another number at other sizes of a parameter of this role.

        Example:
          >>> Power(r_in=-1.0).varies("output"), Power(r_in=-1.0).varies("input")
          (True, False)
        """
        ratios = {
            "input": (self.r_out,),
            "hidden": (self.r_in, self.r_out, self.taper),
            "output": (self.r_in, self.taper),
            "fixed": (),
        }
        return any((*ratios[role], self.depth_ratio))

    def exponent(self, role: Role) -> float:
        """The exponent of the width ratio r if every axis that grows in this role grows by r.

        Example:
          >>> Power(r_in=-0.5, taper=1.0).exponent("output")
          -1.0
        """
        exponents = {
            "input": self.r_out,
            "hidden": self.r_in + self.r_out,
            "output": self.r_in - self.taper / 2,
            "fixed": 0.0,
        }
        return exponents[role] + 0.0  # the sum turns -0.0 into 0.0


ONE = Power()
SIGMA = Power(sigma=1.0)
DEPTH_RATIO = Power(depth_ratio=1.0)
GAIN = Power(gain=1.0)
