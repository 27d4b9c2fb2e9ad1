"""Tied readouts, and embeddings times a power of the width."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from zoo.case import at
from zoo.small import (
    FEATURES,
    LENGTH,
    VOCABULARY,
    Table,
    embedded,
    rms,
)

CASES = Table()


# What the norm carries for the tied readout the second readout undoes.
@CASES.case(
    "tied beside a value head",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "w": (n, n), "norm": (n,), "value": (n, 1)},
    """
    embed   - out*     1   7   1
    w       in* out*   7   7   1
    norm    out*       1   7   7^-1
    value   in* -      7   1   7
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    x = rms(x + jnp.tanh(x @ p["w"]), p["norm"])
    return x @ p["embed"].T, x @ p["value"]


# Nothing pins the stream: table and what is written to it share the factor.
@CASES.case(
    "tied without a norm",
    "nf",
    lambda n, f, **_: {"embed": (VOCABULARY, n), "up": (n, f), "down": (f, n)},
    """
    embed   - out*     1   7   7^-1/2
    up      in* out*   7   5   7^1/2
    down    in* out*   5   7   7^-1/2
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + jnp.tanh(x @ p["up"]) @ p["down"]) @ p["embed"].T


# BLOOM. A norm forgives a table that shrinks until its variance comes to the norm's eps; the scale
# and the bias of the last norm are linear in the logits and lose nothing.
@CASES.case(
    "tied, the table behind a norm",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "s": (n,), "b": (n,), "t": (n,), "c": (n,)},
    """
    embed   - out*     1   7   1
    s       out*       1   7   1
    b       out*       1   7   1
    t       out*       1   7   7^-1
    c       out*       1   7   7^-1
    """,
)
def _(p, tokens):
    def layer_norm(x, scale, bias):
        return jax.nn.standardize(x, epsilon=1e-5) * scale + bias

    x = layer_norm(p["embed"][tokens], p["s"], p["b"])
    return layer_norm(x, p["t"], p["c"]) @ p["embed"].T


# `tanh` pins the table, and no scale is behind it.
def pinned(p, tokens):
    x = jnp.tanh(p["embed"][tokens])
    x = rms(x + jnp.tanh(x @ p["w"]))
    return x @ p["embed"].T  # pinned


CASES.case(
    "tied, pinned, without a scale",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "w": (n, n)},
    refused=at(__file__, "pinned"),
)(pinned)


@CASES.case(
    "√n on an embedding, sinusoids beside it",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "head": (n, VOCABULARY)},
    """
    embed   - out*   1   7   7^-1/2
    head    in* -    7   1   1
    """,
)
def _(p, tokens):
    n = p["embed"].shape[1]
    angles = jnp.arange(LENGTH)[:, None] * 1e4 ** -(jnp.arange(0, n, 2) / n)
    x = p["embed"][tokens] * jnp.sqrt(n) + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return rms(x) @ p["head"]


# A class token is a row beside the others, so theirs must be of its order.
@CASES.case(
    "√n on an embedding, a token of its own beside it",
    "n",
    lambda n, **_: {**embedded(n), "token": (1, 1, n), "w": (n, n)},
    """
    embed   - out*     1   7   7^-1/2
    token   - - out*   1   7   1
    w       in* out*   7   7   1
    head    in* -      7   1   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens] * math.sqrt(p["w"].shape[0])
    x = jnp.concatenate([jnp.broadcast_to(p["token"], (len(x), 1, x.shape[-1])), x], 1)
    return (x + jnp.tanh(x @ p["w"]))[:, 0] @ p["head"]


# A table looked up by a product with one-hot vectors is summed over a vocabulary that stays.
@CASES.case(
    "one-hot embedding",
    "n",
    embedded,
    """
    embed   in out*   1   7   1
    head    in* -     7   1   1
    """,
)
def _(p, tokens):
    return jnp.tanh(jax.nn.one_hot(tokens, VOCABULARY) @ p["embed"]) @ p["head"]


# The model divides by the width itself: nothing is missing.
@CASES.case(
    "tied, divided by the width",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "w": (n, n)},
    """
    embed   - out*     1   7   1
    w       in* out*   7   7   1
    """,
)
def _(p, tokens):
    x = jnp.tanh(p["embed"][tokens] @ p["w"])
    return x @ p["embed"].T / x.shape[-1]


# T5 and PaLM: √n on the way in and 1/√n on the way out. The table has r^-½ for the first, and its
# product with a stream of order 0, r · r^-½, is divided by the second.
@CASES.case(
    "tied, √n and its inverse",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "w": (n, n), "norm": (n,)},
    """
    embed   - out*     1   7   7^-1/2
    w       in* out*   7   7   1
    norm    out*       1   7   1
    """,
)
def _(p, tokens):
    n = p["norm"].shape[0]
    x = p["embed"][tokens] * math.sqrt(n)
    x = jnp.tanh(x) + jnp.tanh(rms(x) @ p["w"])
    return rms(x, p["norm"]) @ p["embed"].T / math.sqrt(n)


# bfloat16 rounds √112 to 10.5625: the factor is the width's root all the same.
@CASES.case(
    "√n in bfloat16",
    "n",
    embedded,
    """
    embed   - out*   1   7   7^-1/2
    head    in* -    7   1   1
    """,
)
def _(p, tokens):
    table = p["embed"].astype(jnp.bfloat16)
    x = table[tokens] * jnp.sqrt(table.shape[1]).astype(jnp.bfloat16)
    return jnp.tanh(x) @ p["head"].astype(jnp.bfloat16)


# BERT: a layer and a norm of its own before the tied logits, a bias behind, and a second head. A
# norm follows the tables, so either they or the last norm can be smaller.
@CASES.case(
    "tied behind a layer of its own",
    "n",
    lambda n, **_: {
        "embed": (VOCABULARY, n),
        "positions": (LENGTH, n),
        "transform": (n, n),
        "norm_scale": (n,),
        "norm_bias": (n,),
        "bias": (VOCABULARY,),
        "pooled": (n, n),
        "next": (n, 2),
    },
    """
    embed       - out*     1   7   ?
    positions   - out*     1   7   ?
    transform   in* out*   7   7   1
    norm_*      out*       1   7   ?
    bias        -          1   1   1
    pooled      in* out*   7   7   1
    next        in* -      7   1   1
    """,
    products={
        "embed * norm_scale": "7^-1",
        "embed * norm_bias": "7^-1",
        "positions * norm_scale": "7^-1",
    },
)
def _(p, tokens):
    x = rms(p["embed"][tokens] + p["positions"])
    h = rms(jax.nn.gelu(x @ p["transform"]), p["norm_scale"]) + p["norm_bias"]
    return h @ p["embed"].T + p["bias"], jnp.tanh(x[:, 0] @ p["pooled"]) @ p["next"]


# ALBERT: a table of a fixed size, and the kernel behind it tied with it.
@CASES.case(
    "tied in two factors",
    "n",
    lambda n, **_: {"table": (VOCABULARY, 4), "up": (4, n), "w": (n, n), "norm": (n,)},
    """
    table   - in       1   1   1
    up      in out*    1   7   1
    w       in* out*   7   7   1
    norm    out*       1   7   7^-1
    """,
)
def _(p, tokens):
    x = p["table"][tokens] @ p["up"]
    x = rms(x + jnp.tanh(x @ p["w"]), p["norm"])
    return x @ p["up"].T @ p["table"].T


# Squared distances to prototypes are sums over the width of squares: both sides have r^-½.
@CASES.case(
    "distances to prototypes",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "w": (n, n), "prototypes": (3, n)},
    """
    embed        - out*     1   7   1
    w            in* out*   7   7   7^-1/2
    prototypes   - out*     1   7   7^-1/2
    """,
)
def _(p, tokens):
    x = jnp.tanh(p["embed"][tokens]) @ p["w"]
    return -jnp.sum((x[:, :, None] - p["prototypes"]) ** 2, -1)


# The nearest code is the nearest, whatever distances grow as.
@CASES.case(
    "quantized vectors",
    "n",
    lambda n, **_: {"in": (5, n), "codes": (7, n), "head": (n, 3)},
    """
    in      in out*   1   7   1
    codes   - out*    1   7   1
    head    in* -     7   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    x = x @ p["in"]
    distances = jnp.sum(p["codes"] ** 2, -1) - 2 * x @ p["codes"].T
    nearest = p["codes"][jnp.argmin(distances, -1)]
    return (x + jax.lax.stop_gradient(nearest - x)) @ p["head"], nearest - x


# √n goes through whatever is homogeneous: a ReLU, a maximum, sums of segments, experts of sorted
# tokens, rows that are written.
def through(name, shapes, answer):
    def add(function):
        def model(p, tokens):
            x = p["embed"][tokens.reshape(-1)] * math.sqrt(p["embed"].shape[1])
            return jnp.tanh(function(p, x, tokens)) @ p["head"]

        table = "embed   - out*   1   7   7^-1/2\nhead   in* -   7   1   1\n" + answer

        def every(n, **_):
            return {**embedded(n), **shapes(n)}

        CASES.case(f"√n through {name}", "n", every, table)(model)

    return add


through("a ReLU", lambda n: {}, "")(lambda p, x, _: jax.nn.relu(x))
through("a maximum", lambda n: {"b": (n,)}, "b   out*   1   7   1")(
    lambda p, x, _: jnp.maximum(x, p["b"])
)
through("sums of segments", lambda n: {}, "")(
    lambda p, x, tokens: jax.ops.segment_sum(x, tokens.reshape(-1), 4)
)
through("rows that are written", lambda n: {}, "")(
    lambda p, x, _: jnp.zeros((60, x.shape[-1])).at[: len(x)].set(x)
)
through("a slice that is written", lambda n: {}, "")(
    lambda p, x, tokens: jax.lax.dynamic_update_slice(x, x[:2], (tokens[0, 0], 0))
)
through("a power", lambda n: {}, "")(lambda p, x, _: (jnp.abs(x) + 1e-6) ** 1.5)
through("a largest and an average of neighbours", lambda n: {}, "")(
    lambda p, x, _: nn.avg_pool(nn.max_pool(x, (3,)), (2,))
)

# What is not homogeneous wants what it takes to be of order 0.
CURVES = {
    "sigmoid": jax.nn.sigmoid,
    "erf": jax.lax.erf,
    "sin": jnp.sin,
    "exp": jnp.exp,
    "softplus": jax.nn.softplus,
    "log": lambda x: jnp.log(jnp.abs(x) + 1e-6),
    "clip": lambda x: jnp.clip(x, 0, 6),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def into(curve, p, tokens):
    return curve(p["embed"][tokens] * math.sqrt(p["embed"].shape[1])) @ p["head"]


for name, curve in CURVES.items():
    CASES.case(
        f"√n into {name}",
        "n",
        embedded,
        "embed   - out*   1   7   7^-1/2\nhead   in* -   7   1   1",
    )(functools.partial(into, curve))
