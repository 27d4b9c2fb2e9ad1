"""How a layer makes one parameter: its spec, its multiplier and its initializer."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmup._rules import Parametrization, ParametrizationName, parametrization
from jaxmup._scaling import what_is_applied
from jaxmup._spec import Axis, ParamSpec
from jaxmup.functional import scale

# (key, shape, dtype) -> an array, or a box around one such as Flax's partitioning metadata.
Initializer = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What a layer needs to make and use one parameter.

    Args:
      spec: the parameter's axes and constants, with what the layer applies.
      multiplier: `m` in `W = m · w`; dimensionless.
      init: draws the stored `w`, called as `init(key, spec.shape, dtype)`.
    """

    spec: ParamSpec
    multiplier: float
    init: Initializer


def declare(spec: ParamSpec, parametrization: Parametrization, init: Initializer) -> Parameter:
    """The parameter of `spec` under `parametrization`, whose initializer at base width is `init`.

    Example:
      >>> from jaxmup import Axis
      >>> spec = ParamSpec((Axis("input", 256, base=64), Axis("output", 10)), init_std=0.125)
      >>> declare(spec, parametrization("mup"), jax.nn.initializers.normal(0.125)).multiplier
      0.25
    """
    applied = what_is_applied(spec, parametrization)
    multiplier, init_gain = dataclasses.astuple(applied)
    spec = dataclasses.replace(spec, applied=applied)
    return Parameter(spec, multiplier, grown_initializer(init, spec.base_shape, init_gain))


@dataclasses.dataclass(frozen=True)
class Move:
    """The move of one parameter to another gauge: `m → theta · m`, `w → w / theta`.

    Args:
      spec: the spec in the new gauge.
      multiplier: the new `m`; dimensionless.
      theta: the new multiplier over the old one; dimensionless.
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
      >>> spec = ParamSpec((Axis("input", 256, base=64), Axis("output", 10)))
      >>> in_table8 = declare(spec, parametrization("mup"), jax.nn.initializers.ones).spec
      >>> gauge_move(in_table8, parametrization("mup", gauge="table3")).theta
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


def grown_initializer(init: Initializer, base_shape: tuple[int, ...], gain: float) -> Initializer:
    """An initializer for any width from one for the base width, its values multiplied by `gain`.

    `init` is only ever called with `base_shape`: a larger array is tiled with independent draws, a
    smaller one is cut out of one draw. So its standard deviation at base width, whatever it is and
    however it depends on the shape, is the σ that the parametrization scales; no initializer has to
    be known or taken apart. At base width the values are those of `init`, bit for bit.

    Args:
      init: an initializer `(key, shape, dtype) -> array`; it may return a box such as
        `nn.with_partitioning`'s.
      base_shape: shape of the parameter in the base model.
      gain: factor on the values; dimensionless.

    Example:
      >>> ones = grown_initializer(jax.nn.initializers.ones, (2, 2), gain=0.5)
      >>> ones(jax.random.key(0), (2, 4), jnp.float32)
      Array([[0.5, 0.5, 0.5, 0.5],
             [0.5, 0.5, 0.5, 0.5]], dtype=float32)
    """

    def grown(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        tiles = tuple(-(-size // base) for size, base in zip(shape, base_shape, strict=True))
        if math.prod(tiles) == 1:
            drawn = init(key, base_shape, dtype)
        else:
            keys = jax.random.split(key, math.prod(tiles))
            drawn = jax.vmap(lambda tile_key: init(tile_key, base_shape, dtype))(keys)
            drawn = jax.tree.map(lambda x: join_tiles(x, tiles, base_shape), drawn)
        window = tuple(slice(size) for size in shape)
        return jax.tree.map(lambda x: scale(x if x.shape == shape else x[window], gain), drawn)

    return grown


def join_tiles(x: jax.Array, tiles: tuple[int, ...], base_shape: tuple[int, ...]) -> jax.Array:
    """Lays the tiles `x[i]` out on a grid of `tiles`."""
    rank = len(tiles)
    grid = x.reshape(tiles + base_shape)
    interleaved = grid.transpose([axis for i in range(rank) for axis in (i, rank + i)])
    return interleaved.reshape([n * b for n, b in zip(tiles, base_shape, strict=True)])


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


def require_float(name: str, dtype: Any) -> None:
    """Raises a `ValueError` unless `dtype` is a floating-point dtype, or `None`."""
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be a floating-point dtype. Got {jnp.dtype(dtype).name}. "
            "Parameters are trained by gradients; use float32, bfloat16 or float64."
        )


@dataclasses.dataclass(frozen=True)
class Initial:
    """How the values of a parameter at base width are drawn.

    Args:
      init: the initializer.
      is_default: whether it is Flax's own for this layer.
      std: standard deviation of normal values, drawn instead of those of `init`.
      default_std: the standard deviation of Flax's own initializer for a shape, where it is known.
      flat: what Flax makes of the shape before it calls an initializer; `None` if nothing.
    """

    init: Initializer
    is_default: bool = False
    std: float | None = None
    default_std: Callable[[tuple[int, ...]], float] | None = None
    flat: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None


def fan_in_std(shape: tuple[int, ...]) -> float:
    """The standard deviation `fan_in^-1/2` of Flax's kernels, whose last axis is the output."""
    return math.prod(shape[:-1]) ** -0.5


def features_std(shape: tuple[int, ...]) -> float:
    """The standard deviation `features^-1/2` of Flax's embeddings."""
    return shape[-1] ** -0.5


def declare_layer(
    axes: Mapping[str, tuple[Axis, ...]],
    initials: Mapping[str, Initial],
    parametrization: Parametrization,
    *,
    lr_scale: float,
    depth_ratio: float,
) -> dict[str, Parameter]:
    """The parameters of a layer, by name.

    Args:
      axes: the axes of each parameter.
      initials: how each is drawn at base width.
      parametrization: the rule.
      lr_scale: factor α on the learning rate of all; dimensionless.
      depth_ratio: number of residual blocks over that of the base model; dimensionless.

    Raises:
      ValueError: if a standard deviation is given for a parameter that the layer lacks, or beside
        an initializer, or a size, base, std or scale is out of range.
    """
    for name, initial in initials.items():
        if initial.std is not None:
            _require_one_scale(name, axes, initial)
    parametrization.require_depth_ratio(depth_ratio)
    return {
        name: _declare_initial(
            ParamSpec(own, lr_scale=lr_scale, depth_ratio=depth_ratio),
            initials[name],
            parametrization,
        )
        for name, own in axes.items()
    }


def _require_one_scale(name: str, axes: Mapping[str, Any], initial: Initial) -> None:
    argument = std_argument(name)
    if name not in axes:
        raise ValueError(f"`{argument}` needs a {name}. Got {initial.std!r} with use_{name}=False.")
    if not initial.is_default:
        shape = tuple(axis.size for axis in axes[name])
        raise ValueError(
            f"`{argument}` and `{name}_init` both set the initial scale of the {name} of shape "
            f"{shape}. Got {argument}={initial.std!r} and {name}_init={initial.init!r}. Pass one."
        )


def std_argument(name: str) -> str:
    """What a layer calls the argument for the standard deviation of its parameter `name`."""
    return "bias_init_std" if name == "bias" else "init_std"


def _declare_initial(
    spec: ParamSpec, initial: Initial, parametrization: Parametrization
) -> Parameter:
    if initial.std is not None:
        spec = dataclasses.replace(spec, init_std=initial.std)
        return declare(spec, parametrization, jax.nn.initializers.normal(initial.std))
    flat_shape = spec.base_shape if initial.flat is None else initial.flat(spec.base_shape)
    if initial.is_default and initial.default_std is not None:
        spec = dataclasses.replace(spec, init_std=initial.default_std(flat_shape))

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
        drawn = initial.init(key, flat_shape, dtype)
        return jax.tree.map(lambda x: x.reshape(shape), drawn)

    return declare(spec, parametrization, draw)


per_expert_init = jax.nn.initializers.lecun_normal(batch_axis=(0,))
"""Initializer of kernels `(experts, inputs, outputs)`: `inputs^-1/2`, whatever their number."""


def require_top_k(top_k: int, num_experts: int) -> None:
    """Raises a `ValueError` unless a router can choose `top_k` of `num_experts`."""
    if not 1 <= top_k <= num_experts:
        raise ValueError(
            f"`top_k` must be between 1 and `num_experts`. Got top_k={top_k} of {num_experts}. "
            "Give each input at least one expert, and no more than there are."
        )
