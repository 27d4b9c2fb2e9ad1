"""Tables of constants: what they make of values is as large as they let it be, at most."""

import jax.numpy as jnp
import numpy as np

from zoo.case import at
from zoo.small import ENDS, VOCABULARY, Table, embedded, hidden, rms

CASES = Table()


def of_table(make_table, use):
    """A model of a table of its width that values within 1 meet."""

    def apply(p, tokens):
        x = jnp.tanh(p["embed"][tokens])
        return rms(use(x, make_table(x.shape[-1]))) @ p["head"]

    return apply


def between_bounded(make_table, use):
    """The same, with what must be of order 0 right behind."""

    def apply(p, tokens):
        x = jnp.tanh(p["embed"][tokens])
        return jnp.tanh(use(x, make_table(x.shape[-1]))) @ p["head"]

    return apply


def product(x, table):
    return x @ table.astype(np.float32)  # product


def gain(x, table):
    return x * table.astype(np.float32)  # gain


def weighed(x, table):
    return (x * table.astype(np.float32)).sum(-1, keepdims=True) * jnp.ones(x.shape[-1])  # weighed


def added(x, table):
    return x + table.astype(np.float32)


def distances(n):
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def running_means(n):
    return np.tril(np.ones((n, n))).T / np.arange(1, n + 1)


def waves(n):
    return np.cos(2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n)


def positions(n):
    angles = np.arange(6)[:, None] / 10_000 ** (np.arange(0, n, 2) / n)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def random(n):
    return np.random.default_rng(0).normal(size=(n, n))


def halved(n):
    return 0.5 ** np.arange(n)


BOUNDED = {  # the largest sum, singular value or number is the same at every width
    "an identity": (lambda n: np.eye(n), product),
    "a band": (lambda n: distances(n) < 2, product),
    "running means": (running_means, product),
    "waves over a root": (lambda n: waves(n) / n**0.5, product),
    "random numbers over a root": (lambda n: random(n) / n**0.5, product),
    "halves, summed": (halved, weighed),
    "counts over the width": (lambda n: np.arange(n) / n, gain),
    "counts over the width, traced": (lambda n: jnp.arange(n) / n, gain),
    "inverse counts, traced": (lambda n: 1 / (1 + jnp.arange(n)), gain),
    "positions": (positions, added),
}
for name, (make_table, use) in BOUNDED.items():
    CASES.case(name, "n", embedded, ENDS)(between_bounded(make_table, use))

OF_OTHER_SIZE = {  # these grow as 7, or as its root
    "running sums": (lambda n: np.tri(n), product, "112/16"),
    "waves": (waves, product, r"\(112/16\)\^1/2"),
    "random numbers": (random, product, r"\(112/16\)\^1/2"),
    "random numbers over the width": (
        lambda n: random(n) / n,
        product,
        r"\(16/112\)\^1/2",
    ),
    "counts": (np.arange, gain, "112/16"),
    "one number as large as the width": (lambda n: n * np.eye(1, n), gain, "112/16"),
}
for name, (make_table, use, factor) in OF_OTHER_SIZE.items():
    CASES.case(name, "n", embedded, refused=f"{at(__file__, use.__name__)} is {factor}")(
        between_bounded(make_table, use)
    )


# A mask of one feature is a one-hot vector: one row of the matrix counts, as if it was looked up.
@CASES.case(
    "one feature",
    "n",
    hidden,
    """
    embed   - out*        1   ?   1
    w       batch* out*   1   7   1
    head    in* -         7   1   1
    """,
)
def _(p, tokens):
    mask = (np.arange(p["w"].shape[0]) == 3).astype(np.float32)
    return jnp.tanh((jnp.tanh(p["embed"][tokens]) * mask) @ p["w"]) @ p["head"]


def with_four(n, **_):
    return {"embed": (VOCABULARY, 4), "w": (4, n), "head": (n, VOCABULARY)}


# Of a shape that does not grow.
@CASES.case("four numbers", "n", with_four, refused=at(__file__, "four") + " is 112/16")
def _(p, tokens):
    table = np.arange(1, 5, dtype=np.float32) * p["w"].shape[-1]
    x = jnp.tanh(jnp.tanh(p["embed"][tokens]) * table)  # four
    return jnp.tanh(x @ p["w"]) @ p["head"]


UNCLEAR = {
    "powers": (lambda n: 1.1 ** np.arange(n), gain),
    "inverse counts, summed": (lambda n: 1 / (1 + jnp.arange(n)), weighed),
    "one large number": (lambda n: np.r_[float(n), np.ones(n - 1)], gain),
}
for name, (make_table, use) in UNCLEAR.items():
    CASES.case(name, "n", embedded, finding=at(__file__, use.__name__))(of_table(make_table, use))
