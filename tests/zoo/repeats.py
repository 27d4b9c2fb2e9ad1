"""Loops that go on until something holds."""

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import FEATURES, Table

CASES = Table()
ANSWER = """
in     in out*    1   7   {}
w      in* out*   7   7   1
head   in* -      7   1   1
"""


def shapes(n, **_):
    return {"in": (5, n), "w": (n, n), "head": (n, 3)}


def repeated(name, goes_on, start=lambda x: 0, step=lambda i, x: i + 1, gain="1", refused=""):
    """A case of a block that is called again and again, by a counter and the features."""

    @CASES.case(name, "n", shapes, ANSWER.format(gain), inputs=FEATURES, refused=refused)
    def _(p, x):
        def block(carry):
            i, x = carry
            return step(i, x), x - 0.1 * jnp.tanh(x @ p["w"])

        x = x @ p["in"]
        _, x = jax.lax.while_loop(goes_on, block, (start(x), x))
        return jnp.tanh(x) @ p["head"]


LONGER = r"as many iterations at all sizes(.|\n)*` at (?=repeats.py:\d)"
# Five times, whatever the size.
repeated("five times", lambda c: c[0] < 5)
repeated("five times, from the end", lambda c: c[0] > 0, lambda x: 5, lambda i, x: i - 1)
repeated("until it is small on average", lambda c: (c[0] < 5) & (jnp.mean(c[1] ** 2) > 1e-3))
# Once a feature, however it is counted.
repeated("once a feature", lambda c: c[0] < c[1].shape[-1], refused=LONGER)
repeated("to zero", lambda c: c[0] > 0, lambda x: x.shape[-1], lambda i, x: i - 1, refused=LONGER)
repeated("by floats", lambda c: c[0] < c[1].shape[-1], lambda x: 0.0, refused=LONGER)
repeated(
    "by doubling",
    lambda c: c[0] < c[1].shape[-1],
    lambda x: 1,
    lambda i, x: 2 * i,
    refused=LONGER,
)
repeated("until few are positive", lambda c: (c[1] > 0).sum() > 9, refused=LONGER)
repeated(
    "by a flag",
    lambda c: c[0][1],
    lambda x: (0, True),
    lambda i, x: (i[0] + 1, i[0] + 1 < x.shape[-1]),
    refused=LONGER,
)
# The sum of the squares has 7 times as many terms. Each must be a 7th, so the features a 7th of the
# root, but what is added to them is of order 0 ...
repeated(
    "until its norm is small",
    lambda c: jnp.sum(c[1] ** 2) > 1e-3,  # sum
    refused=r"reduce_sum` at " + at(__file__, "sum") + r" is 112/16(.|\n)*a loop goes on by it",
)


# ... unless all of it is linear. Then the first layer makes them smaller, the last one larger.
@CASES.case(
    "until the norm of linear features is small",
    "n",
    shapes,
    ANSWER.format("7^-1/2").replace("7   1   1", "7   1   7^1/2"),
    inputs=FEATURES,
)
def _(p, x):
    def goes_on(x):
        return jnp.sum(x**2) > 1e-3

    return jax.lax.while_loop(goes_on, lambda x: x - 0.1 * x @ p["w"], x @ p["in"]) @ p["head"]


# The bound of a loop may be a number of its carry, as JAX keeps that of `fori_loop`.
@CASES.case(
    "a bound that is an array", "n", shapes, inputs=FEATURES, refused=LONGER + at(__file__, "loop")
)
def _(p, x):
    x = x @ p["in"]
    bound = jnp.asarray(x.shape[-1])
    x = jax.lax.fori_loop(0, bound, lambda i, x: x - 0.1 * jnp.tanh(x @ p["w"]), x)  # loop
    return jnp.tanh(x) @ p["head"]


# A search of integers takes longer where there are more; what it finds is the same.
@CASES.case("a search", "n", shapes, ANSWER.format("1"), inputs=FEATURES)
def _(p, x):
    x = jnp.tanh(x @ p["in"])
    places = jnp.searchsorted(jnp.arange(x.shape[-1]), jnp.arange(3))
    return jnp.tanh((x + x[..., places].mean(-1, keepdims=True)) @ p["w"]) @ p["head"]
