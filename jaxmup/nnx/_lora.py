"""Low-rank adapters."""

from typing import Any

from flax import nnx
from jax import Array

from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup._spec import Axis
from jaxmup.nnx._layer import effective, hold_multipliers, scaled_arguments, with_arrays


class LoRA(nnx.LoRA):
    """`flax.nnx.LoRA` under an abcd-parametrization: `y = x (m_a lora_a) (m_b lora_b)`.

    At base width it is `flax.nnx.LoRA` bit for bit. The rank does not grow, so `lora_a` follows the
    rule of a readout and `lora_b` that of an input layer.

    Args:
      in_features: Size of the last axis of the inputs.
      lora_rank: Rank of the adapter.
      out_features: Size of the last axis of the outputs.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow.
      lr_scale: Factor α on the learning rate of both; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      **flax: Other arguments of `flax.nnx.LoRA`, such as the `base_module` that is adapted.

    Raises:
      ValueError: if a size, base or scale is out of range, or a dtype is not a floating-point one.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> lora = jaxmup.nnx.LoRA(
      ...     128, 4, 128, base_in_features=64, base_out_features=64, rngs=nnx.Rngs(0)
      ... )
      >>> jaxmup.nnx.specs(lora)["lora_a"].role, jaxmup.nnx.specs(lora)["lora_b"].role
      ('output', 'input')
    """

    def __init__(
        self,
        in_features: int,
        lora_rank: int,
        out_features: int,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: int | None = None,
        base_out_features: int | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        a = Axis("input", in_features, base_in_features), Axis("output", lora_rank)
        b = Axis("input", lora_rank), Axis("output", out_features, base_out_features)
        arguments = scaled_arguments(
            super().__init__,
            (("a", a), ("b", b)),
            flax,
            parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            init_argument="{}_initializer",
        )
        super().__init__(in_features, lora_rank, out_features, **arguments)
        hold_multipliers(self, parametrization)

    def __call__(self, x: Array, **kwargs: Any) -> Array:
        """The adapter applied to `x`, and what `base_module` returns added to it."""
        arrays = {name: effective(self, name) for name in ("lora_a", "lora_b")}
        return nnx.LoRA.__call__(with_arrays(self, **arrays), x, **kwargs)
