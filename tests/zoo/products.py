"""Products of parameters among themselves, in whichever order somebody multiplies them."""

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
        "mid": normal(2, rank, rank),
        "up": normal(3, rank, width),
        "head": normal(4, width, CLASSES),
    }


def model(through):
    """A function of the parameters that goes through `down`, `mid` and `up` in its middle."""

    def apply(params, x):
        return jnp.tanh(through(x @ params["embed"], **params)) @ params["head"]

    return apply


def by_einsum(x, down, mid, up, **_):
    return jnp.einsum("bn,nr,rs,sm->bm", x, down, mid, up)


def values_first(x, down, mid, up, **_):
    return ((x @ down) @ mid) @ up


def parameters_first(x, down, mid, up, **_):
    return x @ (down @ (mid @ up))


def turned(x, down, mid, up, **_):
    return x @ ((up.T @ mid.T) @ down.T).T


def swapped(x, down, mid, up, **_):
    return x @ jnp.einsum("sm,ns->mn", up, down @ mid).T


# Whatever is multiplied first, `down` sums over the width, and what it puts out `mid` sums over.
# `jnp.einsum` multiplies the parameters first at the base size and the values first at the target,
# as either makes the smaller products.
ANSWER = """
embed   in out*    1   7   1
down    in* out*   7   3   1
mid     in* out*   3   3   1
up      in* out*   3   7   1
head    in* -      7   1   1
"""
CASES = {
    name.replace("_", " "): Case(
        make_model,
        ANSWER,
        base={"width": 4, "rank": 8},
        target={"width": 28, "rank": 24},
        inputs=jnp.zeros((BATCH, 5)),
        apply=model(through),
    )
    for name, through in {
        "by_einsum": by_einsum,
        "values_first": values_first,
        "parameters_first": parameters_first,
        "turned": turned,
        "swapped": swapped,
    }.items()
}
