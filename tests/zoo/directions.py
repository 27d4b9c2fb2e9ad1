"""One matrix in several places: in both directions, its diagonal, its elements in another order."""

import jax.numpy as jnp

from zoo.case import at
from zoo.small import ENDS, Table, embedded, hidden

CASES = Table()


# Both ask for the same numbers: as many are summed over as are made. The later one is named.
@CASES.case("both directions", "n", hidden, ENDS + "w   out* in*   7   7   1")
def _(p, tokens):
    x = jnp.tanh(p["embed"][tokens] @ p["w"])
    return jnp.tanh(x @ p["w"].T) @ p["head"]


# Entries of 1/f are the larger ones and right behind; before, a sum of n is n/f too much.
TIED = """
embed   - out*      1   7   7^-1 5
w       out* in*    5   7   1
head    in* -       7   1   1
"""


@CASES.case("a tied bottleneck", "nf", lambda n, f, **_: {**embedded(n), "w": (n, f)}, TIED)
def _(p, tokens):
    return jnp.tanh(jnp.tanh(p["embed"][tokens] @ p["w"]) @ p["w"].T) @ p["head"]


@CASES.case(
    "a tied bottleneck, the narrow side first",
    "nf",
    lambda n, f, **_: {**embedded(n), "w": (n, f)},
    TIED,
)
def _(p, tokens):
    x = p["embed"][tokens]
    return (jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"].T)) @ p["head"]


# Values that nothing scales on both sides: no gain of the one matrix is right for both.
def pinned(p, tokens):
    x = jnp.tanh(p["embed"][tokens])
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"].T) @ p["head"]  # both


CASES.case(
    "a tied bottleneck of pinned values",
    "nf",
    lambda n, f, **_: {**embedded(n), "w": (n, f)},
    refused=at(__file__, "both"),
)(pinned)

DIAGONAL = ENDS + "w   batch* out*   1   7   1"


# Of a matrix whose diagonal alone is used, each row has one element that counts.
@CASES.case("a diagonal as a gain", "n", hidden, DIAGONAL)
def _(p, tokens):
    return jnp.tanh(p["embed"][tokens] * jnp.diagonal(p["w"])) @ p["head"]


@CASES.case("a diagonal by indices", "n", hidden, DIAGONAL)
def _(p, tokens):
    i = jnp.arange(p["w"].shape[0])
    return jnp.tanh(p["embed"][tokens] * p["w"][i, i]) @ p["head"]


@CASES.case("a diagonal by the identity", "n", hidden, DIAGONAL)
def _(p, tokens):
    diagonal = (p["w"] * jnp.eye(p["w"].shape[0])).sum(0)
    return jnp.tanh(p["embed"][tokens] * diagonal) @ p["head"]


# Features in another order are features, and so are blocks whose outputs are put in another order.
@CASES.case(
    "features in another order",
    "h",
    lambda h, **_: {"in": (5, h, 4), "blocks": (h, 4, 4), "head": (4 * h, 3)},
    """
    in       in out* -     1   3   1
    blocks   out* in -     1   3   1
    head     in* -         3   1   1
    """,
    inputs=jnp.zeros((2, 5)),
)
def _(p, x):
    x = jnp.tanh(jnp.einsum("bi,ihd->bhd", x, p["in"]))
    x = jnp.tanh(jnp.einsum("bhi,hij->bhj", x, p["blocks"]))
    order = (jnp.arange(x.shape[1]) + 1) % x.shape[1]
    return x[:, order].reshape(x.shape[0], -1) @ p["head"]
