"""Linear layers, convolutions among them."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.linear import default_bias_init, default_kernel_init
from flax.typing import Dtype, Initializer, PrecisionLike, PromoteDtypeFn
from jax import Array, lax

from jaxmup._axes import Bases, Sizes, axes_of, conv_axes, einsum_axes, flat_shape, linear_axes
from jaxmup._rules import Parametrization, ParametrizationName
from jaxmup.nnx._layer import hold, on_the_smaller, prepare


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
      depth_ratio: number of residual blocks over that of the base model; 1.0 outside of them.

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
        depth_ratio: float = 1.0,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        inputs = axes_of("input", in_features, base_in_features)
        outputs = axes_of("output", out_features, base_out_features)
        multipliers, arguments = prepare(
            super().__init__,
            linear_axes(inputs, outputs, use_bias=use_bias),
            {
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
            },
            parametrization=parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            stds={"kernel": init_std, "bias": bias_init_std},
        )
        super().__init__(in_features, out_features, **arguments)
        hold(self, multipliers)

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Applies the layer to `inputs` of shape `(..., in_features)`: `(..., out_features)`."""
        layer, inputs = on_the_smaller(self, inputs)
        return nnx.Linear.__call__(layer, inputs, out_sharding)


class LinearGeneral(nnx.LinearGeneral):
    r"""`flax.nnx.LinearGeneral` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width it is `flax.nnx.LinearGeneral` bit for bit. What a growing kernel needs follows
    from the products of the ratios of its input and of its output axes. The arguments not listed
    here are those of `flax.nnx.LinearGeneral` and `jaxmup.nnx.Linear`.

    Args:
      in_features: sizes of the axes of the inputs that are summed over.
      out_features: sizes of the axes of the outputs.
      base_in_features: `in_features` of the base model, with `None` for an axis that does not grow.
      base_out_features: the same of `out_features`.
      **flax: the other arguments of `flax.nnx.LinearGeneral`. Axes in `batch_axis` are batch axes:
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
        multipliers, arguments = prepare(
            super().__init__,
            linear_axes(inputs, outputs, batch, use_bias=flax.get("use_bias", True)),
            flax,
            parametrization=parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            stds={"kernel": init_std, "bias": bias_init_std},
            flat=partial(partial, flat_shape, n_outputs=len(outputs)),
        )
        super().__init__(in_features, out_features, **arguments)
        hold(self, multipliers)

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Applies the layer along `axis` of `inputs`."""
        layer, inputs = on_the_smaller(self, inputs)
        return nnx.LinearGeneral.__call__(layer, inputs, out_sharding)


class Einsum(nnx.Einsum):
    """`flax.nnx.Einsum` under an abcd-parametrization.

    At base width it is `flax.nnx.Einsum` bit for bit. The equation says which axes of the kernel
    are input, output and batch axes, so it is needed here and cannot wait for the call.

    Args:
      einsum_str: the equation of inputs and kernel, such as `"btd,dhk->bthk"`.
      kernel_shape: shape of the kernel.
      bias_shape: shape of the bias, the kernel's axes that the output has in its order; `None` for
        no bias.
      base_kernel_shape: `kernel_shape` of the base model, with `None` for an axis that does not
        grow.
      **flax: the other arguments of `flax.nnx.Einsum`; those not listed here are as of
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
            _require_bias_shape(tuple(bias_shape), tuple(axis.size for axis in axes["bias"]))
        multipliers, arguments = prepare(
            super().__init__,
            axes,
            flax,
            parametrization=parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            stds={"kernel": init_std, "bias": bias_init_std},
        )
        super().__init__(einsum_str, tuple(kernel_shape), bias_shape, **arguments)
        hold(self, multipliers)

    def __call__(
        self, inputs: Array, einsum_str: str | None = None, out_sharding: Any = None
    ) -> Array:
        """Applies the layer to `inputs` of the shape that the equation says."""
        layer, inputs = on_the_smaller(self, inputs)
        return nnx.Einsum.__call__(layer, inputs, einsum_str, out_sharding)


def _require_bias_shape(given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if given != expected:
        raise ValueError(
            "`bias_shape` must have the kernel's axes that the output has, in the output's order: "
            f"{expected}. Got {given}."
        )


class Conv(nnx.Conv):
    """`flax.nnx.Conv` under an abcd-parametrization.

    At base width it is `flax.nnx.Conv` bit for bit. Channels grow, the window does not: its axes
    are batch axes. In a grouped convolution the size of a group counts as the input, so a depthwise
    kernel follows the rule of vectors, not of hidden matrices.

    Args:
      in_features: channels of the inputs.
      out_features: channels of the outputs.
      kernel_size: sizes of the window.
      strides: as of `flax.nnx.Conv`.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: the same of `out_features`.
      base_feature_group_count: the same of `feature_group_count`.
      **flax: the other arguments of `flax.nnx.Conv`; those not listed here are as of
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
        multipliers, arguments = prepare(
            super().__init__,
            axes,
            flax,
            parametrization=parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            stds={"kernel": init_std, "bias": bias_init_std},
        )
        super().__init__(in_features, out_features, kernel_size, strides, **arguments)
        hold(self, multipliers)

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Applies the layer to `inputs` of shape `(..., *spatial, in_features)`."""
        layer, inputs = on_the_smaller(self, inputs)
        return nnx.Conv.__call__(layer, inputs, out_sharding)


class ConvTranspose(nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose` under an abcd-parametrization.

    At base width it is `flax.nnx.ConvTranspose` bit for bit; else it is as `jaxmup.nnx.Conv`.

    Args:
      in_features: channels of the inputs.
      out_features: channels of the outputs.
      kernel_size: sizes of the window.
      strides: as of `flax.nnx.ConvTranspose`.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: the same of `out_features`.
      **flax: the other arguments of `flax.nnx.ConvTranspose`; those not listed here are as of
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
        multipliers, arguments = prepare(
            super().__init__,
            axes,
            flax,
            parametrization=parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            stds={"kernel": init_std, "bias": bias_init_std},
        )
        super().__init__(in_features, out_features, kernel_size, strides, **arguments)
        hold(self, multipliers)

    def __call__(self, inputs: Array) -> Array:
        """Applies the layer to `inputs` of shape `(..., *spatial, in_features)`."""
        layer, inputs = on_the_smaller(self, inputs)
        return nnx.ConvTranspose.__call__(layer, inputs)
