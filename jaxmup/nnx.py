"""Flax NNX layers with an abcd-parametrization, drop-in for those of `flax.nnx`."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.linear import default_bias_init, default_kernel_init
from flax.typing import Dtype, Initializer, PrecisionLike, PromoteDtypeFn
from jax import Array, lax

from jaxmup import functional
from jaxmup._parameter import as_parametrization, dense_parameters, require_dense_arguments
from jaxmup._rules import Parametrization, ParametrizationName
from jaxmup._spec import ParamSpec
from jaxmup._tree import specs_of_leaves

_SPEC = "mup"  # the metadata key under which an `nnx.Param` carries its spec


class Linear(nnx.Linear):
    r"""`flax.nnx.Linear` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width, and wherever no base is given, it is `flax.nnx.Linear` bit for bit. The arguments
    not listed here are those of `flax.nnx.Linear`.

    Args:
      in_features: size of the last axis of the inputs.
      out_features: size of the last axis of the outputs.
      kernel_init: initializer of the kernel *at base width*; it is called with the base shape, and
        the values are then tiled and scaled to this width.
      bias_init: the same of the bias.
      parametrization: the rule, or its name (then for the Adam family).
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow.
      init_std: standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: standard deviation of a normal bias at base width, instead of `bias_init`.
      lr_scale: factor α on the learning rate of kernel and bias; dimensionless.

    Raises:
      ValueError: if a size, base, standard deviation or scale is out of range, a dtype is not a
        floating-point one, `bias_init_std` is given without a bias, or `init_std` with a
        `kernel_init`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> readout = jaxmup.nnx.Linear(1024, 10, base_in_features=64, rngs=nnx.Rngs(0))
      >>> readout.kernel_multiplier
      0.0625
      >>> readout(jnp.ones((2, 1024))).shape
      (2, 10)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = default_bias_init,
        dot_general: Any = lax.dot_general,
        promote_dtype: PromoteDtypeFn = dtypes.promote_dtype,
        preferred_element_type: Dtype | None = None,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: int | None = None,
        base_out_features: int | None = None,
        init_std: float | None = None,
        bias_init_std: float | None = None,
        lr_scale: float = 1.0,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        require_dense_arguments(
            dtype=dtype, param_dtype=param_dtype, use_bias=use_bias, bias_init_std=bias_init_std
        )
        kernel_arrays, bias_arrays = _Unboxed(kernel_init), _Unboxed(bias_init)
        kernel, bias = dense_parameters(
            (in_features, out_features),
            (base_in_features, base_out_features),
            as_parametrization(parametrization),
            kernel_init=kernel_arrays,
            kernel_init_is_default=kernel_init is default_kernel_init,
            bias_init=bias_arrays,
            init_std=init_std,
            bias_init_std=bias_init_std,
            lr_scale=lr_scale,
        )
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_arrays.boxed(kernel.init),
            bias_init=bias_arrays.boxed(bias.init),
            dot_general=dot_general,
            promote_dtype=promote_dtype,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
            kernel_metadata={**kernel_metadata, _SPEC: kernel.spec},
            bias_metadata={**bias_metadata, _SPEC: bias.spec},
        )
        self.kernel_multiplier = kernel.multiplier
        self.bias_multiplier = bias.multiplier

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Applies the layer to `inputs` of shape `(..., in_features)`: `(..., out_features)`."""
        kwargs = {"out_sharding": out_sharding}
        if self.preferred_element_type is not None:
            kwargs["preferred_element_type"] = self.preferred_element_type
        return functional.dense(
            inputs,
            self.kernel[...],
            None if self.bias is None else self.bias[...],
            kernel_multiplier=self.kernel_multiplier,
            bias_multiplier=self.bias_multiplier,
            promote=lambda *arrays: self.promote_dtype(arrays, dtype=self.dtype),
            dot_general=self.dot_general,
            precision=self.precision,
            **kwargs,
        )


def specs(model: nnx.Module, *, given: Mapping[str, ParamSpec] | None = None) -> nnx.State:
    """The `ParamSpec` of every parameter of a model, as a tree like `nnx.state(model, nnx.Param)`.

    Works on abstract models too: `specs(nnx.eval_shape(make_model))` allocates nothing. Axes that
    `nnx.vmap` or `nnx.scan` has added are batch axes.

    Args:
      model: an NNX module.
      given: specs of parameters that no jaxmup layer made, by name (`"norm/scale"`).

    Raises:
      ValueError: naming every parameter without a spec, or given names that match nothing.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> layer = jaxmup.nnx.Linear(3, 128, base_out_features=64, rngs=nnx.Rngs(0))
      >>> specs(layer)["kernel"].role
      'input'
    """
    params = nnx.state(model, nnx.Param)
    shapes: dict[str, tuple[int, ...]] = {}
    declared: dict[str, ParamSpec] = {}
    flat = list(nnx.to_flat_state(params))
    for path, param in flat:
        name = _name(path)
        shapes[name] = tuple(param.shape)
        if _SPEC in param.get_metadata():
            declared[name] = param.get_metadata()[_SPEC]
    found = specs_of_leaves(shapes, declared, given)
    return nnx.from_flat_state([(path, found[_name(path)]) for path, _ in flat])


class _Unboxed:
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


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
