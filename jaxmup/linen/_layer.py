"""The steps that all layers share: parameters for this width, and Flax's layer called on them."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.linear import default_kernel_init
from flax.typing import Dtype
from jax import Array

from jaxmup import functional
from jaxmup._axes import LayerAxes
from jaxmup._parameter import (
    Initializer,
    Parameter,
    as_parametrization,
    declare,
    known_initializers,
)
from jaxmup._parametrization import MultiplierActsOn, Parametrization, ParametrizationName

T = TypeVar("T")

MULTIPLIERS = "multipliers"


@functools.lru_cache(maxsize=1024, typed=True)
def _kept(function: Callable[..., Any], *args: Hashable, **kwargs: Hashable) -> Any:
    return function(*args, **kwargs)


def once(function: Callable[..., T], *args: Hashable, **kwargs: Hashable) -> T:
    """`function(*args, **kwargs)`, computed once for equal arguments of equal types.

    Linen makes a module anew for each call, so a module has no place of its own to keep what
    follows from its fields and the sizes of its inputs.

    Args:
      function: A pure function of the top level of its module, which the cache keeps.
      *args: Positional arguments.
      **kwargs: Keyword arguments.

    Example:
      >>> once(max, 1, 2)
      2
    """
    try:
        return _kept(function, *args, **kwargs)
    except TypeError:  # an argument has no hash, such as an array; `function` refuses it by name
        return function(*args, **kwargs)


def _acts_on(parametrization: Parametrization | ParametrizationName) -> MultiplierActsOn:
    return as_parametrization(parametrization).multiplier_acts_on


class Layer(nn.Module):
    """A layer that makes its parameters from their declarations.

    Args:
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      lr_scale: Factor α on the learning rate of the layer's parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
    """

    parametrization: Parametrization | ParametrizationName = "mup"
    lr_scale: float = 1.0
    depth_ratio: float = 1.0

    @nn.nowrap
    def multiplier_acts_on(self) -> MultiplierActsOn:
        """The place where the multiplier of the kernel acts."""
        return once(_acts_on, self.parametrization)

    @nn.nowrap
    def shared(self) -> dict[str, Any]:
        """The settings that a layer hands on to the layers inside of it."""
        names = ("param_dtype", "parametrization", "lr_scale", "depth_ratio")
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def declare(self, axes: LayerAxes, *, flat: bool = False) -> Mapping[str, Parameter]:
        """The layer's parameters from their axes, by name.

        Args:
          axes: Axes of each parameter, in the order in which Flax's layer makes them.
          flat: Whether Flax draws the kernel as a matrix, whatever its axes.
        """
        own: Any = self
        inits = {name: getattr(self, f"{name}_init") for name, _ in axes}
        # A dataclass keeps the default of a field as an attribute of the class.
        default_inits = [
            name
            for name, init in inits.items()
            if init is getattr(type(self), f"{name}_init", None)
        ]
        return once(
            declare,
            axes,
            self.parametrization,
            lr_scale=self.lr_scale,
            depth_ratio=self.depth_ratio,
            init_std=getattr(self, "init_std", None),
            bias_init_std=getattr(self, "bias_init_std", None),
            default_inits=tuple(default_inits),
            known=once(known_initializers, tuple(inits.items())),
            flat=flat,
            dtype=own.dtype,
            param_dtype=own.param_dtype,
        )

    def make_parameters(
        self, declared: Mapping[str, Parameter]
    ) -> tuple[dict[str, Array], dict[str, float | Array]]:
        """The layer's parameters and their multipliers, by name.

        A multiplier is a constant of the program, unless the collection `"multipliers"` holds one.
        A method of its own, so that `specs` sees what every layer of a module declares.

        Args:
          declared: Parameters in the order in which Flax's layer makes them.
        """
        params = {
            name: self.param(
                name,
                self._initializer(name, parameter),
                parameter.shape,
                self.param_dtype,
            )
            for name, parameter in declared.items()
        }
        multipliers: dict[str, float | Array] = {
            name: self.get_variable(MULTIPLIERS, name, parameter.applied.multiplier)
            for name, parameter in declared.items()
        }
        return params, multipliers

    @nn.nowrap
    def make_effective(self, declared: Mapping[str, Parameter]) -> dict[str, Array]:
        """The effective weights `m · w` of the layer, by name."""
        params, multipliers = self.make_parameters(declared)
        return {
            name: functional.scale(w, multipliers[name], always=declared[name].applied.varies)
            for name, w in params.items()
        }

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
          layer: Class of Flax's layer.
          params: Effective weights, by name.
          *args: Positional arguments of the call.
          settings: Settings of Flax's layer in place of this one's.
          state: Collections that the layer may read and write, such as `"cache"`.
          **kwargs: Keyword arguments of the call.
        """
        names = {field.name for field in dataclasses.fields(layer) if field.init}
        own = {name: getattr(self, name) for name in names - {"parent", "name"}}
        # Flax asks an initializer for the shape of a given parameter; the user's is for base width.
        own |= {f"{name}_init": nn.initializers.zeros for name in params if f"{name}_init" in own}
        # Without a parent, or Linen would take it for a submodule with parameters of its own.
        flax = layer(**{**own, **settings}, parent=None)
        if not state:
            return flax.apply({"params": params}, *args, **kwargs)
        held = {name: self.variables[name] for name in state if name in self.variables}
        mutable = [name for name in state if self.is_mutable_collection(name)]
        result, updated = flax.apply({"params": params, **held}, *args, mutable=mutable, **kwargs)
        for collection, variables in updated.items():
            for name, value in variables.items():
                self.put_variable(collection, name, value)
        return result

    @nn.nowrap
    def _initializer(self, name: str, parameter: Parameter) -> Initializer:
        # Flax traces the initializer of a parameter that exists at every call, for the shape alone;
        # ours would derive tiles and gain each time.
        if self.has_variable("params", name):
            return nn.initializers.zeros
        return parameter.initializer(getattr(self, f"{name}_init"))


class Weights(Layer):
    """The effective weights of one layer inside of another, whose forward pass is Flax's.

    It makes them under the names, and from the random keys, that Flax's own inner layer has.

    Args:
      axes: Axes of each parameter.
      kernel_init: Initializer of the kernel at base width.
      bias_init: Initializer of the bias at base width.
      scale_init: Initializer of the gain of a norm at base width.
      init_std: Standard deviation of a normal kernel at base width, instead of `kernel_init`.
      dtype: Dtype of the computation.
      param_dtype: Dtype of the parameters.
    """

    axes: LayerAxes = ()
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    init_std: float | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        """The effective weights, by name."""
        return self.make_effective(self.declare(self.axes, flat=True))


class KernelLayer(Layer):
    """A layer with a kernel and perhaps a bias, linear in its inputs.

    Args:
      init_std: Standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: Standard deviation of a normal bias at base width, instead of `bias_init`.
    """

    init_std: float | None = None
    bias_init_std: float | None = None

    @nn.nowrap
    def call_linear(
        self,
        layer: type[nn.Module],
        axes: LayerAxes,
        inputs: Array,
        *args: Any,
        flat: bool = False,
    ) -> Array:
        """Calls Flax's layer, with the multipliers where they act."""
        declared = self.declare(axes, flat=flat)
        params, multipliers = self.make_parameters(declared)
        factors = {
            name: functional.Factor(multipliers[name], parameter.applied.varies)
            for name, parameter in declared.items()
        }

        def product(inputs: Array, kernel: Array, bias: Array | None) -> Array:
            weights = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
            return self.call_flax(layer, weights, inputs, *args)

        return functional.scaled_product(
            product,
            (inputs, params["kernel"], params.get("bias")),
            (factors["kernel"], factors.get("bias", functional.Factor(1.0))),
            self.multiplier_acts_on(),
            growth=declared["kernel"].applied.growth,
        )
