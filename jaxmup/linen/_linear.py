"""Dense layers, convolutions among them."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxmup._axes import Bases, LayerAxes, Sizes, axes_of, conv_axes, einsum_axes, linear_axes
from jaxmup.linen._layer import KernelLayer, once


def dense_axes(
    inputs: tuple[Sizes, Bases],
    outputs: tuple[Sizes, Bases],
    batch: tuple[int, ...] = (),
    *,
    use_bias: bool,
) -> LayerAxes:
    """Kernel and bias of a dense layer.

    Args:
      inputs: Sizes of the input axes, now and in the base model.
      outputs: Sizes of the output axes, now and in the base model.
      batch: Sizes of the batch axes.
      use_bias: Whether there is a bias.
    """
    return linear_axes(
        axes_of("input", *inputs, "base_in_features"),
        axes_of("output", *outputs, "base_features"),
        axes_of("batch", batch, None),
        use_bias=use_bias,
    )


class Dense(KernelLayer, nn.Dense):
    r"""`flax.linen.Dense` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width, and wherever no base is given, it is `flax.linen.Dense` bit for bit; the
    parameters are plain arrays under the same names. The arguments not listed here are those of
    `flax.linen.Dense`.

    Args:
      features: Size of the last axis of the outputs.
      kernel_init: Initializer of the kernel *at base width*; it is called with the base shape, and
        the values are then tiled and scaled to this width.
      bias_init: Initializer of the bias *at base width*.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_in_features: Size of the last axis of the inputs in the base model; `None` if it does not
        grow.
      base_features: `features` of the base model; `None` if it does not grow.
      init_std: Standard deviation of a normal kernel at base width, instead of `kernel_init`.
      bias_init_std: Standard deviation of a normal bias at base width, instead of `bias_init`.
      lr_scale: Factor α on the learning rate of kernel and bias; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.

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

    base_in_features: int | None = None
    base_features: int | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Applies the layer to `inputs` of shape `(..., in_features)`: `(..., features)`."""
        inputs = jnp.asarray(inputs)
        axes = once(
            dense_axes,
            (inputs.shape[-1], self.base_in_features),
            (self.features, self.base_features),
            use_bias=self.use_bias,
        )
        return self.call_linear(nn.Dense, axes, inputs)


class DenseGeneral(KernelLayer, nn.DenseGeneral):
    """`flax.linen.DenseGeneral` under an abcd-parametrization: `y = x (m_k kernel) + m_b bias`.

    At base width it is `flax.linen.DenseGeneral` bit for bit. What a growing kernel needs follows
    from the products of the ratios of its input and of its output axes. The arguments not listed
    here are those of `flax.linen.DenseGeneral` and `jaxmup.linen.Dense`. Axes in `batch_dims` are
    batch axes: each of their elements has a layer of its own.

    Args:
      features: Sizes of the axes of the outputs.
      base_in_features: Sizes of the axes in `axis` in the base model, with `None` for one that does
        not grow.
      base_features: `features` of the base model, with `None` for an axis that does not grow.

    Raises:
      ValueError: at the first call, if there is not one base for each axis, and as
        `jaxmup.linen.Dense` does.

    Example:
      >>> import jaxmup
      >>> heads = jaxmup.linen.DenseGeneral((8, 16), base_in_features=64, base_features=(2, None))
      >>> jaxmup.linen.specs(heads, jnp.ones((1, 256)))["kernel"].r_out
      4.0

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9.
    """

    base_in_features: Bases = None
    base_features: Bases = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Applies the layer along `axis` of `inputs`."""
        inputs = jnp.asarray(inputs)
        axis, batch_dims = (
            sorted(i % inputs.ndim for i in _tuple(dims)) for dims in (self.axis, self.batch_dims)
        )
        axes = once(
            dense_axes,
            (tuple(inputs.shape[i] for i in axis), self.base_in_features),
            (self.features, self.base_features),
            tuple(inputs.shape[i] for i in batch_dims),
            use_bias=self.use_bias,
        )
        return self.call_linear(nn.DenseGeneral, axes, inputs, flat=True)


class Einsum(KernelLayer, nn.Einsum):
    """`flax.linen.Einsum` under an abcd-parametrization.

    At base width it is `flax.linen.Einsum` bit for bit. The equation says which axes of the kernel
    are input, output and batch axes. The arguments not listed here are those of `flax.linen.Einsum`
    and `jaxmup.linen.Dense`.

    Args:
      shape: Shape of the kernel.
      einsum_str: Equation of inputs and kernel, such as `"btd,dhk->bthk"`.
      base_shape: `shape` of the base model, with `None` for an axis that does not grow.

    Raises:
      ValueError: at the first call, if the equation does not fit the shape, and as
        `jaxmup.linen.Dense` does.

    Example:
      >>> import jaxmup
      >>> layer = jaxmup.linen.Einsum((2, 8, 16), "td,edf->tef", base_shape=(None, 4, 4))
      >>> [axis.kind for axis in jaxmup.linen.specs(layer, jnp.ones((1, 8)))["kernel"].axes]
      ['output', 'input', 'output']
    """

    base_shape: Bases = None

    @nn.compact
    def __call__(self, inputs: Array, einsum_str: str | None = None) -> Array:
        """Applies the layer to `inputs` of the shape that the equation says."""
        equation = nn.merge_param("einsum_str", self.einsum_str, einsum_str)
        axes = once(einsum_axes, equation, self.shape, self.base_shape, use_bias=self.use_bias)
        return self.call_linear(nn.Einsum, axes, jnp.asarray(inputs), einsum_str)


class Conv(KernelLayer, nn.Conv):
    """`flax.linen.Conv` under an abcd-parametrization.

    At base width it is `flax.linen.Conv` bit for bit. Channels grow, the window does not: its axes
    are batch axes. In a grouped convolution the size of a group counts as the input, so a depthwise
    kernel follows the rule of vectors, not of hidden matrices. The arguments not listed here are
    those of `flax.linen.Conv` and `jaxmup.linen.Dense`.

    Args:
      features: Channels of the outputs.
      base_in_features: Channels of the inputs in the base model; `None` if they do not grow.
      base_features: `features` of the base model; `None` if it does not grow.
      base_feature_group_count: `feature_group_count` of the base model; `None` if it does not
        grow.

    Raises:
      ValueError: at the first call, if the groups do not divide the channels of the inputs, now or
        in the base model, and as `jaxmup.linen.Dense` does.

    Example:
      >>> import jaxmup
      >>> stem = jaxmup.linen.Conv(128, (3, 3), base_features=64)
      >>> jaxmup.linen.specs(stem, jnp.ones((1, 8, 8, 3)))["kernel"].role
      'input'
    """

    base_in_features: int | None = None
    base_features: int | None = None
    base_feature_group_count: int | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Applies the layer to `inputs` of shape `(..., *spatial, in_features)`."""
        inputs = jnp.asarray(inputs)
        axes = once(
            conv_axes,
            self.kernel_size,
            (inputs.shape[-1], self.base_in_features),
            (self.features, self.base_features),
            (self.feature_group_count, self.base_feature_group_count),
            use_bias=self.use_bias,
        )
        return self.call_linear(nn.Conv, axes, inputs)


class ConvTranspose(KernelLayer, nn.ConvTranspose):
    """`flax.linen.ConvTranspose` under an abcd-parametrization.

    At base width it is `flax.linen.ConvTranspose` bit for bit; else it is as `jaxmup.linen.Conv`.

    Args:
      features: Channels of the outputs.
      base_in_features: Channels of the inputs in the base model; `None` if they do not grow.
      base_features: `features` of the base model; `None` if it does not grow.

    Example:
      >>> import jaxmup
      >>> up = jaxmup.linen.ConvTranspose(3, (2,), base_in_features=64)
      >>> jaxmup.linen.specs(up, jnp.ones((1, 8, 128)))["kernel"].role
      'output'
    """

    base_in_features: int | None = None
    base_features: int | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Applies the layer to `inputs` of shape `(..., *spatial, in_features)`."""
        inputs = jnp.asarray(inputs)
        axes = once(
            conv_axes,
            self.kernel_size,
            (inputs.shape[-1], self.base_in_features),
            (self.features, self.base_features),
            use_bias=self.use_bias,
            transpose_kernel=self.transpose_kernel,
        )
        return self.call_linear(nn.ConvTranspose, axes, inputs)


def _tuple(axes: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(axes) if isinstance(axes, Sequence) else (axes,)
