"""Products of three arrays, which `jnp.einsum` multiplies in an order that depends on the sizes."""

import jax
import jax.numpy as jnp

from zoo.case import Case

BATCH, CLASSES = 32, 10


def make_model(width, rank, key):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return {
        "embed": normal(0, 5, width),
        "down": normal(1, width, rank),
        "up": normal(2, rank, width),
        "head": normal(3, width, CLASSES),
    }


def apply(params, x):
    x = x @ params["embed"]
    x = jnp.tanh(jnp.einsum("bn,nr,rm->bm", x, params["down"], params["up"]))
    return x @ params["head"]


# `jnp.einsum` multiplies `down` and `up` first at the base size, and the values and `down` at the
# target, as either makes fewer products: the result is the same.
CASES = {
    "": Case(
        make_model,
        """
        embed   in out*    1   7   1
        down    in* out*   7   3   1
        up      in* out*   3   7   1
        head    in* -      7   1   1
        """,
        base={"width": 4, "rank": 8},
        target={"width": 28, "rank": 24},
        inputs=jnp.zeros((BATCH, 5)),
        apply=apply,
    )
}
