"""Attention."""

from collections.abc import Mapping
from types import MappingProxyType

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxmup import functional
from jaxmup._axes import LayerAxes, axes_of, linear_axes, norm_axes
from jaxmup._parameter import as_parametrization
from jaxmup._readout import logits_factor
from jaxmup.linen._layer import Layer, Weights, once


class MultiHeadDotProductAttention(Layer, nn.MultiHeadDotProductAttention):
    r"""`flax.linen.MultiHeadDotProductAttention` under an abcd-parametrization.

    At base width it is `flax.linen.MultiHeadDotProductAttention` bit for bit, whose other arguments
    it has. Heads may grow in number or in size. Where their size d grows from d0, the logits are
    `√d0 · q · k / d`: what `attention_fn` divides by `√d` is multiplied by `√(d0 / d)` (for
    `standard` and `ntk`, by 1). The gains of the QK norm belong to one head, and grow with its size
    only. Multipliers other than 1 act on the kernels.

    Args:
      num_heads: Number of heads.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_num_heads: `num_heads` of the base model; `None` if it does not grow.
      base_head_dim: Size of a head, `qkv_features / num_heads`, in the base model; `None` if it
        does not grow.
      base_in_features: Size of the last axis of the queries in the base model; `None` if it does
        not grow. Keys and values have it too, unless `base_in_kv_features` is given.
      base_in_kv_features: Size of the last axis of keys and values in the base model; `None` for
        `base_in_features`.
      base_out_features: `out_features` of the base model; `None` for `base_in_features` where
        `out_features` is `None` too.
      init_std: Standard deviation of normal kernels at base width, instead of `kernel_init`.
      zero_query: Whether the query kernel starts at zero, so that attention starts uniform at every
        width.
      zero_out: Whether the output kernel starts at zero.
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.

    Raises:
      ValueError: at the first call, if a size, base, standard deviation or scale is out of range, a
        dtype is not a floating-point one, or `init_std` comes with a `kernel_init`.

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
    init_std: float | None = None
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
        axes = self._axes(*(jnp.shape(x)[-1] for x in (inputs_q, keys, values)))
        weights = {name: self._weights(name, own) for name, own in axes.items()}
        draws = self.dropout_rate > 0 and not nn.merge_param(
            "deterministic", self.deterministic, deterministic
        )
        if draws and dropout_rng is None:
            dropout_rng = self.make_rng("dropout")
        (_, query), *_ = axes["query"]
        factor = logits_factor(query[-1], once(as_parametrization, self.parametrization))
        settings = {
            "kernel_init": nn.initializers.zeros,
            "bias_init": nn.initializers.zeros,
            "out_kernel_init": None,
            "out_bias_init": None,
            "attention_fn": once(functional.ScaledAttention, self.attention_fn, factor),
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

    @nn.nowrap
    def _axes(self, *features: int) -> Mapping[str, LayerAxes]:
        base_in = self.base_in_features
        base_kv = base_in if self.base_in_kv_features is None else self.base_in_kv_features
        return once(
            _attention_axes,
            features,
            (base_in, base_kv, base_kv),
            (self.num_heads, (self.qkv_features or features[0]) // self.num_heads),
            (self.base_num_heads, self.base_head_dim),
            (
                self.out_features or features[0],
                self.base_out_features if self.out_features else base_in,
            ),
            use_bias=self.use_bias,
            normalize_qk=self.normalize_qk,
        )

    @nn.nowrap
    def _weights(self, name: str, axes: LayerAxes) -> dict[str, Array]:
        is_out = name == "out"
        kernel_init = (self.out_kernel_init if is_out else None) or self.kernel_init
        bias_init = (self.out_bias_init if is_out else None) or self.bias_init
        inits = {"kernel_init": kernel_init, "bias_init": bias_init}
        std = self.init_std
        if (is_out and self.zero_out) or (name == "query" and self.zero_query):
            inits["kernel_init"], std = nn.initializers.zeros, None
        return Weights(axes=axes, name=name, init_std=std, **inits, **self.shared())()


def _attention_axes(
    features: tuple[int, ...],
    base_features: tuple[int | None, ...],
    heads: tuple[int, int],
    base_heads: tuple[int | None, int | None],
    out_features: tuple[int, int | None],
    *,
    use_bias: bool,
    normalize_qk: bool,
) -> Mapping[str, LayerAxes]:
    """The axes of each layer inside of attention, in the order in which Flax makes them.

    Args:
      features: Sizes of the last axes of queries, keys and values.
      base_features: The same sizes in the base model.
      heads: Number and size of the heads.
      base_heads: Number and size of the heads in the base model.
      out_features: Size of the last axis of the outputs, now and in the base model.
      use_bias: Whether the linear layers have biases.
      normalize_qk: Whether queries and keys have norms.
    """
    into, onto = axes_of("output", heads, base_heads), axes_of("input", heads, base_heads)
    axes = {
        name: linear_axes(axes_of("input", size, base), into, use_bias=use_bias)
        for name, size, base in zip(("query", "key", "value"), features, base_features, strict=True)
    }
    axes["out"] = linear_axes(onto, axes_of("output", *out_features), use_bias=use_bias)
    if normalize_qk:
        gain = norm_axes(into[-1:], use_scale=True, use_bias=False)
        axes |= {"query_ln": gain, "key_ln": gain}
    return MappingProxyType(axes)
