"""Products, recurrences, convolutions and stacks of layers."""

import math

import jax
import jax.numpy as jnp

from zoo.small import (
    BATCH,
    ENDS,
    FEATURES,
    HIDDEN,
    LENGTH,
    Table,
    embedded,
    hidden,
    rms,
)

CASES = Table()


@CASES.case(
    "MLP",
    "nf",
    lambda n, f, **_: {
        "w0": (5, n),
        "b0": (n,),
        "w1": (n, f),
        "b1": (f,),
        "w2": (f, 3),
        "b2": (3,),
    },
    """
    w0   in out*    1   7   1
    b0   out*       1   7   1
    w1   in* out*   7   5   1
    b1   out*       1   5   1
    w2   in* -      5   1   1
    b2   -          1   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    x = jnp.tanh(jax.nn.relu(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])
    return x @ p["w2"] + p["b2"]


@CASES.case(
    "LSTM with fused gates",
    "n",
    lambda n, **_: {"wx": (5, 4 * n), "wh": (n, 4 * n), "b": (4 * n,), "head": (n, 3)},
    """
    wx     in out*    1   7   1
    wh     in* out*   7   7   1
    b      out*       1   7   1
    head   in* -      7   1   1
    """,
    inputs=jnp.zeros((BATCH, LENGTH, 5)),
)
def _(p, x):
    def step(carry, now):
        h, c = carry
        i, f, g, o = jnp.split(now @ p["wx"] + h @ p["wh"] + p["b"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zero = jnp.zeros((x.shape[0], p["wh"].shape[0]))
    (h, _), _ = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))
    return h @ p["head"]


# NTK-style: 1/√n on what muP wants of order 0 asks for √r, and 1/n behind the readout for r.
@CASES.case(
    "NTK parametrization",
    "n",
    lambda n, **_: {"w0": (5, n), "w1": (n, n), "w2": (n, 3)},
    """
    w0   in out*    1   7   1
    w1   in* out*   7   7   7^1/2
    w2   in* -      7   1   7
    """,
    inputs=FEATURES,
)
def _(p, x):
    n = p["w1"].shape[0]
    return jnp.tanh(jnp.tanh(x @ p["w0"]) @ p["w1"] / math.sqrt(n)) @ p["w2"] / n


# A vector of gains, coordinates of order 0, summed over: the readout's 1/r as a forward gain.
@CASES.case(
    "readout by product and sum",
    "n",
    lambda n, **_: {"w0": (5, n), "w": (n,)},
    """
    w0   in out*   1   7   1
    w    out*      1   7   7^-1
    """,
    inputs=FEATURES,
)
def _(p, x):
    x = jnp.tanh(x @ p["w0"])
    x = x - x.mean(-1, keepdims=True)
    return (x * p["w"]).sum(-1)


@CASES.case(
    "members of an ensemble",
    "n",
    lambda n, **_: {"w0": (3, 5, n), "g": (3, n), "w1": (3, n, n), "w2": (3, n, 2)},
    """
    w0   - in out*    1   7   1
    g    - out*       1   7   1
    w1   - in* out*   7   7   1
    w2   - in* -      7   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    def member(p):
        return jnp.tanh((jnp.tanh(x @ p["w0"]) * p["g"]) @ p["w1"]) @ p["w2"]

    return jax.vmap(member)(p)


@CASES.case(
    "layers stacked on axis 1",
    "n",
    lambda n, **_: {**embedded(n), "w": (n, 3, n), "b": (n, 3)},
    ENDS + "w   in* - out*   7   7   1\nb   out* -   1   7   1",
)
def _(p, tokens):
    def layer(x, now):
        w, b = now
        return x + jnp.tanh(x @ w + b), None

    stacked = jnp.moveaxis(p["w"], 1, 0), jnp.moveaxis(p["b"], 1, 0)
    return jax.lax.scan(jax.checkpoint(layer), p["embed"][tokens], stacked)[0] @ p["head"]


@CASES.case(
    "one layer many times",
    "n",
    lambda n, **_: {**embedded(n), "w": (n, n), "norm": (n,)},
    ENDS + HIDDEN + "norm   out*   1   7   1",
)
def _(p, tokens):
    def layer(_, x):
        return x + jnp.tanh(rms(x, p["norm"]) @ p["w"])

    return jax.lax.fori_loop(0, 12, layer, p["embed"][tokens]) @ p["head"]


@CASES.case(
    "convolutions: plain, depthwise, grouped, transposed",
    "n",
    lambda n, **_: {
        "stem": (3, 3, n),
        "depthwise": (3, 1, n),
        "grouped": (3, n // 2, n),
        "transposed": (2, n, n),
        "norm": (n,),
        "head": (n, 3),
    },
    """
    stem         - in out*     1   7   1
    depthwise    - in out*     1   7   1
    grouped      - in* out*    7   7   1
    transposed   - in* out*    7   7   1
    norm         out*          1   7   1
    head         in* -         7   1   1
    """,
    inputs=jnp.zeros((BATCH, 8, 3)),
)
def _(p, x):
    def conv(x, kernel, groups=1):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, p[kernel], (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    x = conv(x, "stem")
    x = jax.nn.relu(conv(x, "depthwise", x.shape[-1]))
    x = jax.nn.relu(conv(rms(x, p["norm"]), "grouped", 2))
    x = jax.lax.conv_transpose(x, p["transposed"], (2,), "SAME")
    return x.mean(1) @ p["head"]


# RWKV: decays and bonuses of each feature, sums of exponentials over sums of exponentials.
@CASES.case(
    "weighted keys and values in a recurrence",
    "n",
    lambda n, **_: {
        **embedded(n),
        **dict.fromkeys(("mix", "decay", "bonus"), (n,)),
        **dict.fromkeys(("r", "k", "v", "o"), (n, n)),
    },
    ENDS
    + """
    mix      out*       1   7   1
    decay    out*       1   7   1
    bonus    out*       1   7   1
    [rkvo]   in* out*   7   7   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    x = x * p["mix"] + before * (1 - p["mix"])
    r, k, v = x @ p["r"], x @ p["k"], x @ p["v"]

    def step(sums, now):
        k, v = now
        above, below = sums
        extra = jnp.exp(p["bonus"] + k)
        out = (above + extra * v) / (below + extra)
        keep = jnp.exp(-jnp.exp(p["decay"]))
        return (keep * above + jnp.exp(k) * v, keep * below + jnp.exp(k)), out

    zero = jnp.zeros_like(x[:, 0])
    _, y = jax.lax.scan(step, (zero, zero), (k.swapaxes(0, 1), v.swapaxes(0, 1)))
    return (x + jax.nn.sigmoid(r) * y.swapaxes(0, 1) @ p["o"]) @ p["head"]


# Hyena: a filter over time for each feature, by Fourier transforms.
@CASES.case(
    "convolutions by Fourier transforms",
    "n",
    lambda n, **_: {**embedded(n), "filter": (LENGTH, n), "skip": (n,)},
    ENDS + "filter   - out*   1   7   1\nskip   out*   1   7   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    size = 2 * LENGTH
    transformed = jnp.fft.rfft(x, size, 1) * jnp.fft.rfft(p["filter"], size, 0)
    y = jnp.fft.irfft(transformed, size, 1)[:, :LENGTH]
    return jnp.tanh(y + p["skip"] * x) @ p["head"]


# ConvNeXt: a scale of each feature on what a block writes, and a norm of groups written by hand.
@CASES.case(
    "scales of layers, norms of groups",
    "nf",
    lambda n, f, **_: {
        **embedded(n),
        "up": (n, f),
        "down": (f, n),
        "layer_scale": (n,),
        "scale": (n,),
    },
    ENDS
    + """
    up        in* out*   7   5   1
    down      in* out*   5   7   1
    *scale    out*       1   7   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    groups = x.reshape(*x.shape[:2], 4, -1)
    groups = groups - groups.mean(-1, keepdims=True)
    h = rms(groups).reshape(x.shape) * p["scale"]
    x = x + p["layer_scale"] * (jax.nn.relu(h @ p["up"]) ** 2 @ p["down"])
    return x @ p["head"]


# Rare operations, all linear or of what is of order 0.
@CASES.case("rare operations", "n", hidden, ENDS + HIDDEN)
def _(p, tokens):
    first, *others = jnp.unstack(p["embed"][tokens], axis=1)
    x = jax.device_put(first) + sum(others)
    x = jnp.tanh(x @ p["w"])
    return jnp.log2(1 + x * x) @ p["head"]


# A sum that runs over the width has as many terms at its end as a sum.
@CASES.case(
    "running sum over the width",
    "n",
    embedded,
    """
    embed   - out*   1   7   7^-1
    head    in* -    7   1   1
    """,
)
def _(p, tokens):
    return jnp.tanh(jnp.cumsum(p["embed"][tokens], -1)) @ p["head"]
