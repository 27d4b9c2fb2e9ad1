"""Numbers that count along an axis that grows: how many there are, and the place of each."""

import jax
import jax.numpy as jnp
import numpy as np

from zoo.case import at
from zoo.small import ENDS, FEATURES, HIDDEN, Table, hidden

CASES = Table()
# The factor on what the first layer makes: it takes the inverse.
FIRST = """
in     in out*   1   7   {}
head   in* -     7   1   1
"""


def ends(n, **_):
    return {"in": (5, n), "head": (n, 3)}


def counted(name, gain, factor):
    """A case of a factor of features, which the first layer's gain makes up for."""

    @CASES.case(name, "n", ends, FIRST.format(gain), inputs=FEATURES)
    def _(p, x):
        x = x @ p["in"]
        return jnp.tanh(x * factor(x)) @ p["head"]


# 0, 1, ... n - 1: their largest and their mean grow as n, whatever their dtype.
counted("integers by position", "7^-1", lambda x: jnp.arange(x.shape[-1]))
counted("floats by position", "7^-1", lambda x: jnp.arange(x.shape[-1], dtype=x.dtype))
counted("an array by position", "7^-1", lambda x: np.arange(x.shape[-1], dtype=np.float32))
counted("integers by position, squared", "7^-2", lambda x: jnp.arange(x.shape[-1]) ** 2)
counted("pairs by position", "7^-1", lambda x: jnp.arange(x.shape[-1]) // 2)
counted("positions from the end", "7^-1", lambda x: x.shape[-1] - jnp.arange(x.shape[-1]))
counted("alternating signs", "1", lambda x: 1 - 2 * (jnp.arange(x.shape[-1]) % 2))
counted("positions over their number", "1", lambda x: jnp.arange(x.shape[-1]) / x.shape[-1])
counted("evenly from 0 to 1", "1", lambda x: jnp.linspace(0, 1, x.shape[-1]))
counted("first and second half", "1", lambda x: 1 + (jnp.arange(x.shape[-1]) < x.shape[-1] // 2))
# Sums of ones: 1, 2, ... n, and n.
counted("a running count", "7^-1", lambda x: jnp.cumsum(jnp.ones(x.shape[-1], jnp.int32)))
counted("rows of a triangle", "7^-1", lambda x: jnp.tril(jnp.ones((x.shape[-1],) * 2, int)).sum(-1))
# The sum of 0, 1, ... n - 1 is n (n - 1) / 2, and that of their squares grows as n³.
counted("a sum of positions", "7^-2", lambda x: jnp.arange(x.shape[-1]).sum())
counted("a sum of squares", "7^-3", lambda x: (jnp.arange(x.shape[-1]) ** 2).sum())
# An orthonormal transform has entries of √(2/n); frequencies lie closer, and are of one size.
counted(
    "entries of a transform",
    "7^1/2",
    lambda x: np.sqrt(2 / x.shape[-1]) * np.cos(np.arange(x.shape[-1]), dtype=np.float32),
)
counted(
    "frequencies",
    "1",
    lambda x: np.float32(1e4) ** -(np.arange(x.shape[-1], dtype=np.float32) / x.shape[-1]),
)
# How many features are positive, which of them is the largest: of order n.
counted("a count over its axis", "1", lambda x: 2 * (x > 0).sum(-1, keepdims=True) / x.shape[-1])
counted("a mean of a mask", "1", lambda x: (x > 0).mean(-1, keepdims=True))
counted("the place of the largest", "7^-1", lambda x: jnp.argmax(x, -1, keepdims=True))
counted("the places of the two largest", "7^-1", lambda x: jax.lax.top_k(x, 2)[1].sum(-1)[:, None])
counted("a rank", "7^-1", lambda x: jnp.argsort(x, -1))


# The divisor of an unbiased variance is n - 1, which is as good as n.
@CASES.case(
    "a norm by the unbiased variance",
    "n",
    lambda n, **_: {**hidden(n), "scale": (n,)},
    ENDS + HIDDEN + "scale   out*   1   7   1",
)
def _(p, tokens):
    x = jnp.tanh(p["embed"][tokens])
    x = (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-6)
    return jnp.tanh((x * p["scale"]) @ p["w"]) @ p["head"]


# A mean over the features that an input says are there.
@CASES.case(
    "a mean by a mask of features",
    "n",
    lambda n, **_: {"in": (5, n), "out": (1, 3)},
    "in   in out*   1   7   1\nout   in -   1   1   1",
    inputs=lambda **sizes: (FEATURES, jnp.ones(sizes["n"], bool)),
)
def _(p, x, mask):
    x = jnp.tanh(x @ p["in"])
    return (x * mask).sum(-1, keepdims=True) / mask.sum() @ p["out"]


# The model's own count, as a feature of its own: nobody can carry what is missing.
@CASES.case(
    "a count that is returned",
    "n",
    ends,
    inputs=FEATURES,
    refused=r"reduce_sum` at " + at(__file__, "returned") + r" is 112/16 times",
)
def _(p, x):
    x = jnp.tanh(x @ p["in"])
    count = (x > 0).sum(-1, keepdims=True)  # returned
    return x @ p["head"], count * 0.5
