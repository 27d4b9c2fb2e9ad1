"""What a parametrization needs to know of a parameter: which axes grow, and by how much."""

import dataclasses
import math
from numbers import Integral
from typing import Literal, get_args

AxisKind = Literal["input", "output", "batch"]
Role = Literal["input", "hidden", "output", "fixed"]


def require_positive(name: str, value: float, remedy: str) -> None:
    """Raises a `ValueError` unless `value` is a finite number above zero.

    Example:
      >>> require_positive("lr_scale", -1.0, "Leave it out for 1.")
      Traceback (most recent call last):
      ...
      ValueError: `lr_scale` must be a finite number above 0. Got -1.0. Leave it out for 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a Python number. Got {value!r}. {remedy}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be a finite number above 0. Got {value!r}. {remedy}")


def _require_size(name: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1. Got {value!r}. {remedy}")


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a parameter: what it does, its size now, and its size in the base model.

    Args:
      kind: `"input"` if the layer sums over it, `"output"` if it indexes what the layer returns,
        `"batch"` if it does neither to the width (experts, scanned layers, the spatial axes of a
        convolution).
      size: number of elements now.
      base: number of elements in the base model; `None` if the axis is the same in every model. An
        axis with a base grows, also where `base == size`.

    Raises:
      ValueError: if `kind` is unknown, or a size is not a positive integer.

    Example:
      >>> Axis("input", 1024, base=64).ratio
      16.0
      >>> Axis("output", 10).grows
      False
    """

    kind: AxisKind
    size: int
    base: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(AxisKind):
            raise ValueError(f"`kind` must be one of {get_args(AxisKind)}. Got {self.kind!r}.")
        _require_size("size", self.size, "It is the number of elements of the axis.")
        if self.base is not None:
            remedy = (
                "It is the size of this axis in the base model; `None` if the axis does not grow."
            )
            _require_size("base", self.base, remedy)

    @property
    def grows(self) -> bool:
        """Whether the axis belongs to the width of the model."""
        return self.base is not None

    @property
    def base_size(self) -> int:
        """Number of elements in the base model."""
        return self.size if self.base is None else self.base

    @property
    def ratio(self) -> float:
        """`size / base`, dimensionless; 1.0 for an axis that does not grow."""
        return self.size / self.base_size


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What a layer itself does with a parameter.

    `resolve` refuses a parametrization that asks for anything else.

    Args:
      multiplier: the constant `m` of `W = m · w` in the layer's forward pass; dimensionless.
      init_gain: what the layer multiplied the base model's initial values by; dimensionless. `None`
        if the initial values are the plain initializer's, which `jaxmup.infer.rescale` scales.
    """

    multiplier: float
    init_gain: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class ParamSpec:
    r"""All that a parametrization looks at: a parameter's axes and its constants at base width.

    The role follows from which axes grow, and the rule itself needs only

    .. math::
      r_{in} = \prod_{input\ axes} \frac{size}{base}, \qquad
      r_{out} = \prod_{output\ axes} \frac{size}{base}.

    It is an unregistered dataclass: `jax.tree.map` sees a leaf, so a tree of specs mirrors the tree
    of parameters.

    Args:
      axes: one `Axis` per dimension of the parameter, in the order of its shape.
      init_std: standard deviation of the effective weight at base width; `None` where an
        initializer defines it.
      lr_scale: factor α on this parameter's learning rate at every width; dimensionless.
      applied: what the layer that owns the parameter does with it; `None` if whoever uses the
        parameter applies what the parametrization asks for. A plain layer, which knows nothing of
        it, has `Applied(multiplier=1.0, init_gain=None)`.
      depth_ratio: by how much the number of residual blocks has grown over the base model, for a
        parameter inside one; 1.0 outside; dimensionless.
      forward_gain: constant factor on what the parameter contributes that muP asks for and a plain
        model's forward pass lacks; the stored weight carries it. Attention that divides its logits
        by `√d` where muP asks for `√d0 / d` has `√(d0 / d)` on its query kernel and bias;
        dimensionless.
      reason: Where the model uses the parameter and what its `forward_gain` makes up for, in words.
        Two specs that differ in it alone are equal.

    Raises:
      ValueError: if `init_std`, `lr_scale`, `depth_ratio` or `forward_gain` is not a finite
        positive number.

    Example:
      >>> spec = ParamSpec((Axis("input", 1024, base=64), Axis("output", 256, base=64)))
      >>> spec.role, spec.r_in, spec.r_out
      ('hidden', 16.0, 4.0)
      >>> ParamSpec((Axis("input", 1024, base=64), Axis("output", 10))).role
      'output'

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B (matrix-like, vector-like,
      scalar-like).
    """

    axes: tuple[Axis, ...]
    init_std: float | None = None
    lr_scale: float = 1.0
    applied: Applied | None = None
    depth_ratio: float = 1.0
    forward_gain: float = 1.0
    reason: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.axes, tuple) and all(isinstance(axis, Axis) for axis in self.axes)):
            raise TypeError(
                f"`axes` must be a tuple of `Axis`, one per dimension. Got {self.axes!r}."
            )
        if self.init_std is not None:
            require_positive(
                "init_std", self.init_std, "`None` leaves the scale to the initializer."
            )
        require_positive("lr_scale", self.lr_scale, "1.0 leaves the learning rate as it is.")
        require_positive(
            "depth_ratio", self.depth_ratio, "1.0 is for a parameter outside residual blocks."
        )
        require_positive("forward_gain", self.forward_gain, "1.0 is for a model that lacks none.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter now."""
        return tuple(axis.size for axis in self.axes)

    @property
    def base_shape(self) -> tuple[int, ...]:
        """Shape of the parameter in the base model."""
        return tuple(axis.base_size for axis in self.axes)

    @property
    def r_in(self) -> float:
        """By how much the input axes have grown over the base model; dimensionless."""
        return self._ratio("input")

    @property
    def r_out(self) -> float:
        """By how much the output axes have grown over the base model; dimensionless."""
        return self._ratio("output")

    @property
    def role(self) -> Role:
        """Where in the model such a parameter stands, by which of its axes grow.

        `input`: only output axes; `hidden`: both; `output`: only input axes; `fixed`: none.
        """
        match self._grows("input"), self._grows("output"):
            case True, True:
                return "hidden"
            case False, True:
                return "input"
            case True, False:
                return "output"
            case _:
                return "fixed"

    def with_batch_axis(self, position: int, size: int) -> "ParamSpec":
        """The spec of `size` such parameters stacked along a new axis at `position`.

        Example:
          >>> ParamSpec((Axis("output", 8, base=4),)).with_batch_axis(0, 12).shape
          (12, 8)
        """
        axes = list(self.axes)
        axes.insert(position, Axis("batch", size))
        return dataclasses.replace(self, axes=tuple(axes))

    def _grows(self, kind: AxisKind) -> bool:
        return any(axis.grows for axis in self.axes if axis.kind == kind)

    def _ratio(self, kind: AxisKind) -> float:
        # One division of exact integers: the ratio does not depend on the order of the axes.
        axes = [axis for axis in self.axes if axis.kind == kind]
        return math.prod(axis.size for axis in axes) / math.prod(axis.base_size for axis in axes)
