"""Diagonal state space in the style of S5: complex eigenvalues, a parallel scan over time."""

import jax
import jax.numpy as jnp

from zoo.case import Case

VOCABULARY, LENGTH = 11, 6


def make_model(width, state, key):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    def block(i):
        return {
            "scale": jnp.ones(width),
            "eigenvalues": normal(i, state, 2),
            "B": normal(i + 1, state, width, 2),
            "C": normal(i + 2, width, state, 2),
            "D": normal(i + 3, width),
            "log_step": normal(i + 4, state),
            "gate": normal(i + 5, width, width),
        }

    return {
        "embed": normal(0, VOCABULARY, width),
        "blocks": [block(1), block(11)],
        "head": normal(21, width, VOCABULARY),
    }


def as_complex(x):
    return x[..., 0] + 1j * x[..., 1]


def through_time(block, x):
    """The recurrence `s' = A s + B x`, with `A` diagonal, and its output `C s + D x`."""
    eigenvalues = as_complex(block["eigenvalues"])
    step = jnp.exp(block["log_step"])
    decay = jnp.exp(eigenvalues * step)
    into = ((decay - 1) / eigenvalues)[:, None] * as_complex(block["B"])
    entering = jnp.einsum("pn,btn->btp", into, x.astype(complex))
    decays = jnp.broadcast_to(decay, entering.shape)

    def joined(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    _, states = jax.lax.associative_scan(joined, (decays, entering), axis=1)
    return jnp.einsum("np,btp->btn", as_complex(block["C"]), states).real + block["D"] * x


def apply(params, tokens):
    x = params["embed"][tokens]
    for block in params["blocks"]:
        h = x * (jnp.mean(x**2, -1, keepdims=True) + 1e-6) ** -0.5 * block["scale"]
        h = jax.nn.gelu(through_time(block, h))
        x = x + h * jax.nn.sigmoid(h @ block["gate"])
    return x.mean(1) @ params["head"]


# `B` maps the width to the state and `C` back; eigenvalues and steps are a number or two of each
# component of the state, as biases are.
ANSWER = """
embed                  - out*       1   7   1
blocks/?/scale         out*         1   7   1
blocks/?/eigenvalues   out* -       1   3   1
blocks/?/log_step      out*         1   3   1
blocks/?/B             out* in* -   7   3   1
blocks/?/C             out* in* -   3   7   1
blocks/?/D             out*         1   7   1
blocks/?/gate          in* out*     7   7   1
head                   in* -        7   1   1
"""
CASES = {
    "": Case(
        make_model,
        ANSWER,
        base={"width": 16, "state": 8},
        target={"width": 112, "state": 24},
        inputs=jnp.zeros((2, LENGTH), jnp.int32),
        apply=apply,
    )
}
