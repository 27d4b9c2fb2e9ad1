"""Linear layers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.linear import default_bias_init, default_kernel_init
from flax.typing import DotGeneralT, Dtype, Initializer, PrecisionLike, PromoteDtypeFn
from jax import Array, lax

from jaxmup._axes import Bases, Sizes, axes_of, einsum_axes, linear_axes
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.functional import OutSharding
from jaxmup.nnx._layer import call_linear, hold_multipliers, scaled_arguments


class Linear(nnx.Linear):
    r"""`flax.nnx.Linear` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width, and wherever no base is given, it is `flax.nnx.Linear` bit for bit. The arguments
    not listed here are those of `flax.nnx.Linear`.

    Args:
      in_features: Size of the last axis of the inputs.
      out_features: Size of the last axis of the outputs.
      kernel_init: Initializer of the kernel *at base width*; it is called with the base shape, and
        the values are then tiled and scaled to this width.
      bias_init: Initializer of the bias *at base width*.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow.
      init_std: Standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: Standard deviation of a normal bias at base width, instead of `bias_init`.
      lr_scale: Factor α on the learning rate of kernel and bias; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.

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
        dot_general: DotGeneralT = lax.dot_general,
        promote_dtype: PromoteDtypeFn = dtypes.promote_dtype,
        preferred_element_type: Dtype | None = None,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: int | None = None,
        base_out_features: int | None = None,
        init_std: float | None = None,
        bias_init_std: float | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        inputs = axes_of("input", in_features, base_in_features)
        outputs = axes_of("output", out_features, base_out_features)
        flax = {
            "use_bias": use_bias,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "precision": precision,
            "kernel_init": kernel_init,
            "bias_init": bias_init,
            "dot_general": dot_general,
            "promote_dtype": promote_dtype,
            "preferred_element_type": preferred_element_type,
            "rngs": rngs,
            "kernel_metadata": kernel_metadata,
            "bias_metadata": bias_metadata,
        }
        arguments = scaled_arguments(
            super().__init__,
            linear_axes(inputs, outputs, use_bias=use_bias),
            flax,
            parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            init_std=init_std,
            bias_init_std=bias_init_std,
        )
        super().__init__(in_features, out_features, **arguments)
        hold_multipliers(self, parametrization)

    def __call__(self, inputs: Array, out_sharding: OutSharding = None) -> Array:
        """Applies the layer to `inputs` of shape `(..., in_features)`: `(..., out_features)`."""
        return call_linear(self, nnx.Linear, inputs, out_sharding)


class LinearGeneral(nnx.LinearGeneral):
    r"""`flax.nnx.LinearGeneral` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width it is `flax.nnx.LinearGeneral` bit for bit. What a growing kernel needs follows
    from the products of the ratios of its input and of its output axes. The arguments not listed
    here are those of `flax.nnx.LinearGeneral` and `jaxmup.nnx.Linear`.

    Args:
      in_features: Sizes of the axes of the inputs that are summed over.
      out_features: Sizes of the axes of the outputs.
      base_in_features: `in_features` of the base model, with `None` for an axis that does not grow.
      base_out_features: `out_features` of the base model, with `None` for an axis that does not
        grow.
      **flax: Other arguments of `flax.nnx.LinearGeneral`. Axes in `batch_axis` are batch axes:
        each of their elements has a linear layer of its own.

    Raises:
      ValueError: if there is not one base for each axis, and as `jaxmup.nnx.Linear` does.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> heads = jaxmup.nnx.LinearGeneral(
      ...     256, (8, 16), base_in_features=64, base_out_features=(2, None), rngs=nnx.Rngs(0)
      ... )
      >>> jaxmup.nnx.specs(heads)["kernel"].r_out
      4.0

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9.
    """

    def __init__(
        self,
        in_features: Sizes,
        out_features: Sizes,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: Bases = None,
        base_out_features: Bases = None,
        init_std: float | None = None,
        bias_init_std: float | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        inputs = axes_of("input", in_features, base_in_features, "base_in_features")
        outputs = axes_of("output", out_features, base_out_features, "base_out_features")
        batch = axes_of("batch", tuple(flax.get("batch_axis", {}).values()), None)
        arguments = scaled_arguments(
            super().__init__,
            linear_axes(inputs, outputs, batch, use_bias=flax.get("use_bias", True)),
            flax,
            parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            init_std=init_std,
            bias_init_std=bias_init_std,
            flat=True,
        )
        super().__init__(in_features, out_features, **arguments)
        hold_multipliers(self, parametrization)

    def __call__(self, inputs: Array, out_sharding: OutSharding = None) -> Array:
        """Applies the layer along `axis` of `inputs`."""
        return call_linear(self, nnx.LinearGeneral, inputs, out_sharding)


class Einsum(nnx.Einsum):
    """`flax.nnx.Einsum` under an abcd-parametrization.

    At base width it is `flax.nnx.Einsum` bit for bit. The equation says which axes of the kernel
    are input, output and batch axes, so it is needed here and cannot wait for the call.

    Args:
      einsum_str: Equation of inputs and kernel, such as `"btd,dhk->bthk"`.
      kernel_shape: Shape of the kernel.
      bias_shape: Shape of the bias, the kernel's axes that the output has in its order; `None` for
        no bias.
      base_kernel_shape: `kernel_shape` of the base model, with `None` for an axis that does not
        grow.
      **flax: Other arguments of `flax.nnx.Einsum`; those not listed here are as of
        `jaxmup.nnx.Linear`.

    Raises:
      ValueError: if the equation does not fit the shapes, and as `jaxmup.nnx.Linear` does.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> layer = jaxmup.nnx.Einsum(
      ...     "td,edf->tef", (2, 8, 16), base_kernel_shape=(None, 4, 4), rngs=nnx.Rngs(0)
      ... )
      >>> [axis.kind for axis in jaxmup.nnx.specs(layer)["kernel"].axes]
      ['output', 'input', 'output']
    """

    def __init__(
        self,
        einsum_str: str,
        kernel_shape: Sequence[int],
        bias_shape: Sequence[int] | None = None,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_kernel_shape: Bases = None,
        init_std: float | None = None,
        bias_init_std: float | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        axes = einsum_axes(
            einsum_str, kernel_shape, base_kernel_shape, use_bias=bias_shape is not None
        )
        if bias_shape is not None:
            _require_bias_shape(tuple(bias_shape), tuple(axis.size for axis in dict(axes)["bias"]))
        arguments = scaled_arguments(
            super().__init__,
            axes,
            flax,
            parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            init_std=init_std,
            bias_init_std=bias_init_std,
        )
        super().__init__(einsum_str, tuple(kernel_shape), bias_shape, **arguments)
        hold_multipliers(self, parametrization)

    def __call__(
        self, inputs: Array, einsum_str: str | None = None, out_sharding: OutSharding = None
    ) -> Array:
        """Applies the layer to `inputs` of the shape that the equation says."""
        return call_linear(self, nnx.Einsum, inputs, einsum_str, out_sharding)


def _require_bias_shape(given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if given != expected:
        raise ValueError(
            "`bias_shape` must have the kernel's axes that the output has, in the output's order: "
            f"{expected}. Got {given}."
        )
