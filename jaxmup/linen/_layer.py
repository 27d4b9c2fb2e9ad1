"""What every layer shares: how it makes its parameters and finds their multipliers."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flax import linen as nn
from jax import Array

from jaxmup import functional
from jaxmup._parameter import (
    Initial,
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
      depth: in a residual block, the number of blocks over that of the base model; dimensionless.
    """

    parametrization: Parametrization | ParametrizationName = "mup"
    lr_scale: float = 1.0
    depth: float = 1.0

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
        return declare_layer(axes, initials, rule, lr_scale=self.lr_scale, depth=self.depth)

    @nn.nowrap
    def call_flax(
        self,
        layer: type[nn.Module],
        params: Any,
        *args: Any,
        collections: Mapping[str, Any] = MappingProxyType({}),
        **kwargs: Any,
    ) -> Any:
        """Calls Flax's layer, with the same settings, with `params` for its parameters."""
        names = {field.name for field in dataclasses.fields(layer) if field.init}
        settings = {name: getattr(self, name) for name in names - {"parent", "name"}}
        # Flax asks an initializer for the shape of a given parameter; the user's is for base width.
        settings |= {f"{name}_init": nn.initializers.zeros for name in params}
        variables = {"params": params, **collections}
        return layer(**settings, parent=None).apply(variables, *args, **kwargs)

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
