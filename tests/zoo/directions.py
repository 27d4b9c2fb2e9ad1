"""One matrix in several places: in both directions, its diagonal, its elements in another order."""

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import ENDS, Table, embedded, hidden, rms

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


# ---- parts of one parameter in directions of their own


def packed_pair(n, f, **_):
    return {**embedded(n), "pack": (2, n, f)}


def opposite(p, tokens):
    x = rms(p["embed"][tokens])
    x = rms(x @ p["pack"][0])  # forwards
    return rms(x @ p["pack"][1].T) @ p["head"]  # backwards


def by_letters(p, tokens):
    x = rms(p["embed"][tokens])
    x = rms(jnp.einsum("btn,nf->btf", x, p["pack"][0]))  # n to f
    return rms(jnp.einsum("btf,nf->btn", x, p["pack"][1])) @ p["head"]  # f to n


def by_index(p, tokens):
    first, second = (jax.lax.dynamic_index_in_dim(p["pack"], i, keepdims=False) for i in (0, 1))
    x = rms(rms(p["embed"][tokens]) @ first)  # the first
    return rms(x @ second.T) @ p["head"]  # the second


def rows(p, tokens):
    n = p["embed"].shape[1]
    x = rms(rms(p["embed"][tokens]) @ p["pack"][:n])  # upper rows
    return rms(x @ p["pack"][n:].T) @ p["head"]  # lower rows


def in_a_scan(p, tokens):
    def layer(x, pair):
        x = rms(x @ pair[0])  # in each layer
        return rms(x @ pair[1].T), None  # and back

    return jax.lax.scan(layer, rms(p["embed"][tokens]), p["pack"])[0] @ p["head"]


def of_both_parts(p, tokens):
    x = rms(p["embed"][tokens])
    return rms(x @ (p["pack"][0] @ p["pack"][1].T)) @ p["head"]  # a product


APART = {
    "parts, forwards and backwards": (opposite, packed_pair, "forwards", "backwards"),
    "parts, swapped letters": (by_letters, packed_pair, "n to f", "f to n"),
    "parts, by a dynamic slice": (by_index, packed_pair, "the first", "the second"),
    "parts, rows": (
        rows,
        lambda n, f, **_: {**embedded(n), "pack": (2 * n, f)},
        "upper rows",
        "lower rows",
    ),
    "parts, in a scan": (
        in_a_scan,
        lambda n, f, **_: {**embedded(n), "pack": (3, 2, n, f)},
        "in each layer",
        "and back",
    ),
    "parts, a product": (of_both_parts, packed_pair, "a product", "a product"),
}
for name, (apply, shapes, one, other) in APART.items():
    lines = (at(__file__, one), at(__file__, other))
    CASES.case(name, "nf", shapes, finding=".*, and .*".join(lines))(apply)


# All want the same numbers where both axes are the width.
CASES.case(
    "parts, two of three turned",
    "n",
    lambda n, **_: {**embedded(n), "pack": (3, n, n)},
    ENDS + "pack   - out* in*   7   7   1",
)(
    lambda p, x: (
        rms(rms(rms(rms(p["embed"][x]) @ p["pack"][0]) @ p["pack"][1].T) @ p["pack"][2].T)
        @ p["head"]
    )
)


# One part in both directions, as tied: the larger entries, as of the whole.
@CASES.case(
    "parts, each tied to itself",
    "nf",
    lambda n, f, **_: {**embedded(n), "pack": (3, n, f)},
    ENDS + "pack   - out* in*   5   7   1",
)
def _(p, tokens):
    def layer(x, w):
        return rms(rms(x @ w) @ w.T), None

    return jax.lax.scan(layer, rms(p["embed"][tokens]), p["pack"])[0] @ p["head"]


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
