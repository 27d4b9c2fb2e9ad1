"""The steps that all layers share: Flax's layer made for this width, and scaled inputs for it.

A layer that owns the parameter `kernel` holds the multiplier `m` of `W = m · kernel` as
`kernel_multiplier`: a Python float, or a `Multiplier` where multipliers are traced. The parameter
carries its spec as metadata.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxmup import functional
from jaxmup._axes import LayerAxes
from jaxmup._parameter import (
    Initializer,
    Parameter,
    as_parametrization,
    declare,
    known_initializers,
)
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup._spec import ParamSpec
from jaxmup.nnx._keys import Keys

M = TypeVar("M", bound=nnx.Module)
L = TypeVar("L", bound=nnx.Linear | nnx.LinearGeneral | nnx.Einsum | nnx.Conv | nnx.ConvTranspose)

ACTS_ON = "multiplier_acts_on"  # the attribute of a layer that says where its multiplier acts
SPEC = "mup"  # the metadata key under which an `nnx.Param` carries its spec


class Multiplier(nnx.Variable[Array]):
    """The multiplier `m` of `W = m · w` as data: a scalar array, dimensionless.

    No optimizer trains it: it is no `nnx.Param`. See `trace_multipliers`.
    """


def multiplier_name(name: str) -> str:
    """The attribute under which a layer holds the multiplier of its parameter `name`."""
    return f"{name}_multiplier"


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter, such as `"layers/0/kernel"`."""
    return "/".join(map(str, path))


def scaled_arguments(
    constructor: Callable[..., None],
    axes: LayerAxes,
    given: Mapping[str, Any],
    parametrization: Parametrization | ParametrizationName,
    *,
    init_argument: str = "{}_init",
    **constants: Any,
) -> dict[str, Any]:
    """Keyword arguments with which Flax's constructor makes a layer for this width.

    Args:
      constructor: Constructor of Flax's layer.
      axes: Axes of each parameter.
      given: Keyword arguments of the constructor that the user gave.
      parametrization: A `Parametrization`, or its name.
      init_argument: Name of the constructor's argument for the initializer of a parameter.
      **constants: Other arguments of `declare`, such as `lr_scale`.

    Returns:
      `given`, with initializers for this width and with the specs in the metadata.
    """
    arguments = inspect.signature(constructor).parameters
    defaults = {name: arguments[init_argument.format(name)].default for name, _ in axes}
    inits = {name: given.get(init_argument.format(name), defaults[name]) for name in defaults}
    declared = declare(
        axes,
        parametrization,
        default_inits=[name for name in inits if inits[name] is defaults[name]],
        known=known_initializers(tuple(inits.items())),
        dtype=given.get("dtype"),
        param_dtype=given.get("param_dtype"),
        **constants,
    )
    ours = dict(given)
    if isinstance(given.get("rngs"), nnx.Rngs):
        ours["rngs"] = Keys(given["rngs"])
    for name, parameter in declared.items():
        ours[init_argument.format(name)] = _as_flax_calls_it(parameter, inits[name])
        ours[f"{name}_metadata"] = {**given.get(f"{name}_metadata", {}), SPEC: parameter.spec}
    return ours


def hold_multipliers(
    layer: nnx.Module, parametrization: Parametrization | ParametrizationName
) -> None:
    """Gives a layer that Flax's constructor has made the multipliers that its specs say."""
    setattr(layer, ACTS_ON, as_parametrization(parametrization).multiplier_acts_on)
    for name, param in list(vars(layer).items()):
        spec = param.get_metadata().get(SPEC) if isinstance(param, nnx.Param) else None
        if spec is not None:
            setattr(layer, multiplier_name(name), spec.applied.multiplier)


def multiplier_of(layer: nnx.Module, name: str) -> float | Array:
    """The value of the multiplier of a layer's parameter, whether it is a constant or data."""
    multiplier = getattr(layer, multiplier_name(name))
    return multiplier[...] if isinstance(multiplier, Multiplier) else multiplier


def spec_of(param: nnx.Variable[Array]) -> ParamSpec | None:
    """The spec of a layer's parameter; `None` if another one has been put in its place."""
    return param.get_metadata().get(SPEC)


def varies(param: nnx.Variable[Array]) -> bool:
    """True if the multiplier of a layer's parameter is another one at other sizes."""
    spec = spec_of(param)
    return spec is not None and spec.applied is not None and spec.applied.varies


def effective(layer: nnx.Module, name: str) -> Array | None:
    """The effective weight `m · w` of a layer's parameter, or `None` if the layer lacks it."""
    param = getattr(layer, name)
    if param is None:
        return None
    always = varies(param)
    return functional.scale(param[...], multiplier_of(layer, name), always=always)


def with_arrays(layer: M, **arrays: Array | None) -> M:
    """The layer as Flax's forward pass shall see it: with other arrays as its parameters.

    A shallow copy that lives for one call; what else the layer holds, such as running statistics,
    it shares.
    """
    # Flax's constructor would draw parameters, and `nnx.clone` would copy the statistics.
    seen = object.__new__(type(layer))
    vars(seen).update(vars(layer))
    vars(seen).update({name: nnx.Param(x) for name, x in arrays.items() if x is not None})
    return seen


def call_linear(layer: L, flax: type[L], inputs: Array, *args: Any) -> Array:
    """Calls Flax's forward pass of a linear layer, with the multipliers where they act."""

    def product(inputs: Array, kernel: Array, bias: Array | None) -> Array:
        seen: Any = with_arrays(layer, kernel=kernel, bias=bias)
        return flax.__call__(seen, inputs, *args)

    held: Any = layer  # `hold_multipliers` has given it an attribute that Flax's class lacks
    spec = spec_of(layer.kernel)
    return functional.scaled_product(
        product,
        (inputs, layer.kernel[...], None if layer.bias is None else layer.bias[...]),
        (_factor(layer, "kernel"), _factor(layer, "bias")),
        held.multiplier_acts_on,
        growth=1.0 if spec is None or spec.applied is None else spec.applied.growth,
    )


def _factor(layer: nnx.Module, name: str) -> functional.Factor:
    param = getattr(layer, name)
    if param is None:
        return functional.Factor(1.0)
    return functional.Factor(multiplier_of(layer, name), varies(param))


def _as_flax_calls_it(parameter: Parameter, init: Initializer) -> Initializer:
    """The initializer of `parameter`, in the shape that Flax asks for and in the box of `init`."""

    def drawn(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        box: nnx.VariableMetadata[Any] | None = None

        # An initializer may return its values in a box of metadata, which JAX's transformations do
        # not know: values are drawn, tiled and scaled without it.
        def unboxed(*args: Any) -> Array:
            nonlocal box
            values: Any = init(*args)
            if not isinstance(values, nnx.VariableMetadata):
                return values
            box = dataclasses.replace(values, raw_value=None)
            return values.raw_value

        # Flax's general layers ask for the values as a matrix; the axes grow each on its own.
        values = parameter.initializer(unboxed)(key, parameter.shape, dtype).reshape(shape)
        return values if box is None else dataclasses.replace(box, raw_value=values)

    return drawn
