"""The smallest models that show one thing each, as plain functions of a dict of arrays."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from zoo.case import Case, at

BATCH, LENGTH, VOCABULARY = 2, 6, 11
TOKENS = jnp.zeros((BATCH, LENGTH), jnp.int32)
FEATURES = jnp.zeros((BATCH, 5))
CASES: dict[str, Case] = {}
SIZES = {"n": (16, 7), "d": (4, 2), "h": (2, 3), "f": (24, 5), "e": (4, 3)}
"""Base sizes and what they grow by: width, head size, heads, hidden width, experts."""


def case(
    name, grows, shapes, answer, inputs=TOKENS, refused="", finding="", **products
) -> Callable:
    """Adds the model that a function of arrays is, whose shapes follow from sizes.

    Args:
      name: Name of the case.
      grows: Names of the sizes that grow, a letter each; the others are the base model's.
      shapes: Function of all sizes that returns the shapes of the parameters.
      answer: Table of the answer.
      inputs: What the model is called with.
      refused: Pattern of the error, if one is expected.
      finding: Pattern of the warning, if one is expected.
      products: Products of gains, by names with `_x_` between them.
    """

    def make_model(**sizes):
        sizes = {key: base for key, (base, _) in SIZES.items()} | sizes
        return {name: jnp.ones(shape) for name, shape in shapes(**sizes).items()}

    def add(function):
        CASES[name] = Case(
            make_model,
            answer,
            base={key: SIZES[key][0] for key in grows},
            target={key: math.prod(SIZES[key]) for key in grows},
            inputs=inputs,
            apply=function,
            refused=refused,
            finding=finding,
            products={key.replace("_x_", " * "): value for key, value in products.items()},
        )
        return function

    return add


def rms(x, scale=1.0):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def attended(q, k, v, scale):
    """Attention of `(batch, length, heads, head_size)`."""
    logits = jnp.einsum("bthd,bshd->bhts", q, k) * scale
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)


def attention(p, x, scale):
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    return jnp.einsum("bthd,hdn->btn", attended(q, k, v, scale), p["o"])


def embedded(n, **_):
    return {"embed": (VOCABULARY, n), "head": (n, VOCABULARY)}


def with_attention(n, h, d, **_):
    to_heads = dict.fromkeys("qkv", (n, h, d))
    return {**embedded(n), **to_heads, "o": (h, d, n)}


ENDS = """
embed   - out*   1   7   1
head    in* -    7   1   1
"""
LARGER_HEADS = """
[kv]   in* - out*    7   2   1
o      in in* out*   2   7   1
"""

# ---- products, biases, recurrences


@case(
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
    FEATURES,
)
def _(p, x):
    x = jnp.tanh(jax.nn.relu(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])
    return x @ p["w2"] + p["b2"]


@case(
    "LSTM with fused gates",
    "n",
    lambda n, **_: {"wx": (5, 4 * n), "wh": (n, 4 * n), "b": (4 * n,), "head": (n, 3)},
    """
    wx     in out*    1   7   1
    wh     in* out*   7   7   1
    b      out*       1   7   1
    head   in* -      7   1   1
    """,
    jnp.zeros((BATCH, LENGTH, 5)),
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
@case(
    "NTK parametrization",
    "n",
    lambda n, **_: {"w0": (5, n), "w1": (n, n), "w2": (n, 3)},
    """
    w0   in out*    1   7   1
    w1   in* out*   7   7   7^1/2
    w2   in* -      7   1   7
    """,
    FEATURES,
)
def _(p, x):
    n = p["w1"].shape[0]
    return jnp.tanh(jnp.tanh(x @ p["w0"]) @ p["w1"] / math.sqrt(n)) @ p["w2"] / n


# A vector of gains, coordinates of order 0, summed over: the readout's 1/r as a forward gain.
@case(
    "readout by product and sum",
    "n",
    lambda n, **_: {"w0": (5, n), "w": (n,)},
    """
    w0   in out*   1   7   1
    w    out*      1   7   7^-1
    """,
    FEATURES,
)
def _(p, x):
    x = jnp.tanh(x @ p["w0"])
    x = x - x.mean(-1, keepdims=True)
    return (x * p["w"]).sum(-1)


# ---- attention


@case(
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


@case("1/d", "nd", with_attention, ENDS + LARGER_HEADS + "q   in* - out*   7   2   1")
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, 1 / p["q"].shape[-1])) @ p["head"]


# T5 divides by nothing: all of d is missing.
@case("no scale", "nd", with_attention, ENDS + LARGER_HEADS + "q   in* - out*   7   2   2^-1")
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, 1.0)) @ p["head"]


@case(
    "learned temperature",
    "nd",
    lambda **sizes: {**with_attention(**sizes), "t": (2, 1, 1)},
    ENDS + LARGER_HEADS + "q   in* - out*   7   2   2^-1\nt   - - -   1   1   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + attention(p, x, jnp.exp(p["t"]))) @ p["head"]


# Of unit vectors the product is of order 0 already.
@case(
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


@case(
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
@case(
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
    qs_x_ks="2^-1/2",
    qb_x_ks="2^-1/2",
)
def _(p, tokens):
    x = p["embed"][tokens]
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    q, k = rms(q, p["qs"]) + p["qb"], rms(k, p["ks"])
    y = attended(q, k, v, q.shape[-1] ** -0.5)
    return (x + jnp.einsum("bthd,hdn->btn", y, p["o"])) @ p["head"]


# Latent queries and no bias: the latents or their kernel.
@case(
    "latents that attend",
    "n",
    lambda n, **_: {**embedded(n), "latents": (3, n), "q": (n, n), "k": (n, n)},
    ENDS
    + """
    latents   - out*     1   7   ?
    q         in* out*   7   7   ?
    k         in* out*   7   7   1
    """,
    latents_x_q="7^-1/2",
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


case(
    "packed, heads grow",
    "nh",
    with_packed,
    ENDS + "qkv   in* out*   7   3   1\no   in* out*   3   7   1",
)(functools.partial(packed, d=4))
# One gain g for queries, keys and values: g² for the logits, and 1/g behind the values.
case(
    "packed, head size grows",
    "nd",
    with_packed,
    ENDS + "qkv   in* out*   7   2   2^-1/4\no   in* out*   2   7   2^1/4",
)(lambda p, tokens: packed(p, tokens, p["o"].shape[0] // 2))


# A concatenated kernel is not one tensor: queries alone could carry it, but they are multiplied
# beside the keys, and each may have a gain of its own.
@case(
    "kernels of queries and keys beside each other",
    "n",
    lambda n, **_: {**embedded(n), "q": (n, n), "k": (n, n), "w": (3, n, n)},
    ENDS
    + """
    q   in* out*     7   7   ?
    k   in* out*     7   7   ?
    w   - in* out*   7   7   1
    """,
    q_x_k="7^-1/2",
)
def _(p, tokens):
    x = p["embed"][tokens]
    x = jax.lax.fori_loop(0, 3, lambda i, x: x + jnp.tanh(x @ p["w"][i]), x)
    q, k = jnp.split(x @ jnp.concatenate([p["q"], p["k"]], 1), 2, -1)
    logits = q @ k.swapaxes(1, 2) / math.sqrt(x.shape[-1])
    return (jax.nn.softmax(logits) @ x) @ p["head"]


# The biases that relative positions add are of order 0, one a head.
@case(
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
@case(
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
@case(
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
@case(
    "mean over heads",
    "nh",
    lambda n, h, **_: {**embedded(n), "w": (n, h, n)},
    ENDS + "w   in* out* out*   7   21   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (x + jnp.tanh(jnp.einsum("btn,nhm->bthm", x, p["w"])).mean(2)) @ p["head"]


# ---- ties and the size of embeddings


# What the norm carries for the tied readout the second readout undoes.
@case(
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
@case(
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


# `tanh` pins the table, and no scale is behind it.
def pinned(p, tokens):
    x = jnp.tanh(p["embed"][tokens])
    x = rms(x + jnp.tanh(x @ p["w"]))
    return x @ p["embed"].T  # pinned


case(
    "tied, pinned, without a scale",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "w": (n, n)},
    "",
    refused=at(__file__, "pinned"),
)(pinned)


@case(
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


# A table looked up by a product with one-hot vectors is summed over a vocabulary that stays.
@case(
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


# ---- weights of weights, weights of activations

HIDDEN = """
w      in* out*   7   7   1
"""


def hidden(n, **_):
    return {**embedded(n), "w": (n, n)}


@case(
    "weight norm",
    "n",
    lambda n, **_: {**hidden(n), "g": (n,)},
    ENDS + HIDDEN + "g   out*   1   7   1",
)
def _(p, tokens):
    w = p["w"] * jax.lax.rsqrt(jnp.sum(p["w"] ** 2, 0)) * p["g"]
    return jnp.tanh(p["embed"][tokens] @ w) @ p["head"]


@case("weight standardization", "n", hidden, ENDS + HIDDEN)
def _(p, tokens):
    w = p["w"] - p["w"].mean(0)
    w = w * jax.lax.rsqrt(jnp.var(w, 0) * w.shape[0] + 1e-10)
    return jnp.tanh(p["embed"][tokens] @ w) @ p["head"]


# Both of unit length: their product is of order 0, and the temperature's.
@case(
    "cosine classifier",
    "n",
    lambda n, **_: {**embedded(n), "t": ()},
    ENDS + "t   ()   1   1   1",
)
def _(p, tokens):
    x, w = jnp.tanh(p["embed"][tokens]), p["head"]
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.exp(p["t"]) * x @ (w / jnp.linalg.norm(w, axis=0))


@case("connections that are dropped", "n", hidden, ENDS + HIDDEN, (TOKENS, jnp.zeros(())))
def _(p, tokens, seed):
    key = jax.random.key(seed.astype(jnp.uint32))
    kept = jax.random.bernoulli(key, 0.5, p["w"].shape)
    return jnp.tanh(p["embed"][tokens] @ (p["w"] * kept)) @ p["head"]


@case(
    "experts that are looked up",
    "n",
    lambda n, **_: {**embedded(n), "experts": (4, n, n)},
    ENDS + "experts   - in* out*   7   7   1",
    (TOKENS, TOKENS),
)
def _(p, tokens, which):
    x = jnp.einsum("bti,btij->btj", p["embed"][tokens], p["experts"][which])
    return jnp.tanh(x) @ p["head"]


# A convex combination of matrices is one, but no parameter: refused rather than guessed.
def merged_softly(p, tokens):
    x = p["embed"][tokens]
    gates = jax.nn.softmax(x.mean(1) @ p["router"])
    merged = jnp.einsum("be,eij->bij", gates, p["experts"])
    return jnp.tanh(jnp.einsum("bti,bij->btj", x, merged)) @ p["head"]  # merged


case(
    "experts that are merged softly",
    "n",
    lambda n, **_: {**embedded(n), "experts": (4, n, n), "router": (n, 4)},
    "",
    refused=at(__file__, "merged"),
)(merged_softly)


def mixture(p, tokens):
    """All experts, each by its part of a softmax."""
    x = p["embed"][tokens]
    y = jnp.tanh(jnp.einsum("bti,eij->btej", x, p["experts"]))
    return jnp.einsum("bte,btej->btj", jax.nn.softmax(x @ p["router"]), y) @ p["head"]


case(
    "a dense mixture of experts",
    "n",
    lambda n, e, **_: {**embedded(n), "experts": (e, n, n), "router": (n, e)},
    ENDS + "experts   - in* out*   7   7   1\nrouter   in* -   7   1   1",
)(mixture)
# Softmax over more and more experts has entries of 1/E, so that their sum stays.
case(
    "a dense mixture of more experts",
    "ne",
    lambda n, e, **_: {**embedded(n), "experts": (e, n, n), "router": (n, e)},
    ENDS + "experts   batch* in* out*   7   7   1\nrouter   in* out*   7   3   1",
)(mixture)


# Blocks a head, whose outputs a kernel sums over: the heads' axis is one of features.
@case(
    "block-diagonal matrices",
    "h",
    lambda h, **_: {"in": (5, h, 4), "blocks": (h, 4, 4), "head": (4 * h, 3)},
    """
    in       in out* -     1   3   1
    blocks   out* in -     1   3   1
    head     in* -         3   1   1
    """,
    FEATURES,
)
def _(p, x):
    x = jnp.tanh(jnp.einsum("bi,ihd->bhd", x, p["in"]))
    x = jnp.tanh(jnp.einsum("bhi,hij->bhj", x, p["blocks"]))
    return x.reshape(x.shape[0], -1) @ p["head"]


# ---- stacks


@case(
    "members of an ensemble",
    "n",
    lambda n, **_: {"w0": (3, 5, n), "g": (3, n), "w1": (3, n, n), "w2": (3, n, 2)},
    """
    w0   - in out*    1   7   1
    g    - out*       1   7   1
    w1   - in* out*   7   7   1
    w2   - in* -      7   1   1
    """,
    FEATURES,
)
def _(p, x):
    def member(p):
        return jnp.tanh((jnp.tanh(x @ p["w0"]) * p["g"]) @ p["w1"]) @ p["w2"]

    return jax.vmap(member)(p)


@case(
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


@case(
    "one layer many times",
    "n",
    lambda n, **_: {**embedded(n), "w": (n, n), "norm": (n,)},
    ENDS + HIDDEN + "norm   out*   1   7   1",
)
def _(p, tokens):
    def layer(_, x):
        return x + jnp.tanh(rms(x, p["norm"]) @ p["w"])

    return jax.lax.fori_loop(0, 12, layer, p["embed"][tokens]) @ p["head"]


# ---- convolutions


@case(
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
    jnp.zeros((BATCH, 8, 3)),
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


# ---- a selective state space, with the time in an associative scan or in a loop


def selective(p, tokens, joined):
    h = p["embed"][tokens]
    rank, state = p["dt"].shape[0], p["A_log"].shape[1]
    x, z = jnp.split(rms(h, p["norm"]) @ p["in"], 2, -1)
    padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    x = sum(padded[:, i : i + x.shape[1]] * p["conv"][i] for i in range(3))
    x = jax.nn.silu(x + p["conv_bias"])
    dt, write, read = jnp.split(x @ p["x"], [rank, rank + state], -1)
    dt = jax.nn.softplus(dt @ p["dt"] + p["dt_bias"])
    decay = jnp.exp(-dt[..., None] * jnp.exp(p["A_log"]))
    entering = (dt * x)[..., None] * write[:, :, None]
    states = joined(decay, entering)
    y = jnp.einsum("btdn,btn->btd", states, read) + p["D"] * x
    return (h + (y * jax.nn.silu(z)) @ p["out"]) @ p["head"]


def by_associative_scan(decay, entering):
    def joined(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(joined, (decay, entering), axis=1)[1]


def by_scan(decay, entering):
    def step(state, now):
        state = now[0] * state + now[1]
        return state, state

    inputs = decay.swapaxes(0, 1), entering.swapaxes(0, 1)
    return jax.lax.scan(step, jnp.zeros_like(entering[:, 0]), inputs)[1].swapaxes(0, 1)


for name, joined in {"associative scan": by_associative_scan, "scan": by_scan}.items():
    # The steps' low rank stays, so `x` is a readout and `dt` an embedding.
    case(
        f"selective state space, {name}",
        "nf",
        lambda n, f, **_: {
            **embedded(n),
            "norm": (n,),
            "in": (n, 2 * f),
            "conv": (3, f),
            "conv_bias": (f,),
            "x": (f, 2 + 2 * 4),
            "dt": (2, f),
            "dt_bias": (f,),
            "A_log": (f, 4),
            "D": (f,),
            "out": (f, n),
        },
        ENDS
        + """
        norm        out*       1   7   1
        in          in* out*   7   5   1
        conv        - out*     1   5   1
        conv_bias   out*       1   5   1
        x           in* -      5   1   1
        dt          in out*    1   5   1
        dt_bias     out*       1   5   1
        A_log       out* -     1   5   1
        D           out*       1   5   1
        out         in* out*   5   7   1
        """,
    )(functools.partial(selective, joined=joined))


# ---- what cannot be read off, or not at every size


# Two heads at base, six at target: as many equations more.
def loop_over_heads(p, tokens):
    x = p["embed"][tokens]
    for i in range(p["q"].shape[1]):
        q, k = x @ p["q"][:, i], x @ p["k"][:, i]
        x = x + jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1]) @ x
    return x @ p["head"]


case("a loop over heads", "nh", with_attention, "", refused="same at all sizes.*small.py")(
    loop_over_heads
)


def with_parallel(n, h, d, f, **_):
    return {**embedded(n), "in": (n, 3 * h * d + f), "o": (h * d, n), "down": (f, n)}


def parallel(p, tokens):
    """Attention and feed-forward layer beside each other, of one product."""
    x = p["embed"][tokens]
    inner = p["o"].shape[0]
    q, k, v, u = jnp.split(x @ p["in"], [inner, 2 * inner, 3 * inner], -1)  # parts
    q, k, v = (a.reshape(*a.shape[:2], -1, 4) for a in (q, k, v))
    y = attended(q, k, v, 0.5).reshape(*x.shape[:2], -1)
    return (x + y @ p["o"] + jax.nn.gelu(u) @ p["down"]) @ p["head"]


# Parts of one axis that grow alike are one axis ...
case(
    "a parallel block, parts alike",
    "nh",
    lambda n, h, d, **_: with_parallel(n, h, d, 4 * h * d),
    ENDS
    + """
    in     in* out*   7   3   1
    o      in* out*   3   7   1
    down   in* out*   3   7   1
    """,
)(parallel)
# ... and where they do not, only the target shows it, if delta is twice the base model.
case("a parallel block, parts apart", "nhf", with_parallel, "", finding=at(__file__, "parts"))(
    parallel
)

# ---- layers of Flax, Equinox and Haiku


class Mha(nnx.Module):
    def __init__(self, n, h, d, normalize_qk=False, *, rngs):
        self.embed = nnx.Embed(VOCABULARY, n, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            h, n, h * d, decode=False, normalize_qk=normalize_qk, rngs=rngs
        )
        self.head = nnx.Linear(n, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.head(x + self.attention(x))


class LinenMha(nn.Module):
    n: int
    h: int
    d: int
    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, self.n, name="embed")
        x = embed(tokens)
        layer = nn.MultiHeadDotProductAttention(
            self.h, qkv_features=self.h * self.d, name="attention"
        )
        x = x + layer(x, x)
        return (
            embed.attend(nn.LayerNorm(name="ln")(x)) if self.tied else nn.Dense(9, name="head")(x)
        )


class LinenScan(nn.Module):
    """Layers in a scan, each computed again for its gradient."""

    n: int
    h: int
    d: int
    f: int

    @nn.compact
    def __call__(self, tokens):
        class Block(nn.Module):
            h: int
            d: int
            f: int

            @nn.compact
            def __call__(self, x, _):
                h = nn.LayerNorm(name="ln1")(x)
                q, k, v = (nn.DenseGeneral((self.h, self.d), name=name)(h) for name in "qkv")
                y = attended(q, k, v, self.d**-0.5)
                x = x + nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="o")(y)
                h = nn.gelu(nn.Dense(self.f, name="up")(nn.LayerNorm(name="ln2")(x)))
                return x + nn.Dense(x.shape[-1], name="down")(h), None

        x = nn.Embed(VOCABULARY, self.n, name="embed")(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.1), (LENGTH, self.n))
        stack = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = stack(self.h, self.d, self.f, name="blocks")(x, None)
        return nn.Dense(VOCABULARY, name="head")(nn.LayerNorm(name="ln")(x))


class EquinoxTransformer(eqx.Module):
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, n, d, f, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Embedding(VOCABULARY, n, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(
            2, n, qk_size=d, vo_size=d, use_query_bias=True, key=keys[1]
        )
        self.norm = eqx.nn.LayerNorm(n)
        self.mlp = eqx.nn.MLP(n, n, f, 1, key=keys[2])
        self.head = eqx.nn.Linear(n, VOCABULARY, key=keys[3])

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        h = jax.vmap(self.norm)(x)
        x = x + self.attention(h, h, h)
        x = x + jax.vmap(self.mlp)(x)
        return jax.vmap(self.head)(x)


def haiku_mlp(n, f, key):
    function = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([n, f, 3])(x)))
    return {"params": function.init(key, FEATURES), "apply": function.apply}


def _layers(make_model, grows, answer, inputs=TOKENS, apply=None, **products):
    base = {key: SIZES[key][0] for key in grows}
    target = {key: math.prod(SIZES[key]) for key in grows}
    products = {key.replace("__", "/").replace("_x_", " * "): x for key, x in products.items()}
    return Case(make_model, answer, base, target, inputs, apply, products=products)


def mha(query, bias, out="attention/out", n="embed/embedding"):
    return f"""
    {n}                                    - out*          1   7   1
    attention/query/kernel                 in* out* out*   7   6   {query}
    attention/query/bias                   out* out*       1   6   {bias}
    attention/key/kernel                   in* out* out*   7   6   1
    attention/key/bias                     out* out*       1   6   1
    attention/value/kernel                 in* out* out*   7   6   1
    attention/value/bias                   out* out*       1   6   1
    {out}/kernel                           in* in* out*    6   7   1
    {out}/bias                             out*            1   7   1
    """


DENSE = "head/kernel   in* -   7   1   1\nhead/bias   -   1   1   1"
CASES |= {
    "nnx.MultiHeadAttention": _layers(Mha, "nhd", mha("2^-1/2", "2^-1/2") + DENSE),
    "nnx.MultiHeadAttention, normalize_qk": _layers(
        functools.partial(Mha, normalize_qk=True),
        "nhd",
        mha("1", "1")
        + DENSE
        + """
        attention/query_ln/scale   out*   1   2   2^-1/2
        attention/key_ln/scale     out*   1   2   1
        """,
    ),
    "nn.MultiHeadDotProductAttention": _layers(LinenMha, "nhd", mha("2^-1/2", "2^-1/2") + DENSE),
    # The scale and the bias of the last norm carry what the tied logits are too large by.
    "nn.MultiHeadDotProductAttention, Embed.attend": _layers(
        functools.partial(LinenMha, tied=True),
        "nhd",
        mha("2^-1/2", "2^-1/2") + "ln/*   out*   1   7   7^-1",
    ),
    "nn.scan of nn.remat": _layers(
        LinenScan,
        "nhdf",
        """
        embed/embedding        - out*            1   7   1
        positions              - out*            1   7   1
        blocks/q/kernel        - in* out* out*   7   6   2^-1/2
        blocks/q/bias          - out* out*       1   6   2^-1/2
        blocks/[kv]/kernel     - in* out* out*   7   6   1
        blocks/[kv]/bias       - out* out*       1   6   1
        blocks/o/kernel        - in* in* out*    6   7   1
        blocks/o/bias          - out*            1   7   1
        blocks/up/kernel       - in* out*        7   5   1
        blocks/up/bias         - out*            1   5   1
        blocks/down/kernel     - in* out*        5   7   1
        blocks/down/bias       - out*            1   7   1
        blocks/ln?/*           - out*            1   7   1
        ln/*                   out*              1   7   1
        """
        + DENSE,
    ),
    "eqx.nn.MLP": _layers(
        lambda n, key: eqx.nn.MLP(5, 3, n, 2, key=key),
        "n",
        """
        layers/0/weight   out* in    1   7   1
        layers/1/weight   out* in*   7   7   1
        layers/2/weight   - in*      7   1   1
        layers/2/bias     -          1   1   1
        layers/?/bias     out*       1   7   1
        """,
        FEATURES,
        lambda model, x: jax.vmap(model)(x),
    ),
    # Queries have a bias and keys have none, so the keys carry it with one tensor less.
    "eqx.nn.MultiheadAttention": _layers(
        EquinoxTransformer,
        "ndf",
        """
        embed/weight                    - out*      1   7   1
        attention/query_proj/weight     out* in*    7   2   ?
        attention/query_proj/bias       out*        1   2   ?
        attention/key_proj/weight       out* in*    7   2   ?
        attention/value_proj/weight     out* in*    7   2   1
        attention/output_proj/weight    out* in*    2   7   1
        norm/*                          out*        1   7   1
        mlp/layers/0/weight             out* in*    7   5   1
        mlp/layers/0/bias               out*        1   5   1
        mlp/layers/1/weight             out* in*    5   7   1
        mlp/layers/1/bias               out*        1   7   1
        head/weight                     - in*       7   1   1
        head/bias                       -           1   1   1
        """,
        TOKENS,
        lambda model, x: jax.vmap(model)(x),
        attention__query_proj__weight_x_attention__key_proj__weight="2^-1/2",
        attention__query_proj__bias_x_attention__key_proj__weight="2^-1/2",
    ),
    "hk.nets.MLP": _layers(
        haiku_mlp,
        "nf",
        """
        */linear_0/w   in out*    1   7   1
        */linear_0/b   out*       1   7   1
        */linear_1/w   in* out*   7   5   1
        */linear_1/b   out*       1   5   1
        */linear_2/w   in* -      5   1   1
        */linear_2/b   -          1   1   1
        """,
        FEATURES,
        lambda model, x: model["apply"](model["params"], x),
    ),
}
