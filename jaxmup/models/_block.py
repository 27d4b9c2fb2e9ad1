"""A block of a decoder-only transformer, and what it is made of."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.attention import dot_product_attention_weights
from flax.typing import DotGeneralT
from jax import Array

from jaxmup import functional
from jaxmup._parameter import as_parametrization
from jaxmup.functional import OutSharding
from jaxmup.models._layout import Layout, is_on_mesh
from jaxmup.nnx import GatedMLP, LayerNorm, Linear, MultiHeadAttention, RMSNorm
from jaxmup.nnx._blocks import split_arguments

Norm = Literal["rms", "layer"]
FeedForward = Literal["gated", "plain"]


class Block(nnx.Module):
    """Causal attention and a feed-forward layer, each behind a norm and beside a residual.

    Its arguments are those of `GPT`; `depth_ratio` is the number of blocks over that of the base
    model.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        base_width: int,
        base_num_heads: int,
        hidden_features: int,
        base_hidden_features: int,
        rotary: bool,
        norm: Norm,
        feed_forward: FeedForward,
        activation: Callable[[Array], Array] | None,
        use_bias: bool,
        init_std: float | None,
        depth_ratio: float,
        layout: Layout,
        dot_general: DotGeneralT,
        **common: Any,
    ):
        self.layout = layout
        rule = as_parametrization(common["parametrization"])
        self.multiplier = rule.residual_multiplier(depth_ratio)
        layer = {"use_bias": use_bias, "depth_ratio": depth_ratio, **common}
        self.attention_norm = make_norm(norm, width, base_width, use_bias, layer)
        self.attention = MultiHeadAttention(
            num_heads,
            width,
            base_num_heads=base_num_heads,
            base_head_dim=base_width // base_num_heads,
            base_in_features=base_width,
            init_std=init_std,
            attention_fn=rotary_attention if rotary else attention,
            decode=False,
            kernel_metadata=layout.metadata("embed", "heads", None),
            out_kernel_metadata=layout.metadata("heads", None, "embed"),
            bias_metadata=layout.metadata("heads", None),
            out_bias_metadata=layout.metadata(None),
            qkv_dot_general=dot_general,
            out_dot_general=dot_general,
            **layer,
        )
        bases = {"base_in_features": base_width, "base_hidden_features": base_hidden_features}
        self.feed_forward_norm = make_norm(norm, width, base_width, use_bias, layer)
        make = GatedMLP if feed_forward == "gated" else PlainMLP
        own = {"init_std": init_std} | ({} if activation is None else {"activation": activation})
        self.feed_forward = make(
            width,
            hidden_features,
            kernel_metadata=layout.metadata("embed", "mlp"),
            down_kernel_metadata=layout.metadata("mlp", "embed"),
            bias_metadata=layout.metadata("mlp"),
            down_bias_metadata=layout.metadata(None),
            dot_general=dot_general,
            **bases,
            **own,
            **layer,
        )

    def __call__(self, x: Array) -> Array:
        """Shape `(batch, length, width)` to the same."""
        layout = self.layout
        stream = layout.activation("batch", "length", None)
        attended = self.attention(
            self.attention_norm(x),
            is_causal=True,
            out_sharding=stream,
            qkv_sharding=layout.activation("batch", None, "heads", None),
        )
        x = x + functional.scale(attended, self.multiplier)
        x = layout.constrain(x, "batch", "length", None)
        tokens = self.feed_forward_norm(x)
        if not is_on_mesh():
            # One axis: over two, XLA's CPU backend transposes gradients to sum up a kernel's.
            tokens = tokens.reshape(-1, x.shape[-1])
        hidden = layout.activation("batch", "length", "mlp")
        fed = self.feed_forward(tokens, stream, hidden).reshape(x.shape)
        x = x + functional.scale(fed, self.multiplier)
        return layout.constrain(x, "batch", "length", None)


class PlainMLP(nnx.Module):
    """A feed-forward layer of one hidden layer: `down(activation(up(x)))`.

    Its arguments are those of `jaxmup.nnx.GatedMLP`, but for `activation`: GELU's tanh form by
    default.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.gelu,  # the tanh form
        base_in_features: int | None = None,
        base_hidden_features: int | None = None,
        **linear: Any,
    ):
        linear, of_down = split_arguments(linear)
        up = {"base_in_features": base_in_features, "base_out_features": base_hidden_features}
        self.up = Linear(in_features, hidden_features, **up, **linear)
        down = {"base_in_features": base_hidden_features, "base_out_features": base_in_features}
        self.down = Linear(hidden_features, in_features, **down, **of_down)
        self.activation = activation

    def __call__(
        self, x: Array, out_sharding: OutSharding = None, hidden_sharding: OutSharding = None
    ) -> Array:
        """Shape `(..., in_features)` to the same."""
        hidden = self.activation(self.up(x, hidden_sharding))
        return self.down(hidden, out_sharding)


def rotate(x: Array, period: float = 10_000.0) -> Array:
    """Rotary positions: turns pairs of features by angles proportional to the position.

    Features `i` and `i + d / 2` of position `t` turn by `t · period^(-2i / d)`, as in LLaMA's
    published code; the angles are taken in float32 at least.

    Args:
      x: Queries or keys of shape `(..., length, heads, d)`, `d` even.
      period: Number of positions in which the slowest pair would turn once, over 2π.

    Raises:
      ValueError: if `d` is odd.

    Example:
      >>> x = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]])  # two positions, one head, one pair
      >>> rotate(x)[1, 0].round(4)  # cos(1), sin(1)
      Array([0.5403, 0.8415], dtype=float32)

    References:
      Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864,
      Equation 34.
    """
    length, _, d = x.shape[-3:]
    if d % 2:
        raise ValueError(
            f"Rotary positions turn pairs: the size of a head must be even. Got {x.shape}."
        )
    wide = jnp.promote_types(x.dtype, jnp.float32)
    frequencies = period ** (-2 * jnp.arange(d // 2, dtype=wide) / d)
    angles = jnp.arange(length, dtype=wide)[:, None, None] * frequencies[None, None]
    cos, sin = (jnp.broadcast_to(f(angles), (*x.shape[:-1], d // 2)) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


@functools.wraps(nnx.dot_product_attention)  # Flax passes the arguments of the signature
def attention(query: Array, key: Array, value: Array, *args: Any, **kwargs: Any) -> Array:
    """`flax.nnx.dot_product_attention`, in float64 as a whole where its arguments are.

    JAX's takes the softmax in float32, whatever the dtype, which is 1e-8 off.
    """
    if query.dtype != jnp.float64:
        return nnx.dot_product_attention(query, key, value, *args, **kwargs)
    weights = dot_product_attention_weights(query, key, *args, **kwargs)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


@functools.wraps(nnx.dot_product_attention)
def rotary_attention(query: Array, key: Array, value: Array, *args: Any, **kwargs: Any) -> Array:
    """`attention` of rotated queries and keys."""
    return attention(rotate(query), rotate(key), value, *args, **kwargs)


def make_norm(
    norm: Norm, width: int, base_width: int, use_bias: bool, layer: Mapping[str, Any]
) -> nnx.Module:
    sizes = {"base_num_features": base_width, "epsilon": 1e-5}
    layer = {name: value for name, value in layer.items() if name != "use_bias"}
    if norm == "rms":
        return RMSNorm(width, **sizes, **layer)
    return LayerNorm(width, use_bias=use_bias, **sizes, **layer)
