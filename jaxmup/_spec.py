"""The description of a parameter: which of its axes grow with the model, and by how much."""

import dataclasses
import math
from typing import Literal, get_args

from jaxmup import _check
from jaxmup._correction import Correction
from jaxmup._finding import Finding

AxisKind = Literal["input", "output", "batch"]
Role = Literal["input", "hidden", "output", "fixed"]

_set = object.__setattr__  # for a frozen record that normalizes its own fields


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a parameter: what it does, its size now, and its size in the base model.

    Args:
      kind: Use of the axis: `"input"` if the layer sums over it, `"output"` if it indexes what the
        layer returns, `"batch"` if it has nothing to do with the width (experts, scanned layers,
        the spatial axes of a convolution).
      size: Number of elements now.
      base: Number of elements in the base model; `None` if the axis is the same in every model. An
        axis with a base grows, also where `base == size`.

    Raises:
      TypeError: if a size is no integer.
      ValueError: if `kind` is unknown, or a size is below 1.

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
        _check.one_of("kind", self.kind, get_args(AxisKind))
        _check.size("size", self.size, remedy="It is the number of elements of the axis.")
        _set(self, "size", _check.plain(self.size))
        if self.base is not None:
            _check.size("base", self.base, remedy="`None` is for an axis that does not grow.")
            _set(self, "base", _check.plain(self.base))

    @property
    def grows(self) -> bool:
        """True if the axis belongs to the width of the model."""
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
    """The part of a parametrization that a layer itself carries out for a parameter.

    `resolve` refuses a parametrization that asks the layer for anything else.

    Args:
      multiplier: Constant `m` of `W = m · w` in the forward pass of the layer; dimensionless.
      init_gain: Factor by which the layer has scaled the initial values of the base model;
        dimensionless. `None` if it draws them as any plain layer does, and `jaxmup.rescale` is what
        scales them.
      varies: True if the multiplier is another one at other sizes. The layer multiplies by it also
        where it is 1, so that its program is the same at every size.
      growth: Growth of the output axes, `ParamSpec.r_out`, which the layer's calls ask for.
    """

    multiplier: float
    init_gain: float | None
    varies: bool = dataclasses.field(default=False, repr=False, compare=False)
    growth: float = dataclasses.field(default=1.0, repr=False, compare=False)


_REMEDIES = {
    "init_std": "`None` leaves the scale to the initializer.",
    "lr_scale": "1.0 leaves the learning rate as it is.",
    "depth_ratio": "1.0 is for a parameter outside residual blocks.",
    "forward_gain": "1.0 is for a model that lacks none.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ParamSpec:
    r"""All that a parametrization looks at: the axes of a parameter, and its constants.

    Everything that muP asks of a parameter follows from two numbers, by how much its input axes and
    its output axes have grown over the base model:

    .. math::
      r_{in} = \prod_{input\ axes} \frac{size}{base}, \qquad
      r_{out} = \prod_{output\ axes} \frac{size}{base}.

    jaxmup layers declare their specs, `jaxmup.infer` reads them off a plain model, and by hand one
    is made of the axes alone. A spec is an unregistered dataclass: `jax.tree.map` sees a leaf, so
    a tree of specs mirrors the tree of parameters.

    Args:
      axes: One `Axis` per dimension of the parameter, in the order of its shape.
      init_std: Standard deviation of the effective weight in the base model; `None` if an
        initializer defines it.
      lr_scale: Factor α on the learning rate of this parameter, the same at every width;
        dimensionless.
      applied: Multiplier and initial scale that the layer which owns the parameter has built in,
        such as `Applied(multiplier=1.0, init_gain=None)` of a plain layer; `resolve` refuses a
        parametrization that asks for others. `None` if the layer has nothing built in: your own
        code multiplies by `Scaling.multiplier` and draws with `Scaling.init_std`.
      depth_ratio: Number of residual blocks over that of the base model, for a parameter inside a
        block; 1.0 for one outside; dimensionless.
      forward_gain: Factor that muP asks for in the forward pass and the model lacks, so that the
        stored weight carries it; 1.0 if the model lacks none; dimensionless. A plain attention
        layer divides its logits by `√d` where muP asks for `d / √d0`, with `d` the size of a head
        and `d0` that of the base model: its query kernel and bias carry `√(d0 / d)`.
      corrections: Factors that the model lacks beside this parameter and that none can carry, so
        that `jaxmup.corrected` inserts them.
      findings: What the program of the model shows to be wrong with the parameter, for
        `jaxmup.lint`. Two specs that differ in it alone are equal.
      reason: Where the model uses the parameter and what its `forward_gain` makes up for, in words.
        Two specs that differ in it alone are equal.

    Raises:
      TypeError: if `axes` is no tuple of `Axis`, or a number is none of Python or NumPy.
      ValueError: if a number is not finite and above 0.

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
    corrections: tuple[Correction, ...] = ()
    findings: tuple[Finding, ...] = dataclasses.field(default=(), compare=False, repr=False)
    reason: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.axes, tuple) and all(isinstance(axis, Axis) for axis in self.axes)):
            raise TypeError(
                f"`axes` must be a tuple of `Axis`, one per dimension. Got {self.axes!r}."
            )
        for name, remedy in _REMEDIES.items():
            value = getattr(self, name)
            if name == "init_std" and value is None:
                continue
            _check.number(name, value, above=0, may_be_traced=False, remedy=remedy)
            _set(self, name, _check.plain(value))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter now."""
        return tuple(axis.size for axis in self.axes)

    @property
    def base_shape(self) -> tuple[int, ...]:
        """Shape of the parameter in the base model."""
        return tuple(axis.base_size for axis in self.axes)

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """Positions of the batch axes in the shape."""
        return tuple(i for i, axis in enumerate(self.axes) if axis.kind == "batch")

    @property
    def r_in(self) -> float:
        """Growth of the input axes over the base model; dimensionless."""
        return self._ratio("input")

    @property
    def r_out(self) -> float:
        """Growth of the output axes over the base model; dimensionless."""
        return self._ratio("output")

    @property
    def role(self) -> Role:
        """The place in a model that a parameter with such axes has.

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
