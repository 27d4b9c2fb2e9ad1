"""What a parametrization does to one parameter, and why it has the role that it has."""

import dataclasses
from typing import Any

from jaxmup._scaling import Scaling
from jaxmup._spec import AxisKind, ParamSpec, Role


@dataclasses.dataclass(frozen=True, slots=True)
class ParameterRow:
    """What a parametrization does to one parameter, and why.

    Args:
      path: name of the parameter, such as `"layers/0/kernel"`; in a grouped table with what differs
        in braces, such as `"layers/{0..31}/kernel"`.
      spec: its axes and constants.
      base: its numbers in the base model.
      target: its numbers in this model.
      learning_rate: that of the stored weight, the base model's times `Scaling.lr`; `None` where
        none was given.
      count: number of parameters that the row stands for.
    """

    path: str
    spec: ParamSpec
    base: Scaling
    target: Scaling
    learning_rate: float | None = None
    count: int = 1

    @property
    def role(self) -> Role:
        """Where in the model such a parameter stands, by which of its axes grow."""
        return self.spec.role

    @property
    def reason(self) -> str:
        """Why it has its role, in words."""
        return reason(self.spec)

    def record(self) -> dict[str, Any]:
        """The row as plain lists, strings and numbers."""
        spec = self.spec
        return {
            "path": self.path,
            "count": self.count,
            "shape": list(spec.shape),
            "base_shape": list(spec.base_shape),
            "axes": [dataclasses.asdict(axis) for axis in spec.axes],
            "role": self.role,
            "reason": self.reason,
            "r_in": spec.r_in,
            "r_out": spec.r_out,
            "depth_ratio": spec.depth_ratio,
            "forward_gain": spec.forward_gain,
            "lr_scale": spec.lr_scale,
            "learning_rate": self.learning_rate,
            "base": _numbers(self.base),
            "target": _numbers(self.target),
        }


def _numbers(scaling: Scaling) -> dict[str, Any]:
    """A scaling for JSON; its shape is that of the row."""
    fields = dataclasses.asdict(scaling) | {"family": scaling.family.name}
    del fields["shape"]
    return fields


def at_base(spec: ParamSpec) -> ParamSpec:
    """The spec of the same parameter in the base model."""
    axes = tuple(dataclasses.replace(axis, size=axis.base_size) for axis in spec.axes)
    return dataclasses.replace(spec, axes=axes, applied=None, depth_ratio=1.0, forward_gain=1.0)


def reason(spec: ParamSpec) -> str:
    """Why a parameter has its role, in words.

    Example:
      >>> from jaxmup import Axis
      >>> reason(ParamSpec((Axis("output", 256, base=64),)))
      'output axes grow, and it has no input axes: input-like'
    """
    match spec.role:
        case "hidden":
            return "input and output axes grow: matrix-like"
        case "input":
            return f"output axes grow, {_at_rest(spec, 'input')}: input-like"
        case "output":
            return f"input axes grow, {_at_rest(spec, 'output')}: output-like"
        case _:
            return "no input or output axis grows: the same at every width"


def _at_rest(spec: ParamSpec, kind: AxisKind) -> str:
    has = any(axis.kind == kind for axis in spec.axes)
    return f"{kind} axes do not" if has else f"and it has no {kind} axes"
