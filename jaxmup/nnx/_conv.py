"""Convolutions."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array

from jaxmup._axes import Sizes, conv_axes
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.functional import OutSharding
from jaxmup.nnx._layer import call_linear, hold_multipliers, scaled_arguments


class Conv(nnx.Conv):
    """`flax.nnx.Conv` under an abcd-parametrization.

    At base width it is `flax.nnx.Conv` bit for bit. Channels grow, the window does not: its axes
    are batch axes. In a grouped convolution the size of a group counts as the input, so a depthwise
    kernel follows the rule of vectors, not of hidden matrices.

    Args:
      in_features: Channels of the inputs.
      out_features: Channels of the outputs.
      kernel_size: Sizes of the window.
      strides: Strides of the window.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow.
      base_feature_group_count: `feature_group_count` of the base model; `None` if it does not
        grow.
      **flax: Other arguments of `flax.nnx.Conv`; those not listed here are as of
        `jaxmup.nnx.Linear`.

    Raises:
      ValueError: if the groups do not divide the channels of the inputs, now or in the base model,
        and as `jaxmup.nnx.Linear` does.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> stem = jaxmup.nnx.Conv(3, 128, (3, 3), base_out_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(stem)["kernel"].role
      'input'
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sizes,
        strides: int | Sequence[int] | None = 1,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: int | None = None,
        base_out_features: int | None = None,
        base_feature_group_count: int | None = None,
        init_std: float | None = None,
        bias_init_std: float | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        axes = conv_axes(
            kernel_size,
            (in_features, base_in_features),
            (out_features, base_out_features),
            (flax.get("feature_group_count", 1), base_feature_group_count),
            use_bias=flax.get("use_bias", True),
        )
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
        super().__init__(in_features, out_features, kernel_size, strides, **arguments)
        hold_multipliers(self, parametrization)

    def __call__(self, inputs: Array, out_sharding: OutSharding = None) -> Array:
        """Applies the layer to `inputs` of shape `(..., *spatial, in_features)`."""
        return call_linear(self, nnx.Conv, inputs, out_sharding)


class ConvTranspose(nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose` under an abcd-parametrization.

    At base width it is `flax.nnx.ConvTranspose` bit for bit; else it is as `jaxmup.nnx.Conv`.

    Args:
      in_features: Channels of the inputs.
      out_features: Channels of the outputs.
      kernel_size: Sizes of the window.
      strides: Strides of the window.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow.
      **flax: Other arguments of `flax.nnx.ConvTranspose`; those not listed here are as of
        `jaxmup.nnx.Linear`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> up = jaxmup.nnx.ConvTranspose(128, 3, (2,), base_in_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(up)["kernel"].role
      'output'
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sizes,
        strides: int | Sequence[int] | None = None,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: int | None = None,
        base_out_features: int | None = None,
        init_std: float | None = None,
        bias_init_std: float | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        axes = conv_axes(
            kernel_size,
            (in_features, base_in_features),
            (out_features, base_out_features),
            use_bias=flax.get("use_bias", True),
            transpose_kernel=flax.get("transpose_kernel", False),
        )
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
        super().__init__(in_features, out_features, kernel_size, strides, **arguments)
        hold_multipliers(self, parametrization)

    def __call__(self, inputs: Array) -> Array:
        """Applies the layer to `inputs` of shape `(..., *spatial, in_features)`."""
        return call_linear(self, nnx.ConvTranspose, inputs)
