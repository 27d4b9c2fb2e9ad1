"""How a layer makes one parameter: its spec, its multiplier and its initializer."""

import dataclasses
import math
from collections.abc import Callable
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


def declare(spec: ParamSpec, rule: Parametrization, init: Initializer) -> Parameter:
    """The parameter described by `spec` under `rule`, whose initializer at base width is `init`.

    Example:
      >>> from jaxmup import Axis
      >>> spec = ParamSpec((Axis("input", 256, base=64), Axis("output", 10)), init_std=0.125)
      >>> declare(spec, parametrization("mup"), jax.nn.initializers.normal(0.125)).multiplier
      0.25
    """
    applied = what_is_applied(spec, rule)
    multiplier, init_gain = dataclasses.astuple(applied)
    spec = dataclasses.replace(spec, applied=applied)
    return Parameter(spec, multiplier, grown_initializer(init, spec.base_shape, init_gain))


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


def require_dense_arguments(
    *, dtype: Any, param_dtype: Any, use_bias: bool, bias_init_std: float | None
) -> None:
    """Raises a `ValueError` if the arguments of a linear layer are at odds with each other."""
    _require_float("dtype", dtype)
    _require_float("param_dtype", param_dtype)
    if bias_init_std is not None and not use_bias:
        raise ValueError(
            f"`bias_init_std` needs a bias. Got {bias_init_std!r} with use_bias=False."
        )


def _require_float(name: str, dtype: Any) -> None:
    """Raises a `ValueError` unless `dtype` is a floating-point dtype, or `None`."""
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be a floating-point dtype. Got {jnp.dtype(dtype).name}. "
            "Parameters are trained by gradients; use float32, bfloat16 or float64."
        )


def dense_parameters(
    sizes: tuple[int, int],
    bases: tuple[int | None, int | None],
    rule: Parametrization,
    *,
    kernel_init: Initializer,
    kernel_init_is_default: bool,
    bias_init: Initializer,
    init_std: float | None,
    bias_init_std: float | None,
    lr_scale: float,
) -> tuple[Parameter, Parameter]:
    """The kernel and the bias of a linear layer.

    Args:
      sizes: `(in_features, out_features)`.
      bases: their sizes in the base model; `None` for one that does not grow.
      rule: the parametrization.
      kernel_init: initializer of the kernel at base width.
      kernel_init_is_default: whether it is Flax's default, whose standard deviation is known to be
        `fan_in^-1/2`.
      bias_init: initializer of the bias at base width.
      init_std: standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: the same of the bias, instead of `bias_init`.
      lr_scale: factor on the learning rate of both; dimensionless.

    Raises:
      ValueError: if `init_std` comes with a `kernel_init`, or a size, base, std or scale is out of
        range.
    """
    axis_in, axis_out = (
        Axis(kind, size, base)
        for kind, size, base in zip(("input", "output"), sizes, bases, strict=True)
    )
    if init_std is not None:
        if not kernel_init_is_default:
            raise ValueError(
                "`init_std` and `kernel_init` both set the initial scale of the kernel of shape "
                f"{sizes}. Got init_std={init_std!r} and kernel_init={kernel_init!r}. Pass one."
            )
        sigma, kernel_init = init_std, jax.nn.initializers.normal(init_std)
    elif kernel_init_is_default:
        sigma = axis_in.base_size**-0.5
    else:
        sigma = None
    if bias_init_std is not None:
        bias_init = jax.nn.initializers.normal(bias_init_std)
    kernel = ParamSpec((axis_in, axis_out), sigma, lr_scale)
    bias = ParamSpec((axis_out,), bias_init_std, lr_scale)
    return declare(kernel, rule, kernel_init), declare(bias, rule, bias_init)
