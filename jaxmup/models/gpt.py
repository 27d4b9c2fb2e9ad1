"""A decoder-only transformer: Llama's kind by default, GPT-2's by its arguments."""

import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
from flax import nnx
from flax.typing import DotGeneralT, Dtype, LogicalRules
from jax import Array, lax

from jaxmup import _check, functional
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.models._block import Block, FeedForward, Norm, make_norm
from jaxmup.models._layout import Layout
from jaxmup.nnx import Embed, Linear, Stack
from jaxmup.nnx._stack import call_block

Positions = Literal["rotary", "learned"]


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

        make_block = functools.partial(
            Block,
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
            **layer,
        )
        common = {"rngs": rngs, **layer}
        embedding = {"base_features": base_width, "init_std": init_std, **common}
        embedding["embedding_metadata"] = layout.metadata("vocab", "embed")
        self.embed = Embed(vocabulary, width, **embedding)
        embedding["embedding_metadata"] = layout.metadata(None, "embed")
        self.positions = None if context is None else Embed(context, width, **embedding)
        self.blocks = _blocks(make_block, num_layers, stacked, remat, rngs)
        self.layout = layout
        self.remat = remat
        self.norm = make_norm(norm, width, base_width, use_bias, common)
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


def _blocks(
    make_block: Callable[..., Block],
    num_layers: int,
    stacked: bool,
    remat: Callable[..., bool] | None,
    rngs: nnx.Rngs,
) -> "Stack | nnx.List[Block]":
    if not stacked:
        return nnx.List([make_block(rngs=rngs) for _ in range(num_layers)])

    def block_of(rngs: nnx.Rngs) -> Block:
        return make_block(rngs=rngs)

    return Stack(block_of, num_layers, axis_name="layers", remat=remat, rngs=rngs)


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
