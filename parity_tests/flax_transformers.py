"""Published transformers as a user of Flax would write them: plain NNX, with names of his own.

They know nothing of the names and layouts of PyTorch; `published_transformers` has what the bridge
must be told. Sizes are those of a toy.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

WIDTH, HEADS, GROUPS, SIZE, HIDDEN, LAYERS = 32, 4, 2, 8, 48, 2
TOKENS, CONTEXT = 40, 16

gelu = functools.partial(jax.nn.gelu, approximate=False)
gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)


def bloom_gelu(x: Array) -> Array:
    """BLOOM's, with as many decimals of √(2 / π) as its code has."""
    return 0.5 * x * (1 + jnp.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


def quick_gelu(x: Array) -> Array:
    """CLIP's."""
    return x * jax.nn.sigmoid(1.702 * x)


@dataclasses.dataclass(frozen=True)
class Style:
    """What transformers differ in.

    Args:
      norm: Norm of the blocks; `"offset"` is Gemma's, whose scale is added to 1.
      eps: Of the norms.
      order: Place of the norms: before a layer, behind the sum, or before attention and
        feed-forward side by side, which have one norm or two.
      bias: Layers with biases: all, none, or some of `q k v out mlp`.
      groups: Number of keys and values.
      hidden: Width of the feed-forward layer.
      activation: Of the feed-forward layer.
      gated: Whether it has a gate.
      experts: Number of experts; 0 for none.
      positions: How positions are told.
      rotary: Number of features of a head that are rotated.
      base: Of the frequencies of the rotations.
      interleaved: Whether neighbours are rotated, and not halves.
      head_norms: Whether queries and keys have norms.
      scale: Of the scores.
      causal: Whether tokens see only those before.
      cross: Whether a block attends to a memory as well.
    """

    norm: Literal["layer", "rms", "offset"] = "layer"
    eps: float = 1e-5
    order: Literal["before", "behind", "one beside", "two beside"] = "before"
    bias: str = "q k v out mlp"
    groups: int = HEADS
    hidden: int = HIDDEN
    activation: Callable[[Array], Array] = gelu_tanh
    gated: bool = False
    experts: int = 0
    positions: Literal["learned", "rotary", "alibi", "relative", "none"] = "learned"
    rotary: int = SIZE
    base: float = 10000.0
    interleaved: bool = False
    head_norms: bool = False
    scale: float = SIZE**-0.5
    causal: bool = True
    cross: bool = False


class OffsetNorm(nnx.Module):
    """x / rms(x) · (1 + scale), as in Gemma."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        x = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return x * jnp.broadcast_to(1 + self.scale[...], x.shape)


def make_norm(s: Style, width: int, rngs: nnx.Rngs) -> Any:
    match s.norm:
        case "layer":
            return nnx.LayerNorm(width, epsilon=s.eps, rngs=rngs)
        case "rms":
            return nnx.RMSNorm(width, epsilon=s.eps, rngs=rngs)
    return OffsetNorm(width, s.eps)


class Attention(nnx.Module):
    def __init__(self, s: Style, rngs: nnx.Rngs):
        def project(heads: int, letter: str) -> nnx.LinearGeneral:
            use_bias = letter in s.bias.split()
            return nnx.LinearGeneral(WIDTH, (heads, SIZE), use_bias=use_bias, rngs=rngs)

        self.s = s
        self.query = project(HEADS, "q")
        self.key = project(s.groups, "k")
        self.value = project(s.groups, "v")
        self.out = nnx.LinearGeneral(
            (HEADS, SIZE), WIDTH, axis=(-2, -1), use_bias="out" in s.bias.split(), rngs=rngs
        )
        if s.head_norms:
            self.query_norm, self.key_norm = make_norm(s, SIZE, rngs), make_norm(s, SIZE, rngs)

    def __call__(self, x: Array, memory: Array | None = None, bias: Array | None = None) -> Array:
        s, source = self.s, x if memory is None else memory
        q, k, v = self.query(x), self.key(source), self.value(source)
        if s.head_norms:
            q, k = self.query_norm(q), self.key_norm(k)
        if s.positions == "rotary":
            q, k = rotated(q, s), rotated(k, s)
        k, v = (jnp.repeat(a, HEADS // s.groups, axis=2) for a in (k, v))
        scores = s.scale * jnp.einsum("bthd,bshd->bhts", q, k)
        if bias is not None:
            scores += jnp.broadcast_to(bias, scores.shape)
        if s.causal and memory is None:
            seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
            scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -jnp.inf)
        return self.out(jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v))


def rotated(x: Array, s: Style) -> Array:
    """Rotary positions: of the first features of each head."""
    turned, rest = x[..., : s.rotary], x[..., s.rotary :]
    frequencies = s.base ** (-jnp.arange(0, s.rotary, 2) / s.rotary)
    angles = jnp.outer(jnp.arange(x.shape[1]), frequencies).astype(x.dtype)[None, :, None]
    if s.interleaved:
        a, b = turned[..., ::2], turned[..., 1::2]
    else:
        a, b = jnp.split(turned, 2, axis=-1)
    cos, sin = (jnp.broadcast_to(f(angles), a.shape) for f in (jnp.cos, jnp.sin))
    parts = a * cos - b * sin, b * cos + a * sin
    both = (
        jnp.stack(parts, -1).reshape(turned.shape) if s.interleaved else jnp.concatenate(parts, -1)
    )
    return jnp.concatenate([both, rest], axis=-1)


class FeedForward(nnx.Module):
    def __init__(self, s: Style, rngs: nnx.Rngs):
        keys = {"use_bias": "mlp" in s.bias.split(), "rngs": rngs}
        self.up = nnx.Linear(WIDTH, s.hidden, **keys)
        self.down = nnx.Linear(s.hidden, WIDTH, **keys)
        self.gate = nnx.Linear(WIDTH, s.hidden, **keys) if s.gated else None
        self.activation = s.activation

    def __call__(self, x: Array) -> Array:
        up = self.up(x)
        hidden = self.activation(up) if self.gate is None else self.activation(self.gate(x)) * up
        return self.down(hidden)


class Mixture(nnx.Module):
    """Mixtral's: the two best experts of each token, with the softmax over the two."""

    def __init__(self, s: Style, rngs: nnx.Rngs):
        self.router = nnx.Linear(WIDTH, s.experts, use_bias=False, rngs=rngs)
        self.experts = nnx.List([FeedForward(s, rngs) for _ in range(s.experts)])

    def __call__(self, x: Array) -> Array:
        logits = self.router(x)
        least = jax.lax.top_k(logits, 2)[0][..., 1:]
        shares = jax.nn.softmax(jnp.where(logits >= least, logits, -jnp.inf))
        outputs = jnp.stack([expert(x) for expert in self.experts], axis=-1)
        return jnp.einsum("btde,bte->btd", outputs, shares)


class Block(nnx.Module):
    def __init__(self, s: Style, rngs: nnx.Rngs):
        self.order = s.order
        self.attention_norm = make_norm(s, WIDTH, rngs)
        self.attention = Attention(s, rngs)
        self.cross_norm = make_norm(s, WIDTH, rngs) if s.cross else None
        self.cross = Attention(dataclasses.replace(s, causal=False), rngs) if s.cross else None
        self.feed_forward_norm = None if s.order == "one beside" else make_norm(s, WIDTH, rngs)
        self.feed_forward = Mixture(s, rngs) if s.experts else FeedForward(s, rngs)

    def __call__(self, x: Array, memory: Array | None = None, bias: Array | None = None) -> Array:
        if self.order == "behind":
            x = self.attention_norm(x + self.attention(x, bias=bias))
            return self.feed_forward_norm(x + self.feed_forward(x))
        normed = self.attention_norm(x)
        if self.order != "before":
            other = normed if self.feed_forward_norm is None else self.feed_forward_norm(x)
            return x + self.attention(normed, bias=bias) + self.feed_forward(other)
        x = x + self.attention(normed, bias=bias)
        if self.cross is not None:
            x = x + self.cross(self.cross_norm(x), memory)
        return x + self.feed_forward(self.feed_forward_norm(x))


def make_blocks(s: Style, rngs: nnx.Rngs) -> nnx.List[Block]:
    return nnx.List([Block(s, rngs) for _ in range(LAYERS)])


class Decoder(nnx.Module):
    """A causal language model.

    Args:
      s: Its style.
      tied: Whether the embedding is the readout.
      readout_bias: Whether the readout has a bias.
      embed_norm: Whether a norm stands behind the embedding, as in BLOOM.
      embed_scale: Factor of the embedding.
    """

    def __init__(
        self,
        s: Style,
        rngs: nnx.Rngs,
        *,
        tied: bool = False,
        readout_bias: bool = False,
        embed_norm: bool = False,
        embed_scale: float = 1.0,
    ):
        self.s, self.embed_scale = s, embed_scale
        self.embed = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        learned = s.positions == "learned"
        self.positions = nnx.Embed(CONTEXT, WIDTH, rngs=rngs) if learned else None
        self.embed_norm = make_norm(s, WIDTH, rngs) if embed_norm else None
        self.blocks = make_blocks(s, rngs)
        self.norm = make_norm(s, WIDTH, rngs)
        self.readout = None if tied else nnx.Linear(WIDTH, TOKENS, use_bias=readout_bias, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens) * self.embed_scale
        if self.positions is not None:
            x += jnp.broadcast_to(self.positions(jnp.arange(x.shape[1])), x.shape)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        bias = alibi(x.shape[1]) if self.s.positions == "alibi" else None
        for block in self.blocks:
            x = block(x, bias=bias)
        x = self.norm(x)
        return self.embed.attend(x) if self.readout is None else self.readout(x)


def alibi(length: int) -> Array:
    """A bias of the scores (1, heads, 1, keys), which rises with the position of the key."""
    slopes = 2.0 ** (-8 * jnp.arange(1, HEADS + 1) / HEADS)
    return jnp.outer(slopes, jnp.arange(length))[None, :, None]


class MaskedLanguageModel(nnx.Module):
    """BERT and RoBERTa, whose positions begin with 2.

    Args:
      s: Its style.
      kinds: Number of kinds of segments.
      first: First position.
    """

    def __init__(self, s: Style, rngs: nnx.Rngs, *, kinds: int, first: int = 0):
        self.first = first
        self.embed = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT + first, WIDTH, rngs=rngs)
        self.segments = nnx.Embed(kinds, WIDTH, rngs=rngs)
        self.embed_norm = make_norm(s, WIDTH, rngs)
        self.blocks = make_blocks(s, rngs)
        self.transform = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.transform_norm = make_norm(s, WIDTH, rngs)
        self.readout_bias = nnx.Param(jnp.zeros(TOKENS))

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        positions = self.positions(self.first + jnp.arange(x.shape[1]))
        x += jnp.broadcast_to(positions + self.segments(jnp.zeros(x.shape[1], int)), x.shape)
        x = self.embed_norm(x)
        for block in self.blocks:
            x = block(x)
        x = self.embed.attend(self.transform_norm(gelu(self.transform(x))))
        return x + jnp.broadcast_to(self.readout_bias[...], x.shape)


class T5(nnx.Module):
    """An encoder and a decoder of tokens, with relative positions."""

    def __init__(self, s: Style, rngs: nnx.Rngs):
        encoder = dataclasses.replace(s, causal=False)
        decoder = dataclasses.replace(s, cross=True)
        self.embed = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.encoder = make_blocks(encoder, rngs)
        self.encoder_bias = nnx.Embed(32, HEADS, rngs=rngs)
        self.encoder_norm = make_norm(s, WIDTH, rngs)
        self.decoder = make_blocks(decoder, rngs)
        self.decoder_bias = nnx.Embed(32, HEADS, rngs=rngs)
        self.decoder_norm = make_norm(s, WIDTH, rngs)

    def __call__(self, tokens: Array, started: Array) -> Array:
        memory, x = self.embed(tokens), self.embed(started)
        # Distances this short have a bucket each; of the encoder those ahead have the other half.
        ahead = jnp.arange(memory.shape[1])[None] - jnp.arange(memory.shape[1])[:, None]
        bias = self.encoder_bias(jnp.where(ahead > 0, 16 + ahead, -ahead)).transpose(2, 0, 1)[None]
        for block in self.encoder:
            memory = block(memory, bias=bias)
        memory = self.encoder_norm(memory)
        ahead = jnp.arange(x.shape[1])[None] - jnp.arange(x.shape[1])[:, None]
        bias = self.decoder_bias(jnp.maximum(-ahead, 0)).transpose(2, 0, 1)[None]
        for block in self.decoder:
            x = block(x, memory, bias)
        return self.embed.attend(self.decoder_norm(x) * WIDTH**-0.5)


IMAGE, PATCH, CLASSES, JOINT = 8, 4, 5, 24


class VisionTransformer(nnx.Module):
    """ViT, and CLIP's tower of images.

    Args:
      s: Its style.
      outputs: Number of outputs.
      clip: Whether it is CLIP's: a norm before the blocks, no biases of patches and outputs.
    """

    def __init__(self, s: Style, outputs: int, rngs: nnx.Rngs, *, clip: bool = False):
        patches = (PATCH, PATCH)
        self.patches = nnx.Conv(
            3, WIDTH, patches, strides=patches, padding="VALID", use_bias=not clip, rngs=rngs
        )
        self.first = nnx.Param(jnp.zeros(WIDTH if clip else (1, 1, WIDTH)))
        number = (IMAGE // PATCH) ** 2 + 1
        self.positions = nnx.Param(jnp.zeros((number, WIDTH) if clip else (1, number, WIDTH)))
        self.norm_before = make_norm(s, WIDTH, rngs) if clip else None
        self.blocks = make_blocks(s, rngs)
        self.norm = make_norm(s, WIDTH, rngs)
        self.readout = nnx.Linear(WIDTH, outputs, use_bias=not clip, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        x = self.patches(images).reshape(images.shape[0], -1, WIDTH)
        first = jnp.broadcast_to(self.first[...].reshape(1, 1, WIDTH), (x.shape[0], 1, WIDTH))
        x = jnp.concatenate([first, x], axis=1)
        x += jnp.broadcast_to(self.positions[...].reshape(1, -1, WIDTH), x.shape)
        if self.norm_before is not None:
            x = self.norm_before(x)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x)[:, 0])


class CLIP(nnx.Module):
    """Images beside texts."""

    def __init__(self, s: Style, rngs: nnx.Rngs):
        image = dataclasses.replace(s, causal=False)
        self.vision = VisionTransformer(image, JOINT, rngs, clip=True)
        self.text = Decoder(s, rngs, tied=True)
        self.text_readout = nnx.Linear(WIDTH, JOINT, use_bias=False, rngs=rngs)
        self.temperature = nnx.Param(jnp.zeros(()))

    def __call__(self, tokens: Array, images: Array) -> Array:
        x = self.text.embed(tokens)
        x += jnp.broadcast_to(self.text.positions(jnp.arange(x.shape[1])), x.shape)
        for block in self.text.blocks:
            x = block(x)
        texts = self.text_readout(self.text.norm(x)[:, -1])
        texts, pictures = (
            y / jnp.sqrt(jnp.square(y).sum(-1, keepdims=True)) for y in (texts, self.vision(images))
        )
        return pictures @ texts.T * jnp.exp(self.temperature[...])


MELS, FRAMES = 6, 8


class Whisper(nnx.Module):
    """An encoder of sound and a decoder of tokens."""

    def __init__(self, s: Style, rngs: nnx.Rngs):
        encoder = dataclasses.replace(s, causal=False)
        decoder = dataclasses.replace(s, cross=True)
        self.conv1 = nnx.Conv(MELS, WIDTH, (3,), padding=1, rngs=rngs)
        self.conv2 = nnx.Conv(WIDTH, WIDTH, (3,), strides=2, padding=1, rngs=rngs)
        self.frames = nnx.Param(jnp.zeros((FRAMES, WIDTH)))
        self.encoder = make_blocks(encoder, rngs)
        self.encoder_norm = make_norm(s, WIDTH, rngs)
        self.embed = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.decoder = make_blocks(decoder, rngs)
        self.decoder_norm = make_norm(s, WIDTH, rngs)

    def __call__(self, sounds: Array, started: Array) -> Array:
        memory = gelu(self.conv2(gelu(self.conv1(sounds))))
        memory += jnp.broadcast_to(self.frames[...], memory.shape)
        for block in self.encoder:
            memory = block(memory)
        memory = self.encoder_norm(memory)
        x = self.embed(started)
        x += jnp.broadcast_to(self.positions(jnp.arange(x.shape[1])), x.shape)
        for block in self.decoder:
            x = block(x, memory)
        return self.embed.attend(self.decoder_norm(x))
