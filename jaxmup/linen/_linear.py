"""Dense layers."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.linear import default_kernel_init
from jax import Array, lax

from jaxmup import functional
from jaxmup._parameter import (
    Parameter,
    as_parametrization,
    dense_parameters,
    require_dense_arguments,
)
from jaxmup._rules import Parametrization, ParametrizationName
from jaxmup.linen._layer import Layer


class Dense(Layer, nn.Dense):
    r"""`flax.linen.Dense` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width, and wherever no base is given, it is `flax.linen.Dense` bit for bit; the
    parameters are plain arrays under the same names. The arguments not listed here are those of
    `flax.linen.Dense`.

    Args:
      features: size of the last axis of the outputs.
      kernel_init: initializer of the kernel *at base width*; it is called with the base shape, and
        the values are then tiled and scaled to this width.
      bias_init: the same of the bias.
      parametrization: the rule, or its name (then for the Adam family).
      base_in_features: size of the last axis of the inputs in the base model; `None` if it does not
        grow.
      base_features: `features` of the base model; `None` if it does not grow.
      init_std: standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: standard deviation of a normal bias at base width, instead of `bias_init`.
      lr_scale: factor α on the learning rate of kernel and bias; dimensionless.

    Raises:
      ValueError: at the first call, if a size, base, standard deviation or scale is out of range, a
        dtype is not a floating-point one, `bias_init_std` is given without a bias, or `init_std`
        with a `kernel_init`.

    Example:
      >>> import jax, jaxmup
      >>> readout = jaxmup.linen.Dense(10, base_in_features=64)
      >>> variables = readout.init(jax.random.key(0), jnp.ones((2, 1024)))
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'bias': (10,), 'kernel': (1024, 10)}}

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9.
    """

    parametrization: Parametrization | ParametrizationName = "mup"
    base_in_features: int | None = None
    base_features: int | None = None
    init_std: float | None = None
    bias_init_std: float | None = None
    lr_scale: float = 1.0

    def parameters(self, in_features: int) -> dict[str, Parameter]:
        """The layer's parameters by Flax's names, for inputs of `in_features` elements."""
        require_dense_arguments(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            use_bias=self.use_bias,
            bias_init_std=self.bias_init_std,
        )
        kernel, bias = dense_parameters(
            (in_features, self.features),
            (self.base_in_features, self.base_features),
            as_parametrization(self.parametrization),
            kernel_init=self.kernel_init,
            kernel_init_is_default=self.kernel_init is default_kernel_init,
            bias_init=self.bias_init,
            init_std=self.init_std,
            bias_init_std=self.bias_init_std,
            lr_scale=self.lr_scale,
        )
        return {"kernel": kernel, "bias": bias} if self.use_bias else {"kernel": kernel}

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Applies the layer to `inputs` of shape `(..., in_features)`: `(..., features)`."""
        declared = self.parameters(jnp.shape(inputs)[-1])
        params, multipliers = self.make_parameters(declared, self.param_dtype)
        return functional.dense(
            jnp.asarray(inputs),
            params["kernel"],
            params.get("bias"),
            kernel_multiplier=multipliers["kernel"],
            bias_multiplier=multipliers.get("bias", 1.0),
            promote=lambda *arrays: tuple(self.promote_dtype(*arrays, dtype=self.dtype)),
            dot_general=self._product(),
            precision=self.precision,
        )

    def _product(self) -> Callable[..., Array]:
        if self.dot_general_cls is not None:
            return self.dot_general_cls()
        return lax.dot_general if self.dot_general is None else self.dot_general
