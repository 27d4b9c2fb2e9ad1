"""What every layer shares: how a parameter carries its spec and a layer its multipliers.

A layer that owns the parameter `kernel` holds the multiplier `m` of `W = m · kernel` as
`kernel_multiplier`: a Python float, or a `Multiplier` where multipliers are traced.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from flax import nnx
from jax import Array

from jaxmup import functional
from jaxmup._parameter import (
    Initial,
    Initializer,
    Parameter,
    as_parametrization,
    declare_layer,
    fan_in_std,
    require_float,
)
from jaxmup._rules import Parametrization, ParametrizationName
from jaxmup._spec import Axis, ParamSpec

M = TypeVar("M", bound=nnx.Module)

SPEC = "mup"  # the metadata key under which an `nnx.Param` carries its spec


class Multiplier(nnx.Variable[Array]):
    """The multiplier `m` of `W = m · w` as data: a scalar array, dimensionless.

    No optimizer trains it: it is no `nnx.Param`. See `trace_multipliers`.
    """


def number(multiplier: float | Multiplier) -> float | Array:
    """The value of a layer's multiplier, whether it is a constant or data."""
    return multiplier[...] if isinstance(multiplier, Multiplier) else multiplier


class Owned(NamedTuple):
    """A parameter that a jaxmup layer made, and the layer.

    Args:
      path: where the parameter stands in the model.
      layer: the layer.
      name: name of the parameter, an attribute of the layer.
      param: the parameter.
      spec: its spec.
    """

    path: tuple[Any, ...]
    layer: nnx.Module
    name: str
    param: nnx.Param[Array]
    spec: ParamSpec


def owned_parameters(model: nnx.Module) -> Iterator[Owned]:
    """Every parameter with a multiplier, once for each layer that applies one to it.

    Raises:
      ValueError: if such a parameter has been replaced by one without a spec.
    """
    for path, layer in nnx.iter_modules(model):
        for name, value in sorted(vars(layer).items()):
            if isinstance(value, nnx.Param) and hasattr(layer, multiplier_name(name)):
                yield Owned((*path, name), layer, name, value, _spec_of((*path, name), value))


def _spec_of(path: tuple[Any, ...], param: nnx.Param[Array]) -> ParamSpec:
    metadata = param.get_metadata()
    if SPEC not in metadata:
        raise ValueError(
            f"A jaxmup layer's parameter must carry its spec. {name_of(path)} of shape "
            f"{param.shape} has none. Set the value of the layer's own parameter instead of "
            "putting another one in its place."
        )
    return metadata[SPEC]


def multiplier_name(name: str) -> str:
    """Under which attribute a layer holds the multiplier of its parameter `name`."""
    return f"{name}_multiplier"


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter, such as `"layers/0/kernel"`."""
    return "/".join(map(str, path))


def prepare(
    constructor: Callable[..., None],
    axes: Mapping[str, tuple[Axis, ...]],
    arguments: Mapping[str, Any],
    *,
    parametrization: Parametrization | ParametrizationName,
    lr_scale: float,
    depth_ratio: float,
    stds: Mapping[str, float | None] = MappingProxyType({}),
    default_std: Callable[[tuple[int, ...]], float] | None = fan_in_std,
    flat: Callable[[str], Callable[[tuple[int, ...]], tuple[int, ...]]] | None = None,
    initializer: str = "{}_init",
) -> tuple[dict[str, float], dict[str, Any]]:
    """The multipliers of a layer and the arguments with which Flax's constructor makes it.

    Args:
      constructor: Flax's.
      axes: the axes of each parameter, by name.
      arguments: its keyword arguments that the user gave.
      parametrization: the rule, or its name.
      lr_scale: factor on the learning rate; dimensionless.
      depth_ratio: number of residual blocks over that of the base model; dimensionless.
      stds: standard deviations that the user gave, by name of the parameter.
      default_std: of Flax's own initializer of the main parameter, for a shape.
      flat: for a parameter's name, what Flax makes of its shape before it calls the initializer.
      initializer: what Flax calls the argument for the initializer of a parameter.

    Returns:
      Attributes for the layer to hold, and `arguments` with initializers for this width and with
      the specs in the metadata.
    """
    for name in ("dtype", "param_dtype"):
        require_float(name, arguments.get(name))
    arrays, initials = {}, {}
    for name in {**axes, **stds}:
        argument = initializer.format(name)
        default = inspect.signature(constructor).parameters[argument].default
        init = arguments.get(argument, default)
        arrays[name] = Unboxed(init)
        initials[name] = Initial(
            arrays[name],
            is_default=init is default,
            std=stds.get(name),
            default_std=default_std if name in ("kernel", "embedding") else None,
            flat=None if flat is None else flat(name),
        )
    rule = as_parametrization(parametrization)
    declared = declare_layer(axes, initials, rule, lr_scale=lr_scale, depth_ratio=depth_ratio)
    ours = dict(arguments)
    for name, parameter in declared.items():
        ours[initializer.format(name)] = arrays[name].boxed(parameter)
        metadata = arguments.get(f"{name}_metadata", {})
        ours[f"{name}_metadata"] = {**metadata, SPEC: parameter.spec}
    multipliers = {multiplier_name(name): p.multiplier for name, p in declared.items()}
    return multipliers, ours


def hold(layer: Any, multipliers: Mapping[str, float]) -> None:
    """Gives a layer under construction its multipliers."""
    for name, value in multipliers.items():
        setattr(layer, name, value)


def effective(layer: nnx.Module, name: str) -> Array | None:
    """The effective weight `m · w` of a layer's parameter, or `None` if it has none."""
    param = getattr(layer, name)
    if param is None:
        return None
    return functional.scale(param[...], number(getattr(layer, multiplier_name(name))))


def with_arrays(layer: M, **arrays: Array | None) -> M:
    """The layer as Flax's forward pass shall see it: with other arrays as its parameters.

    A shallow copy that lives for one call; what else the layer holds, such as running statistics,
    it shares.
    """
    seen = object.__new__(type(layer))
    vars(seen).update(vars(layer))
    vars(seen).update({name: nnx.Param(x) for name, x in arrays.items() if x is not None})
    return seen


def on_the_smaller(layer: Any, inputs: Array) -> tuple[Any, Array]:
    """A layer and its inputs for Flax's forward pass, the kernel's multiplier on one of them."""
    multiplier = number(layer.kernel_multiplier)
    inputs, kernel = functional.scale_smaller(inputs, layer.kernel[...], multiplier)
    return with_arrays(layer, kernel=kernel, bias=effective(layer, "bias")), inputs


class Unboxed:
    """The arrays of an initializer that may return an `nnx.VariableMetadata` around them.

    JAX's transformations do not know that box: the arrays are drawn, tiled and scaled without it.
    """

    def __init__(self, init: Initializer):
        self._init = init
        self._box: nnx.VariableMetadata[Any] | None = None

    def __call__(self, *args: Any) -> Array:
        drawn: Any = self._init(*args)
        if not isinstance(drawn, nnx.VariableMetadata):
            return drawn
        self._box = dataclasses.replace(drawn, raw_value=None)
        return drawn.raw_value

    def boxed(self, parameter: Parameter) -> Initializer:
        """The initializer of `parameter`, which draws from this one, as Flax calls it.

        Flax may ask for the values in a flat shape; what it gets is in the box that this one
        returned.
        """

        def restored(key: Array, shape: tuple[int, ...], dtype: Any) -> Any:
            values = parameter.init(key, parameter.spec.shape, dtype).reshape(shape)
            return values if self._box is None else dataclasses.replace(self._box, raw_value=values)

        return restored
