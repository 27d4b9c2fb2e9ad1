"""Diffusion transformer: patches modulated by time and class; fused queries, keys and values."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from zoo.case import Case

PATCHES, CHANNELS = 4, 12


def sinusoids(positions, size):
    frequencies = jnp.exp(-np.log(1e4) * jnp.arange(size // 2) / (size // 2))
    angles = positions[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def modulated(x, shift, scale):
    x = nn.LayerNorm(use_bias=False, use_scale=False)(x)
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    heads: int
    head_size: int
    d_ff: int

    @nn.compact
    def __call__(self, x, condition):
        width = x.shape[-1]
        six = nn.Dense(6 * width, kernel_init=nn.initializers.zeros, name="modulation")
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(six(nn.silu(condition)), 6, -1)
        x = x + gate1[:, None] * self.attention(modulated(x, shift1, scale1))
        h = nn.gelu(nn.Dense(self.d_ff, name="up")(modulated(x, shift2, scale2)))
        return x + gate2[:, None] * nn.Dense(width, name="down")(h)

    def attention(self, x):
        width = x.shape[-1]
        qkv = nn.DenseGeneral((3, self.heads, self.head_size), name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        weights = nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * self.head_size**-0.5)
        x = jnp.einsum("bhts,bshd->bthd", weights, v)
        return nn.DenseGeneral(width, axis=(-2, -1), name="out")(x)


class DiT(nn.Module):
    width: int
    heads: int
    head_size: int
    d_ff: int

    @nn.compact
    def __call__(self, patches, times, labels):
        x = nn.Dense(self.width, name="patches")(patches)
        x = x + sinusoids(jnp.arange(PATCHES), self.width)
        time = nn.silu(nn.Dense(self.width, name="time1")(sinusoids(times, 8)))
        time = nn.Dense(self.width, name="time2")(time)
        condition = time + nn.Embed(10, self.width, name="labels")(labels)
        for i in range(2):
            x = Block(self.heads, self.head_size, self.d_ff, name=f"block{i}")(x, condition)
        two = nn.Dense(2 * self.width, name="modulation")(nn.silu(condition))
        return nn.Dense(CHANNELS, name="head")(modulated(x, *jnp.split(two, 2, -1)))


# Of one tensor for queries, keys and values each part has the same gain g: g² = (d0/d)^½ in the
# logits, and the layer behind the values has 1/g.
ANSWER = """
patches/kernel        in out*           1   7    1
patches/bias          out*              1   7    1
time1/kernel          in out*           1   7    1
time2/kernel          in* out*          7   7    1
time?/bias            out*              1   7    1
labels/embedding      - out*            1   7    1
*modulation/kernel    in* out*          7   7    1
*modulation/bias      out*              1   7    1
block?/qkv/kernel     in* - out* out*   7   6    2^-1/4
block?/qkv/bias       - out* out*       1   6    2^-1/4
block?/out/kernel     in* in* out*      6   7    2^1/4
block?/out/bias       out*              1   7    1
block?/up/kernel      in* out*          7   5    1
block?/up/bias        out*              1   5    1
block?/down/kernel    in* out*          5   7    1
block?/down/bias      out*              1   7    1
head/kernel           in* -             7   1    1
head/bias             -                 1   1    1
"""
CASES = {
    "": Case(
        DiT,
        ANSWER,
        base={"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
        target={"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
        inputs=(jnp.zeros((2, PATCHES, CHANNELS)), jnp.zeros(2), jnp.zeros(2, jnp.int32)),
    )
}
