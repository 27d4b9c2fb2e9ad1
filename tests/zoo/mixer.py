"""MLP-Mixer in Equinox: layers over tokens, then over channels, mapped by `vmap`."""

import equinox as eqx
import jax
import jax.numpy as jnp

from zoo.case import Case

TOKENS = 6


class Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    over_tokens: eqx.nn.MLP
    over_channels: eqx.nn.MLP

    def __init__(self, width, d_ff, hidden_tokens, key):
        one, two = jax.random.split(key)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.over_tokens = eqx.nn.MLP(TOKENS, TOKENS, hidden_tokens, 1, jax.nn.gelu, key=one)
        self.over_channels = eqx.nn.MLP(width, width, d_ff, 1, jax.nn.gelu, key=two)

    def __call__(self, x):
        x = x + jax.vmap(self.over_tokens, 1, 1)(jax.vmap(self.norm1)(x))
        return x + jax.vmap(self.over_channels)(jax.vmap(self.norm2)(x))


class Mixer(eqx.Module):
    patches: eqx.nn.Linear
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, width, d_ff, hidden_tokens, key):
        keys = jax.random.split(key, 4)
        self.patches = eqx.nn.Linear(12, width, key=keys[0])
        self.blocks = [Block(width, d_ff, hidden_tokens, key) for key in keys[1:3]]
        self.norm = eqx.nn.LayerNorm(width)
        self.head = eqx.nn.Linear(width, 5, key=keys[3])

    def __call__(self, x):
        x = jax.vmap(self.patches)(x)
        for block in self.blocks:
            x = block(x)
        return self.head(jax.vmap(self.norm)(x).mean(0))


# Of a layer over tokens the width is but one more batch axis.
ANSWER = """
patches/weight                            out* in    1   7   1
patches/bias                              out*       1   7   1
blocks/?/norm?/*                          out*       1   7   1
blocks/?/over_tokens/layers/0/weight      out* in    1   3   1
blocks/?/over_tokens/layers/0/bias        out*       1   3   1
blocks/?/over_tokens/layers/1/weight      - in*      3   1   1
blocks/?/over_tokens/layers/1/bias        -          1   1   1
blocks/?/over_channels/layers/0/weight    out* in*   7   5   1
blocks/?/over_channels/layers/0/bias      out*       1   5   1
blocks/?/over_channels/layers/1/weight    out* in*   5   7   1
blocks/?/over_channels/layers/1/bias      out*       1   7   1
norm/*                                    out*       1   7   1
head/weight                               - in*      7   1   1
head/bias                                 -          1   1   1
"""
CASES = {
    "": Case(
        Mixer,
        ANSWER,
        base={"width": 16, "d_ff": 24, "hidden_tokens": 8},
        target={"width": 112, "d_ff": 120, "hidden_tokens": 24},
        inputs=jnp.zeros((2, TOKENS, 12)),
        apply=lambda model, x: jax.vmap(model)(x),
    )
}
