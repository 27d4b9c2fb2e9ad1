"""What is made of a whole array at once: decompositions, long kernels, pooled windows, parts."""

import math

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import ENDS, Table, embedded

CASES = Table()
POSITIONS = {"inputs": lambda **sizes: jnp.zeros((2, sizes["e"]), jnp.int32)}


# The products of n features are of order n, their Cholesky factor √n, so what it whitens 1/√n.
@CASES.case(
    "whitened tokens",
    "n",
    embedded,
    "embed   - out*   1   7   1\nhead   in* -   7   1   7^1/2",
    inputs=jnp.zeros(6, jnp.int32),
    batch=(jnp.arange(6),),  # of equal tokens the products have no factor
)
def _(p, tokens):
    x = jnp.tanh(p["embed"][tokens])
    factor = jax.lax.linalg.cholesky(x @ x.T + 1e-6 * jnp.eye(len(x)))
    x = jax.lax.linalg.triangular_solve(factor, x, left_side=True, lower=True)
    return x @ p["head"]


# A kernel as long as what it goes over sums over all positions.
@CASES.case(
    "a kernel as long as the signal",
    "ne",
    lambda n, e, **_: {"kernel": (e, 5, n), "head": (n, 3)},
    "kernel   in* in out*   3   7   1\nhead   in* -   7   1   1",
    inputs=lambda **sizes: jnp.zeros((2, sizes["e"], 5)),
)
def _(p, x):
    numbers = ("NWC", "WIO", "NWC")
    x = jax.lax.conv_general_dilated(x, p["kernel"], (1,), "VALID", dimension_numbers=numbers)
    return jnp.tanh(x[:, 0]) @ p["head"]


# A sum over a window of all positions, that no division follows.
@CASES.case(
    "a window of all positions",
    "ne",
    embedded,
    "embed   - out*   1   7   3^-1\nhead   in* -   7   1   1",
    **POSITIONS,
)
def _(p, tokens):
    window = (1, tokens.shape[1], 1)
    x = jax.lax.reduce_window(p["embed"][tokens], 0.0, jax.lax.add, window, window, "VALID")
    return jnp.tanh(x[:, 0]) @ p["head"]


@CASES.case("a mean of all positions", "ne", embedded, ENDS, **POSITIONS)
def _(p, tokens):
    return jnp.tanh(p["embed"][tokens].mean(1)) @ p["head"]


# Half of the features times √n: no one gain is right for both halves.
def scaled_in_part(p, tokens):
    x = p["embed"][tokens]
    x = x.at[:, 0].multiply(math.sqrt(x.shape[-1]))  # in part
    return jnp.tanh(x) @ p["head"]


CASES.case("a part that is multiplied", "n", embedded, refused=at(__file__, "in part"))(
    scaled_in_part
)
