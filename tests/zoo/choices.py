"""Values that are chosen or mixed by others, of which there are more at the target."""

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import ENDS, TOKENS, Table, embedded

CASES = Table()


# A one-hot vector of the words times the table is a lookup: its rows are apart, however many.
@CASES.case(
    "words by one-hot vectors",
    "ne",
    lambda n, e, **_: {"embed": (e, n), "head": (n, 3)},
    "embed   batch* out*   1   7   1\nhead   in* -   7   1   1",
)
def _(p, tokens):
    return jax.nn.one_hot(tokens, p["embed"].shape[0]) @ p["embed"] @ p["head"]


# Of a mixture of rows too; the keys that it is by are scored like classes.
@CASES.case(
    "a memory of more slots",
    "ne",
    lambda n, e, **_: {**embedded(n), "keys": (n, e), "values": (e, n)},
    ENDS + "keys   in* out*   7   3   1\nvalues   batch* out*   1   7   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    return jax.nn.softmax(x @ p["keys"]) @ p["values"] @ p["head"]


# The loss over a growing vocabulary: its logarithm is no power, and one word has the others' sum.
@CASES.case(
    "the loss of more words",
    "ne",
    lambda n, e, **_: {"embed": (e, n), "head": (n, e)},
    "embed   batch* out*   1   7   1\nhead   in* out*   7   3   1",
)
def _(p, tokens):
    words = p["head"].shape[1]
    logits = jax.nn.log_softmax(jnp.tanh(p["embed"][tokens]) @ p["head"])
    return -(jax.nn.one_hot(tokens, words) * logits).sum(-1).mean()


# Weights that are learned, over all of the parts that a model has more of.
@CASES.case(
    "a learned mixture of parts",
    "ne",
    lambda n, e, **_: {**embedded(n), "parts": (e, n, n), "mix": (e,)},
    ENDS + "parts   batch* in* out*   7   7   1\nmix   out*   1   3   1",
)
def _(p, tokens):
    y = jnp.tanh(jnp.einsum("btn,enm->btem", p["embed"][tokens], p["parts"]))
    return jnp.einsum("e,btem->btm", jax.nn.softmax(p["mix"]), y) @ p["head"]


# Mixed before they are used, they are a matrix as each of them is.
@CASES.case(
    "a learned mixture of matrices",
    "ne",
    lambda n, e, **_: {**embedded(n), "parts": (e, n, n), "mix": (e,)},
    ENDS + "parts   batch* in* out*   7   7   1\nmix   out*   1   3   1",
)
def _(p, tokens):
    w = jnp.einsum("e,enm->nm", jax.nn.softmax(p["mix"]), p["parts"])
    return jnp.tanh(p["embed"][tokens] @ w) @ p["head"]


# What is summed with weights that sum to no number: all experts count, and E times one is too much.
@CASES.case(
    "sigmoid gates of more experts",
    "ne",
    lambda n, e, **_: {**embedded(n), "experts": (e, n, n), "router": (n, e)},
    ENDS + "experts   out* in* out*   7   21   3^-1\nrouter   in* out*   7   3   1",
)
def _(p, tokens):
    x = p["embed"][tokens]
    y = jnp.einsum("bti,eij->btej", x, p["experts"])
    return jnp.tanh(jnp.einsum("bte,btej->btj", jax.nn.sigmoid(x @ p["router"]), y)) @ p["head"]


# Attention over more and more positions takes the mean of them.
@CASES.case(
    "more positions",
    "ne",
    lambda n, e, **_: {"patch": (5, n), "place": (e, n), "q": (n, n), "k": (n, n), "head": (n, 3)},
    """
    patch    in out*         1   7   1
    place    batch* out*     1   7   1
    [qk]     in* out*        7   7   1
    head     in* -           7   1   1
    """,
    inputs=lambda **sizes: jnp.zeros((2, sizes["e"], 5)),
)
def _(p, x):
    x = x @ p["patch"] + p["place"]
    q, k = x @ p["q"], x @ p["k"]
    x = jax.nn.softmax(jnp.einsum("btn,bsn->bts", q, k) / q.shape[-1]) @ x
    return x.mean(1) @ p["head"]


# How many of its neighbours a place is equal to, nobody can know.
def of_equals(p, tokens, which):
    y = jnp.einsum("btn,enm->btem", p["embed"][tokens], p["parts"])
    equal = which == jnp.arange(which.shape[-1])  # unknown
    return jnp.einsum("e,btem->btm", equal.astype(y.dtype), y) @ p["head"]


CASES.case(
    "a number of equals that nobody knows",
    "ne",
    lambda n, e, **_: {**embedded(n), "parts": (e, n, n)},
    inputs=lambda **sizes: (TOKENS, jnp.zeros(sizes["e"], jnp.int32)),
    refused=at(__file__, "unknown"),
)(of_equals)
