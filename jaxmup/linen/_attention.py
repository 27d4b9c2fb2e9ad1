"""Attention."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxmup import functional
from jaxmup._axes import Axes, axes_of, linear_axes, norm_axes
from jaxmup._parameter import as_parametrization
from jaxmup._readout import logits_factor
from jaxmup._spec import Axis
from jaxmup.linen._layer import Layer, Weights


class MultiHeadDotProductAttention(Layer, nn.MultiHeadDotProductAttention):
    r"""`flax.linen.MultiHeadDotProductAttention` under an abcd-parametrization.

    At base width it is `flax.linen.MultiHeadDotProductAttention` bit for bit, whose other arguments
    it has. Heads may grow in number or in size. Where their size d grows from d0, the logits are
    `√d0 · q · k / d`: what `attention_fn` divides by `√d` is multiplied by `√(d0 / d)` (for
    `standard` and `ntk`, by 1). The gains of the QK norm belong to one head, and grow with its size
    only. Multipliers other than 1 act on the kernels.

    Args:
      num_heads: number of heads.
      parametrization: the rule, or its name (then for the Adam family).
      base_num_heads: `num_heads` of the base model; `None` if it does not grow.
      base_head_dim: size of a head, `qkv_features / num_heads`, in the base model; `None` if it
        does not grow.
      base_in_features: size of the last axis of the queries in the base model; `None` if it does
        not grow. Keys and values have it too, unless `base_in_kv_features` is given.
      base_in_kv_features: the same of keys and values.
      base_out_features: `out_features` of the base model; `None` for `base_in_features` where
        `out_features` is `None` too.
      zero_query: whether the query kernel starts at zero, so that attention starts uniform at every
        width.
      zero_out: whether the output kernel starts at zero.
      lr_scale: factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: number of residual blocks over that of the base model; 1.0 outside of them.

    Raises:
      ValueError: at the first call, if a size, base or scale is out of range, or a dtype is not a
        floating-point one.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> sizes = {"base_num_heads": 4, "base_in_features": 64}
      >>> attention = jaxmup.linen.MultiHeadDotProductAttention(8, **sizes)
      >>> jaxmup.linen.specs(attention, jnp.ones((1, 3, 128)))["out"]["kernel"].r_in
      2.0

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Definition 4.1, Appendices D.2 and E.2.
    """

    base_num_heads: int | None = None
    base_head_dim: int | None = None
    base_in_features: int | None = None
    base_in_kv_features: int | None = None
    base_out_features: int | None = None
    zero_query: bool = False
    zero_out: bool = False

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs_q: Array,
        inputs_k: Array | None = None,
        inputs_v: Array | None = None,
        *,
        inputs_kv: Array | None = None,
        mask: Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: Array | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Applies attention, as `flax.linen.MultiHeadDotProductAttention` does."""
        keys = next(x for x in (inputs_kv, inputs_k, inputs_q) if x is not None)
        values = next(x for x in (inputs_kv, inputs_v, keys) if x is not None)
        weights = self._weights(*(jnp.shape(x)[-1] for x in (inputs_q, keys, values)))
        draws = self.dropout_rate > 0 and not nn.merge_param(
            "deterministic", self.deterministic, deterministic
        )
        if draws and dropout_rng is None:
            dropout_rng = self.make_rng("dropout")
        head = Axis("output", weights["query"]["kernel"].shape[-1], self.base_head_dim)
        factor = logits_factor(head, as_parametrization(self.parametrization))
        settings = {
            "kernel_init": nn.initializers.zeros,
            "bias_init": nn.initializers.zeros,
            "out_kernel_init": None,
            "out_bias_init": None,
            "attention_fn": functional.ScaledAttention(self.attention_fn, factor),
        }
        return self.call_flax(
            nn.MultiHeadDotProductAttention,
            weights,
            inputs_q,
            inputs_k,
            inputs_v,
            inputs_kv=inputs_kv,
            mask=mask,
            deterministic=deterministic,
            dropout_rng=dropout_rng,
            sow_weights=sow_weights,
            settings=settings,
            state=("cache", "intermediates"),
        )

    def _weights(self, features_q: int, features_k: int, features_v: int) -> dict[str, Any]:
        head_dim = (self.qkv_features or features_q) // self.num_heads
        sizes, bases = (self.num_heads, head_dim), (self.base_num_heads, self.base_head_dim)
        base_in, base_kv = self.base_in_features, self.base_in_kv_features or self.base_in_features
        base_out = self.base_out_features if self.out_features else base_in
        heads, contracted = axes_of("output", sizes, bases), axes_of("input", sizes, bases)
        sides = {
            "query": (axes_of("input", features_q, base_in), heads),
            "key": (axes_of("input", features_k, base_kv), heads),
            "value": (axes_of("input", features_v, base_kv), heads),
            "out": (contracted, axes_of("output", self.out_features or features_q, base_out)),
        }
        weights = {name: self._linear(name, *axes) for name, axes in sides.items()}
        if self.normalize_qk:
            gain = norm_axes(heads[-1:], use_scale=True, use_bias=False)
            for name in ("query_ln", "key_ln"):
                weights[name] = Weights(axes=gain, name=name, **self.rule())()
        return weights

    def _linear(self, name: str, inputs: Axes, outputs: Axes) -> dict[str, Array]:
        is_out = name == "out"
        kernel_init = (self.out_kernel_init if is_out else None) or self.kernel_init
        if self.zero_out if is_out else self.zero_query and name == "query":
            kernel_init = nn.initializers.zeros
        weights = Weights(
            axes=linear_axes(inputs, outputs, use_bias=self.use_bias),
            n_outputs=len(outputs),
            kernel_init=kernel_init,
            bias_init=(self.out_bias_init if is_out else None) or self.bias_init,
            name=name,
            **self.rule(),
        )
        return weights()
