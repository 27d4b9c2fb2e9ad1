"""Tied readouts, and embeddings times a power of the width."""

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import LENGTH, VOCABULARY, Table, embedded, rms

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
