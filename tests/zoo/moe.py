"""Mixture of experts in plain functions: a top-2 router, sorted tokens or a dense combination."""

import functools
import math

import jax
import jax.numpy as jnp

from zoo.case import Case, at

VOCABULARY, LENGTH = 11, 6


def make_model(width, d_ff, experts, key):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return {
        "embed": normal(0, VOCABULARY, width),
        "router": normal(1, width, experts),
        "up": normal(2, experts, width, d_ff),
        "up_bias": normal(3, experts, d_ff),
        "down": normal(4, experts, d_ff, width),
        "head": normal(5, width, VOCABULARY),
    }


def routed(x, router):
    """Gates of the two best experts, which sum to 1, and their numbers."""
    gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ router), 2)
    return gates / gates.sum(-1, keepdims=True), chosen


def sorted_tokens(params, x):
    """Each token goes to its experts alone."""
    experts = params["router"].shape[-1]
    gates, chosen = routed(x, params["router"])
    order = jnp.argsort(chosen.reshape(-1))
    expert = chosen.reshape(-1)[order]
    sizes = jnp.bincount(expert, length=experts)
    h = jax.lax.ragged_dot(x[order // 2], params["up"], sizes) + params["up_bias"][expert]
    y = jax.lax.ragged_dot(jax.nn.gelu(h), params["down"], sizes)
    y = jnp.zeros_like(y).at[order].set(y).reshape(*gates.shape, -1)
    return (y * gates[..., None]).sum(1)


def dense_combination(params, x):
    """Every expert sees every token, and two count."""
    experts = params["router"].shape[-1]
    gates, chosen = routed(x, params["router"])
    chosen = jax.nn.one_hot(chosen, experts)  # one hot
    combined = jnp.einsum("tk,tke->te", gates, chosen)
    h = jnp.einsum("td,edf->etf", x, params["up"]) + params["up_bias"][:, None]
    y = jnp.einsum("etf,efd->etd", jax.nn.gelu(h), params["down"])
    return jnp.einsum("te,etd->td", combined, y)


def apply(params, tokens, experts_of):
    x = params["embed"][tokens.reshape(-1)]
    return (x + experts_of(params, x)) @ params["head"]


# A token sees two experts, however many there are: nothing is summed over them.
FIXED = """
embed     - out*       1   7   1
router    in* -        7   1   1
up        - in* out*   7   5   1
up_bias   - out*       1   5   1
down      - in* out*   5   7   1
head      in* -        7   1   1
"""
GROWING = """
embed     - out*            1   7   1
router    in* out*          7   3   1
up        batch* in* out*   7   5   1
up_bias   batch* out*       1   5   1
down      batch* in* out*   5   7   1
head      in* -             7   1   1
"""
DISPATCHES = {"sorted tokens": sorted_tokens, "dense combination": dense_combination}
CASES = {}
for name, dispatch in DISPATCHES.items():
    how = {
        "inputs": jnp.zeros((2, LENGTH), jnp.int32),
        "apply": functools.partial(apply, experts_of=dispatch),
    }
    base = {"width": 16, "d_ff": 24, "experts": 4}
    CASES[name] = Case(
        functools.partial(make_model, experts=4),
        FIXED,
        base={"width": 16, "d_ff": 24},
        target={"width": 112, "d_ff": 120},
        **how,
    )
    more = {"base": base, "target": {"width": 112, "d_ff": 120, "experts": 12}, **how}
    # A sum over one-hot vectors has one term, which no row says yet: refused rather than guessed.
    one_hot = at(__file__, "one hot") if dispatch is dense_combination else ""
    CASES[f"{name}, more experts"] = Case(make_model, GROWING, refused=one_hot, **more)


def scaled(params, tokens):
    """Experts that read an embedding times √width: its table is what can be smaller."""
    x = params["embed"][tokens.reshape(-1)] * math.sqrt(params["embed"].shape[-1])
    x = jnp.tanh(sorted_tokens(params, x)) + jnp.tanh(x)
    return x @ params["head"]


CASES["sorted tokens, √width"] = Case(
    functools.partial(make_model, experts=4),
    FIXED.replace("embed     - out*       1   7   1", "embed     - out*       1   7   7^-1/2"),
    base={"width": 16, "d_ff": 24},
    target={"width": 112, "d_ff": 120},
    inputs=jnp.zeros((2, LENGTH), jnp.int32),
    apply=scaled,
)
