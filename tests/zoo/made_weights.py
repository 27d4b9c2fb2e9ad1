"""Weights that are made of others, or chosen and mixed by activations."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.case import at
from zoo.small import (
    ENDS,
    FEATURES,
    HIDDEN,
    TOKENS,
    VOCABULARY,
    Table,
    embedded,
    hidden,
    rms,
)

CASES = Table()


@CASES.case(
    "weight norm",
    "n",
    lambda n, **_: {**hidden(n), "g": (n,)},
    ENDS + HIDDEN + "g   out*   1   7   1",
)
def _(p, tokens):
    w = p["w"] * jax.lax.rsqrt(jnp.sum(p["w"] ** 2, 0)) * p["g"]
    return jnp.tanh(p["embed"][tokens] @ w) @ p["head"]


@CASES.case("weight standardization", "n", hidden, ENDS + HIDDEN)
def _(p, tokens):
    w = p["w"] - p["w"].mean(0)
    w = w * jax.lax.rsqrt(jnp.var(w, 0) * w.shape[0] + 1e-10)
    return jnp.tanh(p["embed"][tokens] @ w) @ p["head"]


# Both of unit length: their product is of order 0, and the temperature's.
@CASES.case(
    "cosine classifier",
    "n",
    lambda n, **_: {"embed": (VOCABULARY, n), "classes": (n, VOCABULARY), "t": ()},
    """
    embed     - out*   1   7   1
    classes   in* -    7   1   1
    t         ()       1   1   1
    """,
)
def _(p, tokens):
    x, w = jnp.tanh(p["embed"][tokens]), p["classes"]
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.exp(p["t"]) * x @ (w / jnp.linalg.norm(w, axis=0))


def turned(p, tokens, w):
    return jnp.tanh(jnp.tanh(rms(p["embed"][tokens]) @ w) @ p["u"]) @ p["head"]


def with_two(n, f, **_):
    return {**embedded(n), "w": (n, f), "u": (f, n)}


TWO = (
    ENDS
    + """
w   in* out*   7   5   1
u   in* out*   5   7   1
"""
)
# Outputs or inputs that constants mix are what they were.
CASES.case("outputs in another order by a matrix", "nf", with_two, TWO)(
    lambda p, x: turned(p, x, p["w"] @ np.eye(p["w"].shape[1], dtype=np.float32)[::-1])
)
CASES.case("inputs that waves mix", "nf", with_two, TWO)(
    lambda p, x: turned(p, x, waves(p["w"].shape[0]) @ p["w"])
)
# Running sums of outputs are as large as there are outputs: what sums 5 times as much must be less.
CASES.case(
    "running sums of outputs",
    "nf",
    with_two,
    ENDS
    + """
    w   in* out*   7   5   5^-1
    u   in* out*   5   7   1
    """,
)(lambda p, x: turned(p, x, p["w"] @ np.tri(p["w"].shape[1], dtype=np.float32)))
# A bias through a matrix of constants stays one.
CASES.case(
    "a bias in another order by a matrix",
    "n",
    lambda n, **_: {**embedded(n), "b": (n,)},
    ENDS + "b   out*   1   7   1",
)(
    lambda p, x: (
        jnp.tanh(rms(p["embed"][x]) + p["b"] @ np.eye(p["b"].shape[0], dtype=np.float32)[::-1])
        @ p["head"]
    )
)


def waves(n):
    """Orthogonal, of entries as the root of 2/n."""
    steps = np.arange(n)
    phases = np.pi / n * np.outer(steps + 0.5, steps + 0.5)
    return (np.cos(phases) * np.sqrt(2 / n)).astype(np.float32)


@CASES.case(
    "connections that are dropped", "n", hidden, ENDS + HIDDEN, inputs=(TOKENS, jnp.zeros(()))
)
def _(p, tokens, seed):
    key = jax.random.key(seed)
    kept = jax.random.bernoulli(key, 0.5, p["w"].shape)
    return jnp.tanh(p["embed"][tokens] @ (p["w"] * kept)) @ p["head"]


@CASES.case(
    "experts that are looked up",
    "n",
    lambda n, **_: {**embedded(n), "experts": (4, n, n)},
    ENDS + "experts   - in* out*   7   7   1",
    inputs=(TOKENS, TOKENS),
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


CASES.case(
    "experts that are merged softly",
    "n",
    lambda n, **_: {**embedded(n), "experts": (4, n, n), "router": (n, 4)},
    refused=at(__file__, "merged"),
)(merged_softly)


def mixture(p, tokens):
    """All experts, each by its part of a softmax."""
    x = p["embed"][tokens]
    y = jnp.tanh(jnp.einsum("bti,eij->btej", x, p["experts"]))
    return jnp.einsum("bte,btej->btj", jax.nn.softmax(x @ p["router"]), y) @ p["head"]


CASES.case(
    "a dense mixture of experts",
    "n",
    lambda n, e, **_: {**embedded(n), "experts": (e, n, n), "router": (n, e)},
    ENDS + "experts   - in* out*   7   7   1\nrouter   in* -   7   1   1",
)(mixture)
# Softmax over more and more experts has entries of 1/E, so that their sum stays.
CASES.case(
    "a dense mixture of more experts",
    "ne",
    lambda n, e, **_: {**embedded(n), "experts": (e, n, n), "router": (n, e)},
    ENDS + "experts   batch* in* out*   7   7   1\nrouter   in* out*   7   3   1",
)(mixture)


# Blocks a head, whose outputs a kernel sums over: the heads' axis is one of features.
@CASES.case(
    "block-diagonal matrices",
    "h",
    lambda h, **_: {"in": (5, h, 4), "blocks": (h, 4, 4), "head": (4 * h, 3)},
    """
    in       in out* -     1   3   1
    blocks   out* in -     1   3   1
    head     in* -         3   1   1
    """,
    inputs=FEATURES,
)
def _(p, x):
    x = jnp.tanh(jnp.einsum("bi,ihd->bhd", x, p["in"]))
    x = jnp.tanh(jnp.einsum("bhi,hij->bhj", x, p["blocks"]))
    return x.reshape(x.shape[0], -1) @ p["head"]


# A layer that another makes is no parameter: refused rather than guessed.
def made_by_another(p, tokens):
    x = p["embed"][tokens]
    made = jnp.einsum("bk,kij->bij", jnp.tanh(x.mean(1)[:, :3]), p["maker"])
    return jnp.tanh(jnp.einsum("bti,bij->btj", x, made)) @ p["head"]  # made


CASES.case(
    "a layer that another makes",
    "n",
    lambda n, **_: {**embedded(n), "maker": (3, n, n)},
    refused=at(__file__, "made"),
)(made_by_another)


# The norm of all entries is √n, of which the scalar in front carries the inverse of its inverse.
NORMS = {
    "norm of a whole matrix": lambda w: jnp.sum(w**2),
    "norm of a whole matrix, by a product": lambda w: jnp.vdot(w, w),
    "norm of a whole matrix, by a sum of products": lambda w: jnp.einsum("ij,ij->", w, w),
}
for name, squared in NORMS.items():

    @CASES.case(
        name, "n", lambda n, **_: {**hidden(n), "g": ()}, ENDS + HIDDEN + "g   ()   1   1   7^1/2"
    )
    def _(p, tokens, squared=squared):
        w = p["g"] * p["w"] / jnp.sqrt(squared(p["w"]))
        return jnp.tanh(p["embed"][tokens] @ w) @ p["head"]
