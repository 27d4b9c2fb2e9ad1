"""Attention under any scale, with queries, keys and values of any tensors."""

import functools
import math

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import (
    ENDS,
    LARGER_HEADS,
    LENGTH,
    VOCABULARY,
    Table,
    attended,
    attention,
    embedded,
    rms,
    with_attention,
)

CASES = Table()


@CASES.case(
    "heads grow",
    "nh",
    with_attention,
    ENDS
    + """
    [qkv]   in* out* -   7   3   1
    o       in* in out*   3   7   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, p["q"].shape[-1] ** -0.5)) @ p["head"]


@CASES.case("1/d", "nd", with_attention, ENDS + LARGER_HEADS + "q   in* - out*   7   2   1")
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, 1 / p["q"].shape[-1])) @ p["head"]


# Two of each head's numbers are rotated and put back before the others: the sum is over all.
@CASES.case(
    "a part of each head is rotated",
    "nd",
    with_attention,
    ENDS + LARGER_HEADS + "q   in* - out*   7   2   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    angles = jnp.arange(LENGTH)[None, :, None, None] * jnp.ones(2)

    def rotated(y):
        a, b = y[..., :2], y[..., 2:]
        turned = jnp.stack([-a[..., 1], a[..., 0]], -1)
        return jnp.concatenate([a * jnp.cos(angles) + turned * jnp.sin(angles), b], -1)

    y = attended(rotated(q), rotated(k), v, 1 / q.shape[-1])
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# T5 divides by nothing: all of d is missing.
@CASES.case("no scale", "nd", with_attention, ENDS + LARGER_HEADS + "q   in* - out*   7   2   2^-1")
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, 1.0)) @ p["head"]


@CASES.case(
    "learned temperature",
    "nd",
    lambda **sizes: {**with_attention(**sizes), "t": (2, 1, 1)},
    ENDS + LARGER_HEADS + "q   in* - out*   7   2   2^-1\nt   - - -   1   1   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, jnp.exp(p["t"]))) @ p["head"]


# Of unit vectors the product is of order 0 already.
@CASES.case(
    "cosine attention",
    "nd",
    lambda **sizes: {**with_attention(**sizes), "t": (2, 1, 1)},
    ENDS + LARGER_HEADS + "q   in* - out*   7   2   1\nt   - - -   1   1   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    q, k = (a / jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    return (x + jnp.einsum("bthd,hdn->btn", attended(q, k, v, jnp.exp(p["t"])), p["o"])) @ p["head"]


@CASES.case(
    "biases and a soft cap",
    "nd",
    lambda h, d, **sizes: {**with_attention(h=h, d=d, **sizes), "qb": (h, d), "kb": (h, d)},
    ENDS
    + LARGER_HEADS
    + """
    q    in* - out*   7   2   2^-1/2
    qb   - out*       1   2   2^-1/2
    kb   - out*       1   2   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    logits = jnp.einsum("bthd,bshd->bhts", q + p["qb"], k + p["kb"]) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(50 * jnp.tanh(logits / 50))
    y = jnp.einsum("bhts,bshd->bthd", weights, v)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# Behind its norm the query kernel changes nothing. Scale and bias of the norm carry the factor, or
# the keys' scale alone.
@CASES.case(
    "norm of queries with a bias",
    "nd",
    lambda d, **sizes: {**with_attention(d=d, **sizes), "qs": (d,), "qb": (d,), "ks": (d,)},
    ENDS
    + LARGER_HEADS
    + """
    q    in* - out*   7   2   1
    qs   out*         1   2   ?
    qb   out*         1   2   ?
    ks   out*         1   2   ?
    """,
    products={"qs * ks": "2^-1/2", "qb * ks": "2^-1/2"},
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    q, k = rms(q, p["qs"]) + p["qb"], rms(k, p["ks"])
    y = attended(q, k, v, q.shape[-1] ** -0.5)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# Latent queries and no bias: the latents or their kernel.
@CASES.case(
    "latents that attend",
    "n",
    lambda n, **_: {**embedded(n), "latents": (3, n), "q": (n, n), "k": (n, n)},
    ENDS
    + """
    latents   - out*     1   7   ?
    q         in* out*   7   7   ?
    k         in* out*   7   7   1
    """,
    products={"latents * q": "7^-1/2"},
)
def _(p, tokens):
    x = p["embed"][tokens]
    logits = jnp.einsum("ld,btd->blt", p["latents"] @ p["q"], x @ p["k"]) / math.sqrt(x.shape[-1])
    return (jax.nn.softmax(logits) @ x) @ p["head"]


def with_packed(n, h, d, **_):
    return {**embedded(n), "qkv": (n, 3 * h * d), "o": (h * d, n)}


def packed(p, tokens, d):
    x = p["embed"][tokens]
    kernel = p["qkv"].reshape(x.shape[-1], 3, -1, d)
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, kernel[:, i]) for i in range(3))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return (x + y.reshape(*x.shape[:2], -1) @ p["o"]) @ p["head"]


CASES.case(
    "packed, heads grow",
    "nh",
    with_packed,
    ENDS + "qkv   in* out*   7   3   1\no   in* out*   3   7   1",
)(functools.partial(packed, d=4))
# One gain g for queries, keys and values: g² for the logits, and 1/g behind the values.
CASES.case(
    "packed, head size grows",
    "nd",
    with_packed,
    ENDS + "qkv   in* out*   7   2   2^-1/4\no   in* out*   2   7   2^1/4",
)(lambda p, tokens: packed(p, tokens, p["o"].shape[0] // 2))


# A concatenated kernel is not one tensor: queries alone could carry it, but they are multiplied
# beside the keys, and each may have a gain of its own.
@CASES.case(
    "kernels of queries and keys beside each other",
    "n",
    lambda n, **_: {**embedded(n), "q": (n, n), "k": (n, n), "w": (3, n, n)},
    ENDS
    + """
    q   in* out*     7   7   ?
    k   in* out*     7   7   ?
    w   - in* out*   7   7   1
    """,
    products={"q * k": "7^-1/2"},
)
def _(p, tokens):
    x = p["embed"][tokens]
    x = jax.lax.fori_loop(0, 3, lambda i, x: x + jnp.tanh(x @ p["w"][i]), x)
    q, k = jnp.split(x @ jnp.concatenate([p["q"], p["k"]], 1), 2, -1)
    logits = q @ k.swapaxes(1, 2) / math.sqrt(x.shape[-1])
    return (jax.nn.softmax(logits) @ x) @ p["head"]


# The biases that relative positions add are of order 0, one a head.
@CASES.case(
    "biases of relative positions",
    "nh",
    lambda h, **sizes: {**with_attention(h=h, **sizes), "table": (LENGTH, h)},
    ENDS
    + """
    [qkv]   in* out* -    7   3   1
    o       in* in out*   3   7   1
    table   - out*        1   3   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    positions = jnp.arange(LENGTH)
    bias = p["table"][jnp.abs(positions[:, None] - positions)]
    logits = jnp.einsum("bthd,bshd->bhts", q, k) + jnp.moveaxis(bias, -1, 0)
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# A sum over more and more heads grows as their number ...
@CASES.case(
    "sum over heads",
    "nh",
    lambda n, h, **_: {**embedded(n), "w": (n, h, n)},
    ENDS + "w   in* out* out*   7   21   3^-1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + jnp.einsum("btn,nhm->bthm", jnp.tanh(x), p["w"]).sum(2)) @ p["head"]


# ... also if nothing before `tanh` can make it smaller: then the stream grows as it does, and all
# that reads it has the inverse.
@CASES.case(
    "sum over heads behind tanh",
    "nh",
    lambda n, h, **_: {**embedded(n), "w": (n, h, n)},
    """
    embed   - out*          1   7    3
    w       in* out* out*   7   21   3^-1
    head    in* -           7   1    3^-1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + jnp.tanh(jnp.einsum("btn,nhm->bthm", x, p["w"])).sum(2)) @ p["head"]


# Their mean does not grow.
@CASES.case(
    "mean over heads",
    "nh",
    lambda n, h, **_: {**embedded(n), "w": (n, h, n)},
    ENDS + "w   in* out* out*   7   21   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + jnp.tanh(jnp.einsum("btn,nhm->bthm", x, p["w"])).mean(2)) @ p["head"]


# Each side divided by the root of the root: the same 1/√d.
@CASES.case(
    "queries and keys both scaled",
    "nd",
    with_attention,
    ENDS + LARGER_HEADS + "q   in* - out*   7   2   2^-1/2",
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    scale = q.shape[-1] ** -0.25
    y = attended(q * scale, k * scale, v, 1)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# Sums over the head size above and below the line: their quotient is of order 0.
@CASES.case(
    "linear attention", "nd", with_attention, ENDS + LARGER_HEADS + "q   in* - out*   7   2   1"
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    summed = jnp.einsum("bshk,bshv->bhkv", k, v)
    y = jnp.einsum("bthk,bhkv->bthv", q, summed)
    y = y / jnp.einsum("bthk,bshk->bth", q, k)[..., None]
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# A temperature of each head has as small a part in the logits as the head.
@CASES.case(
    "temperatures of more and more heads",
    "nh",
    lambda h, **sizes: {**with_attention(h=h, **sizes), "t": (h, 1, 1)},
    ENDS
    + """
    [qkv]   in* out* -    7   3   1
    o       in* in out*   3   7   1
    t       out* - -      1   3   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, jnp.exp(p["t"]))) @ p["head"]


# GPT-2: head size n / heads. One tensor for queries, keys and values has g² = (d0/d)^½, the layer
# behind the values 1/g, and the last norm the tied logits' 1/r.
@CASES.case(
    "packed with biases, tied",
    "n",
    lambda n, **_: {
        "wte": (VOCABULARY, n),
        "wpe": (LENGTH, n),
        "c_attn": (n, 3 * n),
        "c_attn_bias": (3 * n,),
        "c_proj": (n, n),
        "c_proj_bias": (n,),
        "ln_f_scale": (n,),
        "ln_f_bias": (n,),
    },
    """
    wte           - out*     1   7   1
    wpe           - out*     1   7   1
    c_attn        in* out*   7   7   7^-1/4
    c_attn_bias   out*       1   7   7^-1/4
    c_proj        in* out*   7   7   7^1/4
    c_proj_bias   out*       1   7   1
    ln_f_*        out*       1   7   7^-1
    """,
)
def _(p, tokens):
    x = p["wte"][tokens] + p["wpe"][jnp.arange(LENGTH)]
    q, k, v = jnp.split(rms(x) @ p["c_attn"] + p["c_attn_bias"], 3, -1)
    q, k, v = (a.reshape(*a.shape[:2], 2, -1) for a in (q, k, v))
    y = attended(q, k, v, q.shape[-1] ** -0.5).reshape(x.shape)
    x = x + y @ p["c_proj"] + p["c_proj_bias"]
    x = rms(x - x.mean(-1, keepdims=True), p["ln_f_scale"]) + p["ln_f_bias"]
    return x @ p["wte"].T


# Logits of an edge from vectors over the head size: `a` sums over it, head by head, and its heads
# are features of what follows.
@CASES.case(
    "graph attention",
    "nhd",
    lambda n, h, d, **_: {"in": (5, n), "w": (n, h, d), "a": (2, h, d), "out": (h, d, 3)},
    """
    in    in out*         1   7   1
    w     in* out* out*   7   6   1
    a     - out* in*      2   3   1
    out   in* in* -       6   1   1
    """,
    inputs=(jnp.zeros((4, 5)), jnp.zeros(6, jnp.int32), jnp.zeros(6, jnp.int32)),
)
def _(p, nodes, senders, receivers):
    x = jnp.einsum("in,nhd->ihd", jnp.tanh(nodes @ p["in"]), p["w"])
    sent, received = (jnp.einsum("ihd,hd->ih", x, p["a"][i]) for i in range(2))
    logits = jnp.exp(jax.nn.leaky_relu(sent[senders] + received[receivers]))
    total = jax.ops.segment_sum(logits, receivers, 4)
    weights = logits / total[receivers]
    x = jax.ops.segment_sum(weights[..., None] * x[senders], receivers, 4)
    return jnp.einsum("ihd,hdc->ic", x, p["out"])


# Latent attention: a part of each head is rotated and keeps its size. Of one sum of d + 2 terms,
# divided by its root, the d terms want another factor than the two.
@CASES.case(
    "latent keys and values, a part of each head rotated",
    "ne",
    lambda n, e, h, **_: {
        **embedded(n),
        "q": (n, h, e),
        "q_rotated": (n, h, 2),
        "down": (n, 3 * e),
        "k": (3 * e, h, e),
        "k_rotated": (n, 2),
        "v": (3 * e, h, e),
        "o": (h, e, n),
    },
    finding=at(__file__, "parts"),
)
def _(p, tokens):
    x = p["embed"][tokens]
    latent = rms(x @ p["down"])
    q, rotated = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in ("q", "q_rotated"))
    q = jnp.concatenate([q, rotated], -1)  # parts
    k = jnp.einsum("btr,rhd->bthd", latent, p["k"])
    rotated = jnp.broadcast_to((x @ p["k_rotated"])[:, :, None], (*k.shape[:3], 2))
    k = jnp.concatenate([k, rotated], -1)
    v = jnp.einsum("btr,rhd->bthd", latent, p["v"])
    y = attended(q, k, v, q.shape[-1] ** -0.5)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# Reformer: one kernel is on both sides of the product, so its gain is squared.
@CASES.case(
    "queries that are the keys",
    "nd",
    lambda n, h, d, **_: {**embedded(n), **dict.fromkeys("qv", (n, h, d)), "o": (h, d, n)},
    ENDS
    + """
    q   in* - out*    7   2   2^-1/4
    v   in* - out*    7   2   1
    o   in in* out*   2   7   1
    """,
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qv")
    y = attended(q, q, v, q.shape[-1] ** -0.5)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]
