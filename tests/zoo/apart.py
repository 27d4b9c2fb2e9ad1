"""Models that are not one program at all sizes, or whose axes have parts that grow apart."""

import jax
import jax.numpy as jnp

from zoo.case import at
from zoo.small import ENDS, FEATURES, Table, attended, embedded, with_attention

CASES = Table()


# Two heads at base, six at target: as many equations more.
def loop_over_heads(p, tokens):
    x = p["embed"][tokens]
    for i in range(p["q"].shape[1]):
        q, k = x @ p["q"][:, i], x @ p["k"][:, i]
        x = x + jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1]) @ x
    return x @ p["head"]


CASES.case("a loop over heads", "nh", with_attention, refused="same at all sizes.*apart.py")(
    loop_over_heads
)


def with_parallel(n, h, d, f, **_):
    return {**embedded(n), "in": (n, 3 * h * d + f), "o": (h * d, n), "down": (f, n)}


def parallel(p, tokens):
    """Attention and feed-forward layer beside each other, of one product."""
    x = p["embed"][tokens]
    inner = p["o"].shape[0]
    q, k, v, u = jnp.split(x @ p["in"], [inner, 2 * inner, 3 * inner], -1)  # parts
    q, k, v = (a.reshape(*a.shape[:2], -1, 4) for a in (q, k, v))
    y = attended(q, k, v, 0.5).reshape(*x.shape[:2], -1)
    return (x + y @ p["o"] + jax.nn.gelu(u) @ p["down"]) @ p["head"]


# Parts of one axis that grow alike are one axis ...
CASES.case(
    "a parallel block, parts alike",
    "nh",
    lambda n, h, d, **_: with_parallel(n, h, d, 4 * h * d),
    ENDS
    + """
    in     in* out*   7   3   1
    o      in* out*   3   7   1
    down   in* out*   3   7   1
    """,
)(parallel)
# ... and where they do not, only the target shows it, if delta is twice the base model.
CASES.case("a parallel block, parts apart", "nhf", with_parallel, finding=at(__file__, "parts"))(
    parallel
)


# ---- bad input


CASES.case("nothing grows", "e", embedded, refused="grow")(lambda p, x: p["embed"][x] @ p["head"])
CASES.case(
    "a parameter that does nothing",
    "n",
    lambda n, **_: {**embedded(n), "idle": (n, n)},
    refused="idle",
)(lambda p, x: p["embed"][x] @ p["head"])
CASES.case(
    "inputs of a wrong shape",
    "n",
    lambda n, **_: {"in": (4, n), "head": (n, 3)},
    inputs=FEATURES,
    refused="`inputs`",
)(lambda p, x: jnp.tanh(x @ p["in"]) @ p["head"])
CASES.case("a function that decides by values", "n", embedded, refused="apart.py|`inputs`")(
    lambda p, x: p["embed"][x] @ p["head"] if p["embed"].sum() > 0 else x
)
