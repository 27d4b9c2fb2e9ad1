"""A selective state space, with the time in an associative scan or in a loop."""

import functools

import jax
import jax.numpy as jnp

from zoo.small import (
    ENDS,
    Table,
    embedded,
    rms,
)

CASES = Table()


def selective(p, tokens, joined):
    h = p["embed"][tokens]
    rank, state = p["dt"].shape[0], p["A_log"].shape[1]
    x, z = jnp.split(rms(h, p["norm"]) @ p["in"], 2, -1)
    padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    x = sum(padded[:, i : i + x.shape[1]] * p["conv"][i] for i in range(3))
    x = jax.nn.silu(x + p["conv_bias"])
    dt, write, read = jnp.split(x @ p["x"], [rank, rank + state], -1)
    dt = jax.nn.softplus(dt @ p["dt"] + p["dt_bias"])
    decay = jnp.exp(-dt[..., None] * jnp.exp(p["A_log"]))
    entering = (dt * x)[..., None] * write[:, :, None]
    states = joined(decay, entering)
    y = jnp.einsum("btdn,btn->btd", states, read) + p["D"] * x
    return (h + (y * jax.nn.silu(z)) @ p["out"]) @ p["head"]


def by_associative_scan(decay, entering):
    def joined(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(joined, (decay, entering), axis=1)[1]


def by_scan(decay, entering):
    def step(state, now):
        state = now[0] * state + now[1]
        return state, state

    inputs = decay.swapaxes(0, 1), entering.swapaxes(0, 1)
    return jax.lax.scan(step, jnp.zeros_like(entering[:, 0]), inputs)[1].swapaxes(0, 1)


for name, joined in {"associative scan": by_associative_scan, "scan": by_scan}.items():
    # The steps' low rank stays, so `x` is a readout and `dt` an embedding.
    CASES.case(
        f"selective state space, {name}",
        "nf",
        lambda n, f, **_: {
            **embedded(n),
            "norm": (n,),
            "in": (n, 2 * f),
            "conv": (3, f),
            "conv_bias": (f,),
            "x": (f, 2 + 2 * 4),
            "dt": (2, f),
            "dt_bias": (f,),
            "A_log": (f, 4),
            "D": (f,),
            "out": (f, n),
        },
        ENDS
        + """
        norm        out*       1   7   1
        in          in* out*   7   5   1
        conv        - out*     1   5   1
        conv_bias   out*       1   5   1
        x           in* -      5   1   1
        dt          in out*    1   5   1
        dt_bias     out*       1   5   1
        A_log       out* -     1   5   1
        D           out*       1   5   1
        out         in* out*   5   7   1
        """,
    )(functools.partial(selective, joined=joined))
