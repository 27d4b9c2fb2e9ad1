"""The parameters of a layer: spec, multiplier and initial values of each, declared before drawn."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmup import _check
from jaxmup._axes import Axes, LayerAxes
from jaxmup._parametrization import Parametrization, ParametrizationName, parametrization
from jaxmup._scaling import what_is_applied
from jaxmup._spec import Applied, ParamSpec
from jaxmup._tiles import Grown
from jaxmup._tiles import Initializer as Initializer


@dataclasses.dataclass(frozen=True)
class Known:
    """An initializer whose standard deviation is known.

    Args:
      init: Initializer.
      std: Function of the shape; `None` for values that have none.
    """

    init: Initializer
    std: Callable[[tuple[int, ...]], float | None]

    def __call__(self, *args: Any) -> Any:
        """Draws as `init` does."""
        return self.init(*args)


def orthogonal(init: Initializer) -> Known:
    """An initializer that draws orthogonal matrices."""
    return Known(init, _orthogonal_std)


def _orthogonal_std(shape: tuple[int, ...]) -> float:
    return max(math.prod(shape[:-1]), shape[-1]) ** -0.5  # the shorter vectors are of norm 1


def _no_std(shape: tuple[int, ...]) -> None:
    del shape


def known_initializers(
    inits: tuple[tuple[str, Initializer], ...],
) -> tuple[tuple[str, Known], ...]:
    """Those whose standard deviation is known, each with its name."""
    found = [(name, Known(i, _no_std) if i is _zeros else i) for name, i in inits]
    return tuple((name, init) for name, init in found if isinstance(init, Known))


_zeros = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter as a layer declares it: all that is known without its initializer.

    Args:
      spec: Axes and constants of the parameter, with what the layer applies.
      shape: Shape of the parameter.
      applied: What the layer applies.
      drawn_shape: Shape at base width for which Flax calls an initializer.
      std: Standard deviation that the user gave instead of an initializer, or `None`.
    """

    spec: ParamSpec
    shape: tuple[int, ...]
    applied: Applied
    drawn_shape: tuple[int, ...]
    std: float | None

    def initializer(self, init: Initializer) -> Initializer:
        """The initializer of the stored `w`, called as `(key, shape, dtype)`.

        Args:
          init: Initializer at base width; not called where the user gave a standard deviation.
        """
        if self.std is not None:
            init, drawn_shape = _normal(float(self.std)), self.spec.base_shape
        else:
            init, drawn_shape = init.init if isinstance(init, Known) else init, self.drawn_shape
        gain = self.applied.init_gain
        assert gain is not None  # a layer draws its own initial values
        return Grown(init, self.spec.base_shape, drawn_shape, gain)


_normal = functools.lru_cache(maxsize=512)(jax.nn.initializers.normal)


def declare(
    axes: LayerAxes,
    parametrization: Parametrization | ParametrizationName,
    *,
    lr_scale: float = 1.0,
    depth_ratio: float = 1.0,
    init_std: float | None = None,
    bias_init_std: float | None = None,
    default_inits: Collection[str] = (),
    known: Collection[tuple[str, Known]] = (),
    flat: bool = False,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
) -> Mapping[str, Parameter]:
    """The parameters of a layer, by name.

    A pure function, so that it may be computed once for equal arguments.

    Args:
      axes: Axes of each parameter.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      lr_scale: Factor α on the learning rate of all; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model.
      init_std: Standard deviation of a normal kernel or embedding at base width.
      bias_init_std: Standard deviation of a normal bias at base width.
      default_inits: Names of the parameters that Flax's own initializer draws.
      known: Names of parameters with initializers of a known standard deviation.
      flat: Whether Flax draws the kernel as a matrix and the bias as a vector, whatever their axes.
      dtype: Dtype of the computation.
      param_dtype: Dtype of the parameters.

    Raises:
      TypeError: if a value is of the wrong kind.
      ValueError: if a size, base, standard deviation or scale is out of range, a dtype is not a
        floating-point one, a standard deviation is given for a parameter that the layer lacks or
        beside an initializer, or one is missing that `parametrization` divides by.

    Example:
      >>> from jaxmup import Axis
      >>> axes = (("kernel", (Axis("input", 256, base=64), Axis("output", 10))),)
      >>> declare(axes, "mup")["kernel"].applied.multiplier
      0.25
    """
    _require_float("dtype", dtype)
    _require_float("param_dtype", param_dtype)
    if bias_init_std is not None and "bias" not in dict(axes):
        raise ValueError(
            f"`bias_init_std` needs a bias. Got {bias_init_std!r} with use_bias=False."
        )
    rule = as_parametrization(parametrization)
    rule.require_depth_ratio(depth_ratio)
    stds = {"kernel": init_std, "embedding": init_std, "bias": bias_init_std}
    known_stds = {name: init.std for name, init in known}
    declared = {}
    for name, own in axes:
        given, is_default = stds.get(name), name in default_inits
        if given is not None and not is_default:
            raise ValueError(_two_scales(name, own, given))
        drawn_shape = _flat_shape(name, own) if flat else _base_shape(own)
        std = given
        if given is None and is_default:
            std = _default_std(name, drawn_shape)
        elif given is None and name in known_stds:
            std = known_stds[name](drawn_shape)
        elif given is None and name in ("kernel", "embedding"):
            _require_no_std(name, own, rule)
        spec = ParamSpec(own, init_std=std, lr_scale=lr_scale, depth_ratio=depth_ratio)
        applied = what_is_applied(spec, rule)
        spec = dataclasses.replace(spec, applied=applied)
        declared[name] = Parameter(spec, spec.shape, applied, drawn_shape, given)
    return MappingProxyType(declared)


def _require_no_std(name: str, axes: Axes, rule: Parametrization) -> None:
    """Raises a `ValueError` if `rule` divides by a standard deviation that nobody knows."""
    spec = ParamSpec(axes)
    if rule.row(spec.role).multiplier.sigma:
        raise ValueError(
            "A gauge that stores weights of variance 1 divides them by their standard deviation, "
            f"which an initializer does not tell. Got `{name}_init` for the {name} of shape "
            f"{spec.shape} under {rule}. Pass `init_std`, the standard deviation at base width, in "
            "its place, or choose another gauge."
        )


def _default_std(name: str, shape: tuple[int, ...]) -> float | None:
    """The standard deviation of Flax's own initializer, where it depends on the shape."""
    if name == "kernel":
        return math.prod(shape[:-1]) ** -0.5  # of fan-in, since the last axis is the output
    return shape[-1] ** -0.5 if name == "embedding" else None


def _base_shape(axes: Axes) -> tuple[int, ...]:
    return tuple(axis.base_size for axis in axes)


def _flat_shape(name: str, axes: Axes) -> tuple[int, ...]:
    """The base shape as Flax's general linear layers flatten it before they draw.

    Example:
      >>> from jaxmup import Axis
      >>> _flat_shape("kernel", (Axis("input", 8), Axis("output", 4), Axis("output", 16)))
      (8, 64)
    """
    shape = _base_shape(axes)
    if name != "kernel":
        return (math.prod(shape),)
    split = len(shape) - sum(axis.kind == "output" for axis in axes)
    return math.prod(shape[:split]), math.prod(shape[split:])


def _two_scales(name: str, axes: Axes, std: float) -> str:
    argument = "bias_init_std" if name == "bias" else "init_std"
    return (
        f"`{argument}` and `{name}_init` both set the initial scale of the {name} of shape "
        f"{tuple(axis.size for axis in axes)}. Got {argument}={std!r} beside an initializer. "
        "Pass one."
    )


def as_parametrization(value: Parametrization | ParametrizationName) -> Parametrization:
    """A `Parametrization`, or the one of that name for the Adam family.

    Raises:
      TypeError: if `value` is neither.
      ValueError: if there is no parametrization of that name.
    """
    if isinstance(value, Parametrization):
        return value
    if not isinstance(value, str):
        raise TypeError(f"`parametrization` must be a `Parametrization` or a name. Got {value!r}.")
    return parametrization(value)


@dataclasses.dataclass(frozen=True)
class Move:
    """The move of one parameter to another gauge: `m → theta · m`, `w → w / theta`.

    Args:
      spec: Spec in the new gauge.
      multiplier: New factor `m` in `W = m · w`; dimensionless.
      theta: New multiplier over the old one; dimensionless.
    """

    spec: ParamSpec
    multiplier: float
    theta: float


def gauge_move(spec: ParamSpec, parametrization: Parametrization) -> Move:
    """The move of a layer's parameter to the gauge of `parametrization`.

    Raises:
      ValueError: if no layer applies anything to the parameter, or `parametrization` gives the
        effective weight another standard deviation.

    Example:
      >>> from jaxmup import Axis
      >>> axes = (("kernel", (Axis("input", 256, base=64), Axis("output", 10))),)
      >>> in_table8 = declare(axes, "mup")["kernel"]
      >>> gauge_move(in_table8.spec, parametrization("mup", gauge="table3")).theta
      4.0
    """
    old, new = spec.applied, what_is_applied(spec, parametrization)
    if old is None or old.init_gain is None or new.init_gain is None:
        raise ValueError(f"A layer must apply the multiplier that is to move. Got {spec}.")
    if not math.isclose(old.multiplier * old.init_gain, new.multiplier * new.init_gain):
        raise ValueError(
            "A gauge move keeps the effective weight W, so the two parametrizations must give it "
            f"the same initial standard deviation. {parametrization} multiplies that of the base "
            f"model by {new.multiplier * new.init_gain:g}, the layer by "
            f"{old.multiplier * old.init_gain:g}. Choose a gauge of the parametrization that the "
            "model was built with."
        )
    spec = dataclasses.replace(spec, applied=new)
    return Move(spec, new.multiplier, new.multiplier / old.multiplier)


def _require_float(name: str, dtype: DTypeLike | None) -> None:
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be a floating-point dtype. Got {jnp.dtype(dtype).name}. "
            "Parameters are trained by gradients; use float32, bfloat16 or float64."
        )


def _per_expert_std(shape: tuple[int, ...]) -> float:
    return shape[1] ** -0.5


per_expert_init = Known(jax.nn.initializers.lecun_normal(batch_axis=(0,)), _per_expert_std)
"""Initializer of kernels `(experts, inputs, outputs)`: `inputs^-1/2`, whatever their number."""


def require_top_k(top_k: int, num_experts: int) -> None:
    """Raises an error unless a router can choose `top_k` of `num_experts`."""
    _check.size("top_k", top_k)
    if top_k > num_experts:
        raise ValueError(
            f"`top_k` must be between 1 and `num_experts`. Got top_k={top_k} of {num_experts}. "
            "Give each input at least one expert, and no more than there are."
        )
