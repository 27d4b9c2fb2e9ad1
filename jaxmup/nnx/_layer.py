"""What every layer shares: how a parameter carries its spec and a layer its multipliers.

A layer that owns the parameter `kernel` holds the multiplier `m` of `W = m · kernel` as
`kernel_multiplier`: a Python float, or a `Multiplier` where multipliers are traced.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flax import nnx
from jax import Array

from jaxmup._parameter import Initializer
from jaxmup._spec import ParamSpec

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
    """Every parameter with a multiplier, once for each layer that applies one to it."""
    for path, layer in nnx.iter_modules(model):
        for name, value in sorted(vars(layer).items()):
            if isinstance(value, nnx.Param) and hasattr(layer, multiplier_name(name)):
                yield Owned((*path, name), layer, name, value, value.get_metadata()[SPEC])


def multiplier_name(name: str) -> str:
    """Under which attribute a layer holds the multiplier of its parameter `name`."""
    return f"{name}_multiplier"


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter, such as `"layers/0/kernel"`."""
    return "/".join(map(str, path))


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

    def boxed(self, init: Callable[..., Array]) -> Initializer:
        """`init`, which draws from this one, with the box around what it returns."""

        def restored(*args: Any) -> Any:
            values = init(*args)
            return values if self._box is None else dataclasses.replace(self._box, raw_value=values)

        return restored
