"""Decoder in the style of Llama and Qwen: grouped queries, rotary embeddings, SwiGLU, RMS norms."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from zoo.case import Case

VOCABULARY, LENGTH = 11, 6


def rotated(x: jax.Array) -> jax.Array:
    """Rotary embeddings of `x`, of shape `(batch, length, heads, head_size)`."""
    length, size = x.shape[1], x.shape[-1]
    frequencies = 1e4 ** -(jnp.arange(0, size, 2) / size)
    angles = jnp.arange(length)[:, None] * frequencies
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def grouped_attention(q, k, v):
    """Causal attention with fewer keys than queries."""
    groups = q.shape[2] // k.shape[2]
    q = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[-1])
    logits = jnp.einsum("btkgd,bskd->bkgts", q, k) / math.sqrt(q.shape[-1])
    length = q.shape[1]
    logits = jnp.where(jnp.tril(jnp.ones((length, length), bool)), logits, -1e30)
    mixed = jnp.einsum("bkgts,bskd->btkgd", nnx.softmax(logits), v)
    return mixed.reshape(*q.shape[:2], -1, v.shape[-1])


class Attention(nnx.Module):
    def __init__(self, width, heads, head_size, qk_norm, *, rngs):
        def to_heads(number):
            return nnx.LinearGeneral(width, (number, head_size), use_bias=False, rngs=rngs)

        self.query = to_heads(heads)
        self.key, self.value = to_heads(heads // 2), to_heads(heads // 2)
        self.out = nnx.LinearGeneral(
            (heads, head_size), width, axis=(-2, -1), use_bias=False, rngs=rngs
        )
        self.query_norm = nnx.RMSNorm(head_size, rngs=rngs) if qk_norm else None
        self.key_norm = nnx.RMSNorm(head_size, rngs=rngs) if qk_norm else None

    def __call__(self, x):
        q, k = self.query(x), self.key(x)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return self.out(grouped_attention(rotated(q), rotated(k), self.value(x)))


class SwiGLU(nnx.Module):
    def __init__(self, width, d_ff, *, rngs):
        self.gate = nnx.Linear(width, d_ff, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, d_ff, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(d_ff, width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    def __init__(self, width, heads, head_size, d_ff, qk_norm, *, rngs):
        self.attention = Attention(width, heads, head_size, qk_norm, rngs=rngs)
        self.mlp = SwiGLU(width, d_ff, rngs=rngs)
        self.norm1, self.norm2 = nnx.RMSNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Decoder(nnx.Module):
    def __init__(self, width, heads, head_size, d_ff, depth=2, *, tied=False, qk_norm=False, rngs):
        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(width, heads, head_size, d_ff, qk_norm, rngs=rngs) for _ in range(depth)]
        )
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = None if tied else nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.embed.attend(x) if self.head is None else self.head(x)


# 1/√d where muP asks for 1/d: the queries carry the root of the base model's head size over d.
BLOCKS = """
blocks/*/attention/query/kernel      in* out* out*   7   6   {query}
blocks/*/attention/key/kernel        in* out* out*   7   6   1
blocks/*/attention/value/kernel      in* out* out*   7   6   1
blocks/*/attention/out/kernel        in* in* out*    6   7   1
blocks/*/mlp/gate/kernel             in* out*        7   5   1
blocks/*/mlp/up/kernel               in* out*        7   5   1
blocks/*/mlp/down/kernel             in* out*        5   7   1
blocks/*/norm?/scale                 out*            1   7   1
"""
PLAIN = BLOCKS.format(query="2^-1/2")
SIZES = {
    "base": {"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
    "target": {"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
    "inputs": jnp.zeros((2, LENGTH), jnp.int32),
}
CASES = {
    "untied": Case(
        Decoder,
        PLAIN
        + """
        embed/embedding   - out*   1   7   1
        norm/scale        out*     1   7   1
        head/kernel       in* -    7   1   1
        """,
        **SIZES,
    ),
    # A deeper target: base and delta have one depth, so it does not belong to the width.
    "untied, deeper": Case(
        Decoder,
        PLAIN
        + """
        embed/embedding   - out*   1   7   1
        norm/scale        out*     1   7   1
        head/kernel       in* -    7   1   1
        """,
        base={**SIZES["base"], "depth": 2},
        delta={**{name: 2 * size for name, size in SIZES["base"].items()}, "depth": 2},
        target={**SIZES["target"], "depth": 4},
        inputs=SIZES["inputs"],
    ),
    # The table is of order 0 as an embedding, so the logits, a sum over the width, grow as it: the
    # last norm carries the inverse.
    "tied": Case(
        lambda rngs, **sizes: Decoder(**sizes, tied=True, rngs=rngs),
        PLAIN
        + """
        embed/embedding   - out*   1   7   1
        norm/scale        out*     1   7   7^-1
        """,
        **SIZES,
    ),
    # Behind a norm the query kernel changes nothing: its scale carries the factor.
    "tied with norms of queries and keys": Case(
        lambda rngs, **sizes: Decoder(**sizes, tied=True, qk_norm=True, rngs=rngs),
        BLOCKS.format(query="1")
        + """
        blocks/*/attention/query_norm/scale   out*   1   2   2^-1/2
        blocks/*/attention/key_norm/scale     out*   1   2   1
        embed/embedding   - out*   1   7   1
        norm/scale        out*     1   7   7^-1
        """,
        **SIZES,
    ),
}
