"""Decoder in the style of Gemma: `√width` on embeddings, `1 + scale` in norms, a tied readout."""

import functools

import jax.numpy as jnp
from flax import linen as nn

from zoo.case import Case, at
from zoo.decoder import grouped_attention, rotated

VOCABULARY, LENGTH = 11, 6
ZEROS = nn.initializers.zeros


class RMSNorm(nn.Module):
    """Normalization whose scale is beside one."""

    one: float = 1.0

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", ZEROS, (x.shape[-1],))
        x = x * (jnp.mean(x**2, -1, keepdims=True) + 1e-6) ** -0.5
        return x * (self.one + scale)


class Block(nn.Module):
    heads: int
    head_size: int
    d_ff: int
    post_norms: bool
    qk_norm: bool

    @nn.compact
    def __call__(self, x):
        x = x + self.after(self.attention(RMSNorm(name="norm1")(x)), "post_norm1")
        return x + self.after(self.mlp(RMSNorm(name="norm2")(x)), "post_norm2")

    def after(self, x, name):
        return RMSNorm(name=name)(x) if self.post_norms else x

    def attention(self, x):
        to_heads = functools.partial(nn.DenseGeneral, use_bias=False)
        q = to_heads((self.heads, self.head_size), name="q")(x)
        k = to_heads((1, self.head_size), name="k")(x)
        v = to_heads((1, self.head_size), name="v")(x)
        if self.qk_norm:
            q, k = RMSNorm(name="q_norm")(q), RMSNorm(name="k_norm")(k)
        mixed = grouped_attention(rotated(q), rotated(k), v)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), use_bias=False, name="o")(mixed)

    def mlp(self, x):
        up = nn.Dense(2 * self.d_ff, use_bias=False, name="up")(x)
        gate, up = jnp.split(up, 2, -1)
        return nn.Dense(x.shape[-1], use_bias=False, name="down")(nn.gelu(gate) * up)


class Gemma(nn.Module):
    width: int
    heads: int
    head_size: int
    d_ff: int
    post_norms: bool = False
    qk_norm: bool = False
    one: float = 1.0  # of the last norm

    @nn.compact
    def __call__(self, tokens):
        table = self.param("table", nn.initializers.normal(1.0), (VOCABULARY, self.width))
        x = table[tokens] * jnp.sqrt(self.width)
        for i in range(2):
            x = Block(
                self.heads, self.head_size, self.d_ff, self.post_norms, self.qk_norm, name=f"b{i}"
            )(x)
        x = RMSNorm(self.one, name="norm")(x)
        logits = jnp.dot(x, table.T)  # readout
        return 30 * jnp.tanh(logits / 30)


BLOCKS = """
b*/q/kernel      in* out* out*   7   6   2^-1/2
b*/k/kernel      in* - out*      7   2   1
b*/v/kernel      in* - out*      7   2   ?
b*/o/kernel      in* in* out*    6   7   ?
b*/up/kernel     in* out*        7   5   1
*norm?/scale     out*            1   7   1
"""
SIZES = {
    "base": {"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
    "target": {"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
    "inputs": jnp.zeros((2, LENGTH), jnp.int32),
}
CASES = {
    # T5X: a table of order 0 times √n wants (1/r)^½; its product with the stream, n terms of the
    # order of the table, is left with r^½, which a linear last norm carries.
    "with a linear last norm": Case(
        lambda **sizes: Gemma(**sizes, post_norms=True, one=0.0),
        BLOCKS
        + """
        b*/down/kernel   in* out*   5   7   1
        norm/scale       out*       1   7   7^-1/2
        table            - out*     1   7   7^-1/2
        """,
        **SIZES,
    ),
    # Gemma 1. The last norm can carry nothing, but it reads a stream of any size: with all that is
    # written to the stream times r^-½ the table has 1/r, so that the stream is 1/r · √r, and the
    # logits are n terms of 1/r.
    "": Case(
        Gemma,
        BLOCKS
        + """
        b*/down/kernel   in* out*       5   7   7^-1/2
        norm/scale       out*           1   7   1
        table            - out*         1   7   7^-1
        """,
        products={f"b{i}/v/kernel * b{i}/o/kernel": "7^-1/2" for i in range(2)},
        **SIZES,
    ),
    # Gemma 2: norms behind the blocks pin what is written to the stream, and so the table.
    "with norms behind": Case(
        lambda **sizes: Gemma(**sizes, post_norms=True),
        "",
        refused=at(__file__, "readout"),
        **SIZES,
    ),
    # Gemma 3: neither do the queries reach past their norm.
    "with norms of queries": Case(
        lambda **sizes: Gemma(**sizes, qk_norm=True), "", refused="decoder.py", **SIZES
    ),
}
