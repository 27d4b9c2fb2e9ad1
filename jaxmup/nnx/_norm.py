"""Normalization layers: gain and bias are weights of an input that is always 1."""

from typing import Any

from flax import nnx
from jax import Array

from jaxmup._axes import axes_of, norm_axes
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.nnx._layer import M, effective, hold_multipliers, scaled_arguments, with_arrays


class _Norm:
    """The constructor of all norms: Flax's norm, with specs and multipliers."""

    _has_bias = True

    def __init__(
        self,
        num_features: int,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_num_features: int | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        axes = norm_axes(
            axes_of("output", num_features, base_num_features),
            use_scale=flax.get("use_scale", True),
            use_bias=self._has_bias and flax.get("use_bias", True),
        )
        arguments = scaled_arguments(
            super().__init__,
            axes,
            flax,
            parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
        )
        super().__init__(num_features, **arguments)  # type: ignore[call-arg]
        hold_multipliers(self, parametrization)  # type: ignore[arg-type]


class LayerNorm(_Norm, nnx.LayerNorm):
    """`flax.nnx.LayerNorm` under an abcd-parametrization: `y = norm(x) (m_s scale) + m_b bias`.

    At base width it is `flax.nnx.LayerNorm` bit for bit.

    Args:
      num_features: Size of the axis that gain and bias have.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_num_features: `num_features` of the base model; `None` if it does not grow.
      lr_scale: Factor α on the learning rate of gain and bias; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      **flax: Other arguments of `flax.nnx.LayerNorm`.

    Raises:
      ValueError: if a size, base or scale is out of range, or a dtype is not a floating-point one.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> norm = jaxmup.nnx.LayerNorm(128, base_num_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(norm)["scale"].role
      'input'

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.1 (gain and bias as input
      weights).
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes `x`, as `flax.nnx.LayerNorm` does."""
        return nnx.LayerNorm.__call__(_effective(self), x, mask=mask)


class RMSNorm(_Norm, nnx.RMSNorm):
    """`flax.nnx.RMSNorm` under an abcd-parametrization: `y = norm(x) (m scale)`.

    At base width it is `flax.nnx.RMSNorm` bit for bit. Its arguments are those of
    `jaxmup.nnx.LayerNorm` and `flax.nnx.RMSNorm`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> norm = jaxmup.nnx.RMSNorm(128, base_num_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(norm)["scale"].r_out
      2.0
    """

    _has_bias = False

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Normalizes `x`, as `flax.nnx.RMSNorm` does."""
        return nnx.RMSNorm.__call__(_effective(self), x, mask)


class GroupNorm(_Norm, nnx.GroupNorm):
    """`flax.nnx.GroupNorm` under an abcd-parametrization: `y = norm(x) (m_s scale) + m_b bias`.

    At base width it is `flax.nnx.GroupNorm` bit for bit. Whether the groups grow in number or in
    size makes no difference to gain and bias. The arguments not listed here are those of
    `jaxmup.nnx.LayerNorm`.

    Args:
      num_features: Number of channels.
      num_groups: Number of groups; `None` where `group_size` is given.
      group_size: Number of channels of a group; `None` where `num_groups` is given.
      **flax: Other arguments of `flax.nnx.GroupNorm`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> norm = jaxmup.nnx.GroupNorm(128, 8, base_num_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(norm)["scale"].r_out
      2.0
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = 32,
        group_size: int | None = None,
        **arguments: Any,
    ):
        groups = {"num_groups": num_groups, "group_size": group_size}
        super().__init__(num_features, **groups, **arguments)

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes `x`, as `flax.nnx.GroupNorm` does."""
        return nnx.GroupNorm.__call__(_effective(self), x, mask=mask)


class BatchNorm(_Norm, nnx.BatchNorm):
    """`flax.nnx.BatchNorm` under an abcd-parametrization: `y = norm(x) (m_s scale) + m_b bias`.

    At base width it is `flax.nnx.BatchNorm` bit for bit. Its arguments are those of
    `jaxmup.nnx.LayerNorm` and `flax.nnx.BatchNorm`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> norm = jaxmup.nnx.BatchNorm(128, base_num_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(norm)["scale"].r_out
      2.0
    """

    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Array:
        """Normalizes `x`, as `flax.nnx.BatchNorm` does."""
        return nnx.BatchNorm.__call__(_effective(self), x, use_running_average, mask=mask)


def _effective(layer: M) -> M:
    arrays = {name: effective(layer, name) for name in ("scale", "bias") if hasattr(layer, name)}
    return with_arrays(layer, **arrays)
