"""Selective state space in the style of Mamba 2: scalar decays a head, a gated norm behind it."""

import functools

import jax
import jax.numpy as jnp

from zoo.case import Case, at

VOCABULARY, LENGTH, STATE, TAPS = 11, 6, 4, 3


def make_model(width, heads, head_size, key, fused=False):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    inner = heads * head_size
    parts = {"zx": normal(1, width, 2 * inner), "bc": normal(2, width, 2 * STATE)}
    parts["dt"] = normal(3, width, heads)
    if fused:
        parts = {"in": jnp.concatenate(list(parts.values()), -1)}
    return {
        **parts,
        "embed": normal(0, VOCABULARY, width),
        "norm": jnp.ones(width),
        "conv": normal(4, TAPS, inner),
        "conv_bias": normal(5, inner),
        "dt_bias": normal(6, heads),
        "A_log": normal(7, heads),
        "D": normal(8, heads),
        "gated_norm": jnp.ones(inner),
        "out": normal(9, inner, width),
        "head": normal(10, width, VOCABULARY),
    }


def normalized(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale


def projected(params, x):
    """Gates and inputs, read and write directions of the state, and time steps."""
    heads, inner = len(params["A_log"]), len(params["gated_norm"])
    if "in" in params:
        parts = [2 * inner, 2 * inner + 2 * STATE]
        return jnp.split(x @ params["in"], parts, -1)  # parts
    assert params["dt"].shape[-1] == heads
    return x @ params["zx"], x @ params["bc"], x @ params["dt"]


def mixed(params, x):
    zx, bc, dt = projected(params, x)
    z, x = jnp.split(zx, 2, -1)
    write, read = jnp.split(bc, 2, -1)
    padded = jnp.pad(x, ((0, 0), (TAPS - 1, 0), (0, 0)))
    taps = [padded[:, i : i + x.shape[1]] * params["conv"][i] for i in range(TAPS)]
    x = jax.nn.silu(sum(taps) + params["conv_bias"])
    x = x.reshape(*x.shape[:2], len(params["A_log"]), -1)
    dt = jax.nn.softplus(dt + params["dt_bias"])
    decay = jnp.exp(-dt * jnp.exp(params["A_log"]))

    def step(state, now):
        x, decay, dt, write, read = now
        entering = jnp.einsum("bh,bhp,bn->bhpn", dt, x, write)
        state = decay[..., None, None] * state + entering
        return state, jnp.einsum("bhpn,bn->bhp", state, read)

    start = jnp.zeros((x.shape[0], *x.shape[2:], STATE))
    inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (x, decay, dt, write, read))
    y = jax.lax.scan(step, start, inputs)[1].swapaxes(0, 1) + params["D"][:, None] * x
    y = y.reshape(z.shape) * jax.nn.silu(z)
    return normalized(y, params["gated_norm"]) @ params["out"]


def apply(params, tokens):
    x = params["embed"][tokens]
    return (x + mixed(params, normalized(x, params["norm"]))) @ params["head"]


# Decays, steps and `D` are a number of each head; the state's own size stays.
REST = """
embed        - out*     1   7   1
norm         out*       1   7   1
conv         - out*     1   6   1
conv_bias    out*       1   6   1
dt_bias      out*       1   3   1
A_log        out*       1   3   1
D            out*       1   3   1
gated_norm   out*       1   6   1
out          in* out*   6   7   1
head         in* -      7   1   1
"""
SIZES = {
    "base": {"width": 16, "heads": 2, "head_size": 8},
    "target": {"width": 112, "heads": 6, "head_size": 16},
    "inputs": jnp.zeros((2, LENGTH), jnp.int32),
    "apply": apply,
}
CASES = {
    "": Case(
        make_model,
        REST
        + """
        zx   in* out*   7   6   1
        bc   in* -      7   1   1
        dt   in* out*   7   3   1
        """,
        **SIZES,
    ),
    # Of one axis `[2·heads·head_size | 2·state | heads]` each part has another r_out.
    "one projection": Case(
        functools.partial(make_model, fused=True), "", finding=at(__file__, "parts"), **SIZES
    ),
}
