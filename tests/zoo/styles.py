"""Small models in styles of their own, each written as its paper has it."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.case import at
from zoo.small import ENDS, HIDDEN, TOKENS, VOCABULARY, Table, embedded, hidden, rms

CASES = Table()
FEATURES = jnp.zeros((2, 6, 5))


# ---- conditioned

FILM = (
    ENDS
    + """
in      in out*     1   5   1
scale   in* out*    5   7   1
shift   in* out*    5   7   1
"""
)


@CASES.case(
    "FiLM",
    "nf",
    lambda n, f, **_: {**embedded(n), "in": (5, f), "scale": (f, n), "shift": (f, n)},
    FILM,
    inputs=(TOKENS, FEATURES[:, 0]),
)
def _(p, tokens, condition):
    c = jnp.tanh(condition @ p["in"])[:, None]
    return jnp.tanh(rms(p["embed"][tokens]) * (1 + c @ p["scale"]) + c @ p["shift"]) @ p["head"]


# A matrix mixed of others; which of both sums over the axis between is all one: it does not grow.
@CASES.case(
    "a hypernetwork of a learned code",
    "n",
    lambda n, **_: {**embedded(n), "code": (5,), "make": (5, n, n)},
    ENDS
    + """
    code   in             1   1   1
    make   - in* out*     7   7   1
    """,
)
def _(p, tokens):
    w = jnp.einsum("f,fij->ij", p["code"], p["make"])
    return jnp.tanh(rms(p["embed"][tokens]) @ w) @ p["head"]


@CASES.case(
    "a hypernetwork of its inputs",
    "n",
    lambda n, **_: {**embedded(n), "make": (5, n, n)},
    inputs=(TOKENS, FEATURES[:, 0]),
    refused="must be a parameter(.|\n)*" + at(__file__, "made"),
)
def _(p, tokens, condition):
    w = jnp.einsum("bf,fij->bij", condition, p["make"])
    return jnp.tanh(jnp.einsum("bti,bij->btj", rms(p["embed"][tokens]), w)) @ p["head"]  # made


@CASES.case(
    "squeeze and excite",
    "nf",
    lambda n, f, **_: {"in": (3, 5, n), "w": (n, f), "u": (f, n), "head": (n, 3)},
    """
    in     - in out*   1   7   1
    w      in* out*    7   5   1
    u      in* out*    5   7   1
    head   in* -       7   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    numbers = ("NWC", "WIO", "NWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, p["in"], (1,), "SAME", None, None, numbers))
    gate = jax.nn.sigmoid(jax.nn.relu(x.mean(1) @ p["w"]) @ p["u"])
    return (x * gate[:, None]).mean(1) @ p["head"]


# ---- attention


@CASES.case(
    "a perceiver",
    "nd",
    lambda n, d, **_: {
        "in": (5, n),
        "latents": (4, n),
        **dict.fromkeys("qkv", (n, d)),
        "o": (d, n),
        "head": (n, VOCABULARY),
    },
    """
    in        in out*   1   7   1
    latents   - out*    1   7   1
    [qk]      in* out*  7   2   ?
    v         in* out*  7   2   1
    o         in* out*  2   7   1
    head      in* -     7   1   1
    """,
    inputs=FEATURES,
    products={"q * k": "2^-1/2"},
)
def _(p, x):
    keys, latents = rms(x @ p["in"]), p["latents"]
    q, k, v = rms(latents) @ p["q"], keys @ p["k"], keys @ p["v"]
    mixed = jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5) @ v
    return rms(latents + mixed @ p["o"]).mean(1) @ p["head"]


# One query is a readout, whose product is of order 0 by itself.
@CASES.case(
    "pooling by a learned query",
    "n",
    lambda n, **_: {**embedded(n), "query": (n,)},
    ENDS + "query   in*   7   1   7^1/2",
)
def _(p, tokens):
    x = rms(p["embed"][tokens])
    weights = jax.nn.softmax(x @ p["query"] / x.shape[-1] ** 0.5)
    return jnp.einsum("bt,btn->bn", weights, x) @ p["head"]


def with_projections(n, h, d, **_):
    return {**embedded(n), **dict.fromkeys("qkv", (n, h * d)), "o": (h * d, n)}


# More heads, each with a slope of its own, among which all of 2^-8 to 1 stay.
@CASES.case(
    "slopes of distances",
    "nh",
    with_projections,
    ENDS
    + """
    [qkv]   in* out*    7   3   1
    o       in* out*    3   7   1
    """,
)
def _(p, tokens):
    x = rms(p["embed"][tokens])
    q, k, v = ((x @ p[name]).reshape(*x.shape[:2], -1, 4) for name in "qkv")
    heads, length = q.shape[2], x.shape[1]
    slopes = 2.0 ** (-8 * jnp.arange(1, heads + 1) / heads)
    distances = jnp.arange(length)[None] - jnp.arange(length)[:, None]
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / 2 + slopes[:, None, None] * distances
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
    return rms(x + y.reshape(*x.shape[:2], -1) @ p["o"]) @ p["head"]


# A norm behind the sum undoes what the products of queries and keys grow by.
@CASES.case(
    "retention",
    "nd",
    lambda n, d, **_: with_projections(n, 2, d) | {"gate": (n, 2 * d)},
    ENDS
    + """
    [qkv]   in* out*    7   2   1
    gate    in* out*    7   2   1
    o       in* out*    2   7   1
    """,
)
def _(p, tokens):
    x = rms(p["embed"][tokens])
    q, k, v = ((x @ p[name]).reshape(*x.shape[:2], 2, -1) for name in "qkv")
    steps = jnp.arange(x.shape[1])
    decay = jnp.where(steps[:, None] >= steps, 0.9 ** (steps[:, None] - steps), 0.0)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5 * decay
    y = rms(jnp.einsum("bhts,bshd->bthd", scores, v)).reshape(*x.shape[:2], -1)
    return rms(x + (jax.nn.silu(x @ p["gate"]) * y) @ p["o"]) @ p["head"]


# ---- mixed and routed


# One mixing layer many times; the places that it mixes do not grow.
@CASES.case(
    "a mixer with one mixing layer",
    "nf",
    lambda n, f, **_: {
        **embedded(n),
        "mix": (6, f),
        "back": (f, 6),
        "up": (3, n, f),
        "down": (3, f, n),
    },
    ENDS
    + """
    mix    in out*       1   5   1
    back   in* -         5   1   1
    up     - in* out*    7   5   1
    down   - in* out*    5   7   1
    """,
)
def _(p, tokens):
    def layer(x, w):
        up, down = w
        mixed = jnp.einsum("btn,tf->bfn", rms(x), p["mix"])
        x = x + jnp.einsum("bfn,ft->btn", jax.nn.gelu(mixed), p["back"])
        return x + jax.nn.gelu(rms(x) @ up) @ down, None

    x, _ = jax.lax.scan(layer, p["embed"][tokens], (p["up"], p["down"]))
    return rms(x) @ p["head"]


# The square of a length of f numbers, beside a 1: each must shrink as its root.
@CASES.case(
    "capsules",
    "nf",
    lambda n, f, **_: {"in": (5, n), "votes": (6, 3, n, f)},
    """
    in      in out*          1   7   1
    votes   - - in* out*     7   5   5^-1/2
    """,
    inputs=FEATURES,
)
def _(p, x):
    votes = jnp.einsum("bin,ijnf->bijf", jnp.tanh(x @ p["in"]), p["votes"])

    def squash(s):
        square = (s**2).sum(-1, keepdims=True)
        return square / (1 + square) * s * jax.lax.rsqrt(square + 1e-6)

    def route(_, scores):
        chosen = squash(jnp.einsum("bij,bijf->bjf", jax.nn.softmax(scores), votes))
        return scores + jnp.einsum("bijf,bjf->bij", votes, chosen)

    scores = jax.lax.fori_loop(0, 3, route, jnp.zeros(votes.shape[:3]))
    chosen = squash(jnp.einsum("bij,bijf->bjf", jax.nn.softmax(scores), votes))
    return jnp.sqrt((chosen**2).sum(-1) + 1e-6)


def of_softmaxes(p, tokens, readout):
    x = rms(p["embed"][tokens])
    prior = jax.nn.softmax(x @ p["prior"])
    latent = jnp.tanh(jnp.einsum("btn,nkm->btkm", x, p["latent"]))
    words = jax.nn.softmax(latent @ readout)
    return jnp.log(jnp.einsum("btk,btkv->btv", prior, words) + 1e-6)


def with_softmaxes(n, **_):
    return {**embedded(n), "prior": (n, 3), "latent": (n, 3, n)}


CASES.case(
    "a mixture of softmaxes",
    "n",
    with_softmaxes,
    ENDS
    + """
    prior    in* -        7   1   1
    latent   in* - out*   7   7   1
    """,
)(lambda p, tokens: of_softmaxes(p, tokens, p["head"]))
# The norm behind the lookup undoes what the tied readout needs.
CASES.case(
    "a mixture of softmaxes, tied",
    "n",
    lambda n, **_: {name: x for name, x in with_softmaxes(n).items() if name != "head"},
    """
    embed    - out*       1   7   7^-1
    prior    in* -        7   1   1
    latent   in* - out*   7   7   1
    """,
)(lambda p, tokens: of_softmaxes(p, tokens, p["embed"].T))


# ---- others


# Frequencies that are drawn once and stay: a table of constants.
@CASES.case(
    "Fourier features",
    "nf",
    lambda n, f, **_: {"w": (2 * n, f), "head": (f, 3)},
    """
    w      in* out*   7   5   1
    head   in* -      5   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    n = p["w"].shape[0] // 2
    angles = x @ np.random.default_rng(0).normal(size=(5, n)).astype(np.float32)
    return jnp.tanh(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1) @ p["w"]) @ p["head"]


@CASES.case(
    "reversible blocks",
    "nf",
    lambda n, f, **_: {
        "embed": (VOCABULARY, 2 * n),
        "up": (2, n, f),
        "down": (2, f, n),
        "head": (2 * n, VOCABULARY),
    },
    """
    embed   - out*       1   7   1
    up      - in* out*   7   5   1
    down    - in* out*   5   7   1
    head    in* -        7   1   1
    """,
)
def _(p, tokens):
    a, b = jnp.split(p["embed"][tokens], 2, -1)
    a = a + jax.nn.gelu(rms(b) @ p["up"][0]) @ p["down"][0]
    b = b + jax.nn.gelu(rms(a) @ p["up"][1]) @ p["down"][1]
    return rms(jnp.concatenate([a, b], -1)) @ p["head"]


# Features of a place see those of places before: half of the weights count.
@CASES.case(
    "masked weights",
    "nf",
    lambda n, f, **_: {**embedded(n), "w": (n, f), "u": (f, n)},
    ENDS
    + """
    w   in* out*   7   5   1
    u   in* out*   5   7   1
    """,
)
def _(p, tokens):
    def masked(w):
        rows, columns = (np.arange(size) / size for size in w.shape)
        return w * (rows[:, None] <= columns).astype(np.float32)

    x = jnp.tanh(rms(p["embed"][tokens]) @ masked(p["w"]))
    return jnp.tanh(x @ masked(p["u"])) @ p["head"]


# A sum over both: of n times n terms.
@CASES.case(
    "a bilinear layer",
    "n",
    lambda n, **_: {**embedded(n), "w": (n, n, n)},
    ENDS + "w   in* in* out*   49   7   1",
)
def _(p, tokens):
    x = rms(p["embed"][tokens])
    return jnp.tanh(jnp.einsum("bti,ijk,btj->btk", x, p["w"], x)) @ p["head"]


@CASES.case(
    "gated dilated convolutions",
    "nf",
    lambda n, f, **_: {
        "in": (5, n),
        **dict.fromkeys(("filter", "gate"), (3, 2, n, f)),
        "back": (3, f, n),
        "skip": (3, f, n),
        "head": (n, 3),
    },
    """
    in             in out*        1   7   1
    filter         - - in* out*   7   5   1
    gate           - - in* out*   7   5   1
    back           - in* out*     5   7   1
    skip           - in* out*     5   7   1
    head           in* -          7   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    x, total = x @ p["in"], 0.0
    for i in range(3):

        def convolved(w, x=x, i=i):
            numbers = ("NWC", "WIO", "NWC")
            how = {"rhs_dilation": (2**i,), "dimension_numbers": numbers}
            return jax.lax.conv_general_dilated(x, w, (1,), [(2**i, 0)], **how)

        y = jnp.tanh(convolved(p["filter"][i])) * jax.nn.sigmoid(convolved(p["gate"][i]))
        x, total = x + y @ p["back"][i], total + y @ p["skip"][i]
    return jax.nn.relu(total) @ p["head"]


# Codes are the nearest ones; of an index nothing is asked.
@CASES.case(
    "a codebook",
    "n",
    lambda n, **_: {**embedded(n), "w": (n, n), "codes": (9, n)},
    ENDS + HIDDEN + "codes   - out*   1   7   1",
)
def _(p, tokens):
    z = jnp.tanh(rms(p["embed"][tokens]) @ p["w"])
    distances = ((z[..., None, :] - p["codes"]) ** 2).sum(-1)
    codes = p["codes"][jnp.argmin(distances, -1)]
    return (z + jax.lax.stop_gradient(codes - z)) @ p["head"]


# Steps of an equation, a fixed number of them, by one layer.
@CASES.case("steps of Runge and Kutta", "n", hidden, ENDS + HIDDEN)
def _(p, tokens):
    def step(_, x):
        slope = jnp.tanh(x @ p["w"])
        return x + 0.1 * jnp.tanh((x + 0.05 * slope) @ p["w"])

    return jax.lax.fori_loop(0, 8, step, rms(p["embed"][tokens])) @ p["head"]
