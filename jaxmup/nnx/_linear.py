"""Linear layers."""

from collections.abc import Mapping
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
from jaxmup.nnx._layer import SPEC, Unboxed, number


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
        kernel_arrays, bias_arrays = Unboxed(kernel_init), Unboxed(bias_init)
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
            kernel_metadata={**kernel_metadata, SPEC: kernel.spec},
            bias_metadata={**bias_metadata, SPEC: bias.spec},
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
            kernel_multiplier=number(self.kernel_multiplier),
            bias_multiplier=number(self.bias_multiplier),
            promote=lambda *arrays: self.promote_dtype(arrays, dtype=self.dtype),
            dot_general=self.dot_general,
            precision=self.precision,
            **kwargs,
        )
