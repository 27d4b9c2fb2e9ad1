"""What every layer shares: how it makes its parameters and finds their multipliers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.linear import default_kernel_init
from jax import Array

from jaxmup import functional
from jaxmup._axes import flat_shape
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
from jaxmup._spec import Axis

MULTIPLIERS = "multipliers"


class Layer(nn.Module):
    """A layer that makes its parameters from their declarations.

    Args:
      parametrization: the rule, or its name (then for the Adam family).
      lr_scale: factor α on the learning rate of the layer's parameters; dimensionless.
      depth_ratio: number of residual blocks over that of the base model; 1.0 outside of them.
    """

    parametrization: Parametrization | ParametrizationName = "mup"
    lr_scale: float = 1.0
    depth_ratio: float = 1.0

    def declare(
        self,
        axes: Mapping[str, tuple[Axis, ...]],
        *,
        stds: Mapping[str, float | None] = MappingProxyType({}),
        default_std: Callable[[tuple[int, ...]], float] | None = None,
        flat: Callable[[str], Callable[[tuple[int, ...]], tuple[int, ...]]] | None = None,
    ) -> dict[str, Parameter]:
        """The layer's parameters from their axes, by name.

        Args:
          axes: the axes of each parameter, in the order in which Flax's layer makes them.
          stds: standard deviations that the user gave, by name of the parameter.
          default_std: of Flax's own initializer of the main parameter, for a shape.
          flat: for a parameter's name, what Flax makes of its shape before it calls the
            initializer.
        """
        for name in ("dtype", "param_dtype"):
            require_float(name, getattr(self, name))
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        initials = {
            name: Initial(
                getattr(self, f"{name}_init"),
                is_default=getattr(self, f"{name}_init") is defaults[f"{name}_init"],
                std=stds.get(name),
                default_std=default_std if name in ("kernel", "embedding") else None,
                flat=None if flat is None else flat(name),
            )
            for name in {**axes, **stds}
        }
        rule = as_parametrization(self.parametrization)
        return declare_layer(
            axes, initials, rule, lr_scale=self.lr_scale, depth_ratio=self.depth_ratio
        )

    @nn.nowrap
    def rule(self) -> dict[str, Any]:
        """The settings that a layer hands on to the layers inside of it."""
        names = ("param_dtype", "parametrization", "lr_scale", "depth_ratio")
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def call_flax(
        self,
        layer: type[nn.Module],
        params: Mapping[str, Any],
        *args: Any,
        settings: Mapping[str, Any] = MappingProxyType({}),
        state: Sequence[str] = (),
        **kwargs: Any,
    ) -> Any:
        """Calls Flax's layer, with the same settings, with `params` for its parameters.

        Args:
          layer: Flax's layer.
          params: the effective weights.
          *args: what the layer is called with.
          settings: what the layer has in place of this one's settings.
          state: collections that the layer may read and write, such as `"cache"`.
          **kwargs: what the layer is called with.
        """
        names = {field.name for field in dataclasses.fields(layer) if field.init}
        own = {name: getattr(self, name) for name in names - {"parent", "name"}}
        # Flax asks an initializer for the shape of a given parameter; the user's is for base width.
        own |= {f"{name}_init": nn.initializers.zeros for name in params if f"{name}_init" in own}
        held = {name: self.variables[name] for name in state if name in self.variables}
        result = layer(**{**own, **settings}, parent=None).apply(
            {"params": params, **held},
            *args,
            mutable=[name for name in state if self.is_mutable_collection(name)]
            if state
            else False,
            **kwargs,
        )
        if not state:
            return result
        result, updated = result
        for collection, variables in updated.items():
            for name, value in variables.items():
                self.put_variable(collection, name, value)
        return result

    def make_parameters(
        self, declared: Mapping[str, Parameter]
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """The layer's parameters and their multipliers, by name.

        A multiplier is a constant of the program, unless the collection `"multipliers"` holds one.
        A method of its own, so that `specs` sees what every layer of a module declares.

        Args:
          declared: the parameters in the order in which Flax's layer makes them.
        """
        params = {
            name: self.param(name, parameter.init, parameter.spec.shape, self.param_dtype)
            for name, parameter in declared.items()
        }
        multipliers = {
            name: self.get_variable(MULTIPLIERS, name, parameter.multiplier)
            for name, parameter in declared.items()
        }
        return params, multipliers

    def make_effective(self, declared: Mapping[str, Parameter]) -> dict[str, Array]:
        """The effective weights `m · w` of the layer, by name."""
        params, multipliers = self.make_parameters(declared)
        return {name: functional.scale(w, multipliers[name]) for name, w in params.items()}


class Weights(Layer):
    """The effective weights of one layer inside of another, whose forward pass is Flax's.

    It makes them under the names, and from the random keys, that Flax's own inner layer has.

    Args:
      axes: the axes of each parameter.
      n_outputs: number of the kernel's output axes.
      kernel_init: initializer of the kernel at base width.
      bias_init: the same of the bias.
      scale_init: the same of the gain of a norm.
    """

    axes: Mapping[str, tuple[Axis, ...]] = dataclasses.field(default_factory=dict)
    n_outputs: int = 1
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        """The effective weights, by name."""
        flat = partial(partial, flat_shape, n_outputs=self.n_outputs)
        return self.make_effective(self.declare(self.axes, default_std=fan_in_std, flat=flat))


class KernelLayer(Layer):
    """A layer with a kernel and perhaps a bias, linear in its inputs.

    Args:
      init_std: standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: standard deviation of a normal bias at base width, instead of `bias_init`.
    """

    init_std: float | None = None
    bias_init_std: float | None = None

    def call_linear(
        self,
        layer: type[nn.Module],
        axes: Mapping[str, tuple[Axis, ...]],
        inputs: Array,
        *args: Any,
        flat: Callable[[str], Callable[[tuple[int, ...]], tuple[int, ...]]] | None = None,
    ) -> Array:
        """Calls Flax's layer, the kernel's multiplier on the smaller of inputs and kernel."""
        stds = {"kernel": self.init_std, "bias": self.bias_init_std}
        declared = self.declare(axes, stds=stds, default_std=fan_in_std, flat=flat)
        params, multipliers = self.make_parameters(declared)
        inputs, params["kernel"] = functional.scale_smaller(
            inputs, params["kernel"], multipliers["kernel"]
        )
        if "bias" in params:
            params["bias"] = functional.scale(params["bias"], multipliers["bias"])
        return self.call_flax(layer, params, inputs, *args)
