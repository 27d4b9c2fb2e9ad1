"""The numbers of one parameter, and the reason of its role."""

import dataclasses
from typing import Any

from jaxmup._scaling import Scaling
from jaxmup._spec import Axis, AxisKind, ParamSpec, Role


@dataclasses.dataclass(frozen=True, slots=True)
class ParameterRow:
    """The numbers that a parametrization gives one parameter, and the reason of its role.

    Args:
      path: Name of the parameter, such as `"layers/0/kernel"`; in a grouped table with the numbers
        that differ in braces, such as `"layers/{0..31}/kernel"`.
      spec: Axes and constants of the parameter.
      base: Scaling of the parameter in the base model.
      target: Scaling of the parameter in this model.
      learning_rate: Learning rate of the stored weight, the base model's times `Scaling.lr`; `None`
        if none was given.
      count: Number of parameters that the row stands for.
    """

    path: str
    spec: ParamSpec
    base: Scaling
    target: Scaling
    learning_rate: float | None = None
    count: int = 1

    @property
    def role(self) -> Role:
        """Role of the parameter, by which of its axes grow."""
        return self.spec.role

    @property
    def reason(self) -> str:
        """Reason of the role, in words."""
        return reason(self.spec)

    def record(self) -> dict[str, Any]:
        """The row as plain lists, strings and numbers."""
        spec = self.spec
        return {
            "path": self.path,
            "count": self.count,
            "shape": list(spec.shape),
            "base_shape": list(spec.base_shape),
            "axes": [_fields(axis) for axis in spec.axes],
            "role": self.role,
            "reason": self.reason,
            "uses": spec.reason,
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
    numbers = _fields(scaling) | {"family": scaling.family.name}
    del numbers["shape"]
    return numbers


def _fields(record: Axis | Scaling) -> dict[str, Any]:
    """The fields of a record; `dataclasses.asdict` copies each of them, deeply and slowly."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def at_base(spec: ParamSpec) -> ParamSpec:
    """The spec of the same parameter in the base model."""
    axes = tuple(dataclasses.replace(axis, size=axis.base_size) for axis in spec.axes)
    return dataclasses.replace(spec, axes=axes, applied=None, depth_ratio=1.0, forward_gain=1.0)


def reason(spec: ParamSpec) -> str:
    """The reason of the role of a parameter, in words.

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
