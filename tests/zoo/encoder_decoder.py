"""The first Transformer, in Haiku: norms behind the blocks, one table for all tokens."""

import haiku as hk
import jax.numpy as jnp
import numpy as np

from zoo.case import Case

VOCABULARY, LENGTH = 11, 6


def norm(x, name):
    return hk.LayerNorm(-1, True, True, name=name)(x)


def attention(x, other, heads, head_size, name):
    layer = hk.MultiHeadAttention(
        heads,
        head_size,
        model_size=x.shape[-1],
        w_init=hk.initializers.VarianceScaling(1.0),
        name=name,
    )
    return layer(x, other, other)


def feed_forward(x, d_ff, name):
    return hk.nets.MLP([d_ff, x.shape[-1]], name=name)(x)


def positions(width):
    angles = np.arange(LENGTH)[:, None] * 1e4 ** -(np.arange(0, width, 2) / width)
    return jnp.concatenate([np.sin(angles), np.cos(angles)], -1, dtype=np.float32)


def network(source, target, *, width, heads, head_size, d_ff):
    table = hk.get_parameter("table", (VOCABULARY, width), init=hk.initializers.RandomNormal())

    def embedded(tokens):
        return table[tokens] * np.sqrt(width).astype(np.float32) + positions(width)

    x = embedded(source)
    x = norm(x + attention(x, x, heads, head_size, "encoder"), "encoder_norm1")
    x = norm(x + feed_forward(x, d_ff, "encoder_mlp"), "encoder_norm2")
    y = embedded(target)
    y = norm(y + attention(y, y, heads, head_size, "decoder"), "decoder_norm1")
    y = norm(y + attention(y, x, heads, head_size, "cross"), "decoder_norm2")
    y = norm(y + feed_forward(y, d_ff, "decoder_mlp"), "decoder_norm3")
    return y @ table.T


INPUTS = (jnp.zeros((2, LENGTH), jnp.int32), jnp.zeros((2, LENGTH), jnp.int32))


def make_model(width, heads, head_size, d_ff, key):
    """Haiku's function, which knows the sizes, beside its parameters."""
    sizes = {"width": width, "heads": heads, "head_size": head_size, "d_ff": d_ff}
    function = hk.without_apply_rng(hk.transform(lambda *inputs: network(*inputs, **sizes)))
    return {"params": function.init(key, *INPUTS), "apply": function.apply}


# The table times √n is beside positions of order 0, so it has r^-½. Of its product with the
# stream, n terms, r^½ is left, which the last norm carries. Haiku divides logits by √d.
ANSWER = """
params/~/table                - out*          1   7   7^-1/2
params/decoder_norm3/*        out*            1   7   7^-1/2
params/*_norm?/*              out*            1   7   1
params/*/query/w              in* out*        7   6   2^-1/2
params/*/query/b              out*            1   6   2^-1/2
params/*/key/w                in* out*        7   6   1
params/*/key/b                out*            1   6   1
params/*/value/w              in* out*        7   6   1
params/*/value/b              out*            1   6   1
params/*/linear/w             in* out*        6   7   1
params/*/linear/b             out*            1   7   1
params/*/~/linear_0/w         in* out*        7   5   1
params/*/~/linear_0/b         out*            1   5   1
params/*/~/linear_1/w         in* out*        5   7   1
params/*/~/linear_1/b         out*            1   7   1
"""
CASES = {
    "": Case(
        make_model,
        ANSWER,
        base={"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
        target={"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
        inputs=INPUTS,
        apply=lambda model, *inputs: model["apply"](model["params"], *inputs),
    )
}
