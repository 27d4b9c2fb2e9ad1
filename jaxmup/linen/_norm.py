"""Normalization layers: gain and bias are weights of an input that is always 1."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxmup._axes import Bases, LayerAxes, axes_of, norm_axes
from jaxmup.linen._layer import Layer, once


class _Norm(Layer):
    """A norm with gain and bias of its features.

    Args:
      base_features: Sizes of the feature axes in the base model; `None` if they do not grow.
    """

    base_features: Bases = None

    def gain_and_bias(self, shape: tuple[int, ...], use_bias: bool) -> dict[str, Array]:
        """The effective gain and bias of features of this shape."""
        axes = once(
            _norm_axes, shape, self.base_features, use_scale=self.use_scale, use_bias=use_bias
        )
        return self.make_effective(self.declare(axes))


def _norm_axes(
    shape: tuple[int, ...], base_features: Bases, *, use_scale: bool, use_bias: bool
) -> LayerAxes:
    features = axes_of("output", shape, base_features, "base_features")
    return norm_axes(features, use_scale=use_scale, use_bias=use_bias)


class LayerNorm(_Norm, nn.LayerNorm):
    """`flax.linen.LayerNorm` under an abcd-parametrization: `y = norm(x) (m_s scale) + m_b bias`.

    At base width it is `flax.linen.LayerNorm` bit for bit, whose other arguments it has.

    Args:
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_features: Sizes of the axes in `feature_axes` in the base model; `None` if they do not
        grow.
      lr_scale: Factor α on the learning rate of gain and bias; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.

    Raises:
      ValueError: at the first call, if a base or scale is out of range, or a dtype is not a
        floating-point one.

    Example:
      >>> import jaxmup
      >>> norm = jaxmup.linen.LayerNorm(base_features=64)
      >>> jaxmup.linen.specs(norm, jnp.ones((1, 128)))["scale"].role
      'input'

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.1 (gain and bias as input
      weights).
    """

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes `x`, as `flax.linen.LayerNorm` does."""
        params = self.gain_and_bias(_sizes(x, self.feature_axes), self.use_bias)
        return self.call_flax(nn.LayerNorm, params, x, mask=mask)


class RMSNorm(_Norm, nn.RMSNorm):
    """`flax.linen.RMSNorm` under an abcd-parametrization: `y = norm(x) (m scale)`.

    At base width it is `flax.linen.RMSNorm` bit for bit. Its arguments are those of
    `jaxmup.linen.LayerNorm` and `flax.linen.RMSNorm`.

    Example:
      >>> import jaxmup
      >>> norm = jaxmup.linen.RMSNorm(base_features=64)
      >>> jaxmup.linen.specs(norm, jnp.ones((1, 128)))["scale"].r_out
      2.0
    """

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes `x`, as `flax.linen.RMSNorm` does."""
        params = self.gain_and_bias(_sizes(x, self.feature_axes), use_bias=False)
        return self.call_flax(nn.RMSNorm, params, x, mask=mask)


class GroupNorm(_Norm, nn.GroupNorm):
    """`flax.linen.GroupNorm` under an abcd-parametrization: `y = norm(x) (m_s scale) + m_b bias`.

    At base width it is `flax.linen.GroupNorm` bit for bit. Whether the groups grow in number or in
    size makes no difference to gain and bias. Its arguments are those of `jaxmup.linen.LayerNorm`
    and `flax.linen.GroupNorm`.

    Example:
      >>> import jaxmup
      >>> norm = jaxmup.linen.GroupNorm(8, base_features=64)
      >>> jaxmup.linen.specs(norm, jnp.ones((1, 128)))["scale"].r_out
      2.0
    """

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes `x`, as `flax.linen.GroupNorm` does."""
        params = self.gain_and_bias(_sizes(x, -1), self.use_bias)
        return self.call_flax(nn.GroupNorm, params, x, mask=mask)


class BatchNorm(_Norm, nn.BatchNorm):
    """`flax.linen.BatchNorm` under an abcd-parametrization: `y = norm(x) (m_s scale) + m_b bias`.

    At base width it is `flax.linen.BatchNorm` bit for bit, with the same collection
    `"batch_stats"`. Its arguments are those of `jaxmup.linen.LayerNorm` and `flax.linen.BatchNorm`.

    Example:
      >>> import jaxmup
      >>> norm = jaxmup.linen.BatchNorm(use_running_average=False, base_features=64)
      >>> jaxmup.linen.specs(norm, jnp.ones((1, 128)))["scale"].r_out
      2.0
    """

    @nn.compact
    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Array:
        """Normalizes `x`, as `flax.linen.BatchNorm` does."""
        shape = _sizes(x, self.axis)
        params = self.gain_and_bias(shape, self.use_bias)
        dtype = jnp.float32 if self.force_float32_reductions else self.param_dtype
        stats = {
            "mean": self.variable("batch_stats", "mean", jnp.zeros, shape, dtype),
            "var": self.variable("batch_stats", "var", jnp.ones, shape, dtype),
        }
        # Flax initializes without collective operations, so outside of `pmap`, and leaves the
        # statistics as they are.
        initial = {name: variable.value for name, variable in stats.items()}
        y = self.call_flax(
            nn.BatchNorm,
            params,
            x,
            use_running_average,
            mask=mask,
            settings={"axis_name": None} if self.is_initializing() else {},
            state=["batch_stats"],
        )
        if self.is_initializing():
            for name, variable in stats.items():
                variable.value = initial[name]
        return y


def _sizes(x: Array, axes: int | Sequence[int]) -> tuple[int, ...]:
    axes = axes if isinstance(axes, Sequence) else (axes,)
    return tuple(jnp.shape(x)[i] for i in sorted(i % jnp.ndim(x) for i in axes))
