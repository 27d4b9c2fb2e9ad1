"""A decoder-only transformer: Llama's kind by default, GPT-2's by its arguments."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.attention import dot_product_attention_weights
from flax.typing import DotGeneralT, Dtype, LogicalRules
from jax import Array, lax

from jaxmup import _check, functional
from jaxmup._parameter import as_parametrization
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.functional import OutSharding
from jaxmup.models._layout import Layout, is_on_mesh
from jaxmup.nnx import Embed, GatedMLP, LayerNorm, Linear, MultiHeadAttention, RMSNorm, Stack
from jaxmup.nnx._blocks import call_block, split_arguments

Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "learned"]
FeedForward = Literal["gated", "plain"]


class GPT(nnx.Module):
    """A decoder-only transformer, pre-norm: from tokens to the logits of the next ones.

    By default it has rotary positions, RMS norms, gated feed-forward layers, an untied readout and
    no biases. GPT-2 has learned positions, layer norms, plain feed-forward layers, a tied readout,
    and biases.

    Args:
      vocabulary: Number of tokens; it does not grow.
      width: Number of features of the residual stream.
      num_layers: Number of blocks.
      num_heads: Number of heads of each block, of `width / num_heads` features each.
      base_width: `width` of the base model.
      base_num_heads: `num_heads` of the base model; `None` for `num_heads`, so that heads grow in
        size and not in number.
      base_num_layers: `num_layers` of the base model; `None` if it does not grow.
      hidden_features: Size of the hidden layer of a feed-forward layer; `None` for `4 · width`.
      base_hidden_features: `hidden_features` of the base model; `None` for `4 · base_width`. Both
        or neither must be given.
      positions: `"rotary"` turns queries and keys, `"learned"` adds an embedding per position.
      context: Length of the longest sequence, for learned positions; `None` for rotary ones.
      norm: `"rms"` or `"layer"`, with an epsilon of 1e-5.
      feed_forward: `"gated"` is SwiGLU, `"plain"` has one hidden layer with GELU's tanh form.
      activation: Activation of the feed-forward layers; `None` for SiLU where they are gated and
        GELU's tanh form where they are plain.
      use_bias: Whether linear layers, but for the readout, and layer norms have biases.
      tied: Whether the readout is the embedding.
      init_std: Standard deviation of every kernel and embedding at base width, such as GPT-2's
        0.02; `None` for those of Flax's layers.
      logit_scale: Factor on the logits, one number at every width; dimensionless.
      readout_init: Initial values of an untied readout; `None` for those of a linear layer. With
        zeros the initial logits, which fade with the width under muP, do not add to the changes.
      stacked: Whether the blocks are one `jaxmup.nnx.Stack`, which compiles one block whatever
        their number, or a list.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      dtype: Dtype of the computation; `None` for that of the parameters.
      param_dtype: Dtype of the parameters.
      dot_general: Product of activations and kernels in the blocks, in place of
        `jax.lax.dot_general`, such as one in float8; Flax's layers call it.
      remat: Policy of `jax.checkpoint_policies` by which the backward pass computes each block's
        activations again, such as `nothing_saveable` for all of them; `None` keeps them.
      sharding_rules: Axes of the mesh for the model's own axes, as pairs such as
        `(("batch", "data"), ("mlp", "model"))`; `None` for those of Flax's `logical_axis_rules`.
        The names are batch, length, embed, heads, mlp, vocab and layers. One without a pair is not
        sharded. `"length"` shards the residual stream between the layers.
      rngs: Random keys for the initial values.

    Raises:
      TypeError: if `remat` is no function, or `sharding_rules` are no pairs.
      ValueError: if a size is not a positive integer or not divisible as it must be, an option is
        unknown, `sharding_rules` do not fit the model and the mesh, `context` and `positions` do
        not fit each other, or a standard deviation or `logit_scale` is not a finite positive
        number.

    Example:
      >>> sizes = {"width": 32, "num_layers": 2, "num_heads": 2, "base_width": 16}
      >>> model = GPT(256, **sizes, rngs=nnx.Rngs(0))
      >>> model(jnp.array([[1, 2, 3]])).shape
      (1, 3, 256)

    References:
      Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971,
      Section 2.2. Yang et al., "Tensor Programs V", arXiv:2203.03466, Section D.2, for the zeros.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        base_width: int,
        base_num_heads: int | None = None,
        base_num_layers: int | None = None,
        hidden_features: int | None = None,
        base_hidden_features: int | None = None,
        positions: Positions = "rotary",
        context: int | None = None,
        norm: Norm = "rms",
        feed_forward: FeedForward = "gated",
        activation: Callable[[Array], Array] | None = None,
        use_bias: bool = False,
        tied: bool = False,
        init_std: float | None = None,
        logit_scale: float = 1.0,
        readout_init: nnx.Initializer | None = None,
        stacked: bool = False,
        parametrization: Parametrization | ParametrizationName = "mup",
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        dot_general: DotGeneralT = lax.dot_general,
        remat: Callable[..., bool] | None = None,
        sharding_rules: LogicalRules | None = None,
        rngs: nnx.Rngs,
    ):
        base_num_heads = num_heads if base_num_heads is None else base_num_heads
        base_num_layers = num_layers if base_num_layers is None else base_num_layers
        _check_options(norm, feed_forward, positions, context)
        _check_readout(tied, readout_init)
        _check.size("num_layers", num_layers)
        _check.size("base_num_layers", base_num_layers)
        _check_heads(width=width, num_heads=num_heads)
        _check_heads(base_width=base_width, base_num_heads=base_num_heads)
        _check_together(hidden_features, base_hidden_features)
        _check.number("logit_scale", logit_scale, above=0)
        if hidden_features is None or base_hidden_features is None:
            hidden_features, base_hidden_features = 4 * width, 4 * base_width
        layer = {"parametrization": parametrization, "dtype": dtype, "param_dtype": param_dtype}
        layout = Layout.of(sharding_rules)
        layout.require_fit(
            vocab=vocabulary,
            embed=width,
            heads=num_heads,
            mlp=hidden_features,
            layers=num_layers if stacked else 0,
        )

        def make_block(rngs: nnx.Rngs) -> Block:
            return Block(
                width=width,
                num_heads=num_heads,
                base_width=base_width,
                base_num_heads=base_num_heads,
                hidden_features=hidden_features,
                base_hidden_features=base_hidden_features,
                rotary=positions == "rotary",
                norm=norm,
                feed_forward=feed_forward,
                activation=activation,
                use_bias=use_bias,
                init_std=init_std,
                depth_ratio=num_layers / base_num_layers,
                layout=layout,
                dot_general=dot_general,
                rngs=rngs,
                **layer,
            )

        common = {"rngs": rngs, **layer}
        embedding = {"base_features": base_width, "init_std": init_std, **common}
        of_tokens = layout.metadata("vocab", "embed")
        self.embed = Embed(vocabulary, width, embedding_metadata=of_tokens, **embedding)
        of_positions = layout.metadata(None, "embed")
        self.positions = (
            None
            if context is None
            else Embed(context, width, embedding_metadata=of_positions, **embedding)
        )
        self.blocks = (
            Stack(make_block, num_layers, axis_name="layers", remat=remat, rngs=rngs)
            if stacked
            else nnx.List([make_block(rngs) for _ in range(num_layers)])
        )
        self.layout = layout
        self.remat = remat
        self.norm = _make_norm(norm, width, base_width, use_bias, common)
        start = {"init_std": init_std} if readout_init is None else {"kernel_init": readout_init}
        readout = {"use_bias": False, "base_in_features": base_width, **start, **common}
        readout["kernel_metadata"] = layout.metadata("embed", "vocab")
        self.readout = None if tied else Linear(width, vocabulary, **readout)
        self.logit_scale = logit_scale

    def __call__(self, tokens: Array) -> Array:
        """Logits of shape `(batch, length, vocabulary)` for integer tokens `(batch, length)`.

        Raises:
          ValueError: if there are more tokens than learned positions.
        """
        layout = self.layout
        x = self.embed(tokens, layout.stream(tokens))
        if self.positions is not None:
            _check_length(tokens.shape, self.positions.num_embeddings)
            places = jnp.arange(tokens.shape[-1])
            x = x + self.positions(places, layout.activation("length", None))[None]
        x = layout.constrain(x, "batch", "length", None)
        if isinstance(self.blocks, Stack):
            x = self.blocks(x)
        else:
            run = call_block(self.remat)
            for block in self.blocks:
                x = run(x, block)
        x = self.norm(x)
        read_out = self.embed.attend if self.readout is None else self.readout
        logits = read_out(x, layout.activation("batch", "length", "vocab"))
        logits = functional.scale(logits, self.logit_scale)
        return layout.constrain(logits, "batch", "length", "vocab")


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
        self.attention_norm = _make_norm(norm, width, base_width, use_bias, layer)
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
        self.feed_forward_norm = _make_norm(norm, width, base_width, use_bias, layer)
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


def _make_norm(
    norm: Norm, width: int, base_width: int, use_bias: bool, layer: Mapping[str, Any]
) -> nnx.Module:
    sizes = {"base_num_features": base_width, "epsilon": 1e-5}
    layer = {name: value for name, value in layer.items() if name != "use_bias"}
    if norm == "rms":
        return RMSNorm(width, **sizes, **layer)
    return LayerNorm(width, use_bias=use_bias, **sizes, **layer)


def _check_heads(**sizes: int) -> None:
    (width_name, width), (heads_name, heads) = sizes.items()
    _check.size(width_name, width)
    _check.size(heads_name, heads)
    if width % heads:
        raise ValueError(
            f"`{width_name}` must be a multiple of `{heads_name}`, the features of a head. "
            f"Got {width} and {heads}."
        )


def _check_together(hidden_features: int | None, base_hidden_features: int | None) -> None:
    if (hidden_features is None) != (base_hidden_features is None):
        raise ValueError(
            "`hidden_features` and `base_hidden_features` must be given together. "
            f"Got {hidden_features} and {base_hidden_features}."
        )


def _check_options(norm: object, feed_forward: object, positions: object, context: object) -> None:
    _check.one_of("norm", norm, get_args(Norm))
    _check.one_of("feed_forward", feed_forward, get_args(FeedForward))
    _check.one_of("positions", positions, get_args(Positions))
    if (positions == "learned") != (context is not None):
        raise ValueError(
            "`context`, the length of the longest sequence, must be given for learned positions "
            f"and not for rotary ones. Got positions={positions!r}, context={context}."
        )


def _check_readout(tied: bool, readout_init: nnx.Initializer | None) -> None:
    if tied and readout_init is not None:
        raise ValueError(
            "`readout_init` must be left out for a tied readout, which has the values of the "
            f"embedding. Got {readout_init}."
        )


def _check_length(shape: tuple[int, ...], context: int) -> None:
    if shape[-1] > context:
        raise ValueError(
            f"Tokens must be no longer than the learned positions, {context}. Got shape {shape}."
        )
