"""Mixture of experts in plain functions: a top-2 router, sorted tokens or a dense combination."""

import functools
import math

import jax
import jax.numpy as jnp

from zoo.case import Case

VOCABULARY, LENGTH, CAPACITY = 11, 6, 3


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
    chosen = jax.nn.one_hot(chosen, experts)
    combined = jnp.einsum("tk,tke->te", gates, chosen)
    h = jnp.einsum("td,edf->etf", x, params["up"]) + params["up_bias"][:, None]
    y = jnp.einsum("etf,efd->etd", jax.nn.gelu(h), params["down"])
    return jnp.einsum("te,etd->td", combined, y)


def every_expert(params, x):
    """What all experts make of all tokens."""
    h = jnp.einsum("td,edf->tef", x, params["up"]) + params["up_bias"]
    return jnp.einsum("tef,efd->ted", jax.nn.gelu(h), params["down"])


def dispatched(params, x):
    """Switch: a place in the expert's buffer of fixed capacity for each token."""
    probabilities = jax.nn.softmax(x @ params["router"])
    expert = jnp.argmax(probabilities, -1)
    mask = jax.nn.one_hot(expert, probabilities.shape[-1])
    place = jnp.sum((jnp.cumsum(mask, 0) - 1) * mask, -1).astype(jnp.int32)
    dispatch = mask[..., None] * jax.nn.one_hot(place, CAPACITY)[:, None]
    combine = dispatch * jnp.sum(probabilities * mask, -1)[:, None, None]
    h = jnp.einsum("tec,td->ecd", dispatch, x)
    h = jnp.einsum("ecd,edf->ecf", h, params["up"]) + params["up_bias"][:, None]
    y = jnp.einsum("ecf,efd->ecd", jax.nn.gelu(h), params["down"])
    return jnp.einsum("tec,ecd->td", combine, y)


def grouped(params, x):
    """GShard: two experts by einsum, and the dispatch from where the combination is not zero."""
    gates, chosen = routed(x, params["router"])
    mask = jax.nn.one_hot(chosen, params["router"].shape[-1])
    place = jnp.cumsum(mask.reshape(-1, mask.shape[-1]), 0).reshape(mask.shape) * mask - 1
    place = place.max(-1).astype(int)
    place = jax.nn.one_hot(place, CAPACITY) * (place < CAPACITY)[..., None]
    combine = jnp.einsum("tk,tke,tkc->tec", gates, mask, place)
    h = jnp.einsum("tec,td->ecd", combine.astype(bool).astype(x.dtype), x)
    h = jnp.einsum("ecd,edf->ecf", h, params["up"]) + params["up_bias"][:, None]
    return jnp.einsum("tec,efd,ecf->td", combine, params["down"], jax.nn.gelu(h))


def scattered_gates(params, x):
    """The gates of the chosen, put into zeros."""
    gates, chosen = routed(x, params["router"])
    combined = jnp.zeros((len(x), params["router"].shape[-1]))
    combined = combined.at[jnp.arange(len(x))[:, None], chosen].add(gates)
    return jnp.einsum("te,ted->td", combined, every_expert(params, x))


def above_a_threshold(params, x):
    """All experts that are no worse than the second, their gates to sum to 1."""
    gates = jax.nn.sigmoid(x @ params["router"])
    gates = gates * (gates >= jax.lax.top_k(gates, 2)[0][:, -1:])
    gates /= gates.sum(-1, keepdims=True) + 1e-9
    return (gates[..., None] * every_expert(params, x)).sum(1)


def above_a_sorted_one(params, x):
    logits = x @ params["router"]
    logits = jnp.where(logits < jnp.sort(logits)[:, -2:-1], -jnp.inf, logits)
    return jnp.einsum("te,ted->td", jax.nn.softmax(logits), every_expert(params, x))


def by_rank(params, x):
    """The mask of the two that come first in the order of their logits."""
    logits = x @ params["router"]
    rank = jnp.argsort(jnp.argsort(-logits, -1), -1)
    chosen = jnp.where(rank < 2, jax.nn.softmax(logits), 0)
    return jnp.einsum("te,ted->td", chosen, every_expert(params, x))


def the_largest(params, x):
    """The best expert alone, times its probability, which no norm brings back to 1."""
    probabilities = jnp.exp(jax.nn.log_softmax(x @ params["router"]))
    best = probabilities == probabilities.max(-1, keepdims=True)
    return jnp.sum(jnp.where(best, probabilities, 0)[..., None] * every_expert(params, x), 1)


def taken_from_all(params, x):
    """Outputs of the chosen, taken from those of all."""
    gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ params["router"]), 2)
    y = jnp.take_along_axis(every_expert(params, x), chosen[..., None], 1)
    return jnp.einsum("tk,tkd->td", gates, y)


def matrices_of_the_chosen(params, x):
    """Matrices of the chosen experts for each token."""
    gates, chosen = routed(x, params["router"])
    h = jnp.einsum("td,tkdf->tkf", x, params["up"][chosen]) + params["up_bias"][chosen]
    y = jnp.einsum("tkf,tkfd->tkd", jax.nn.gelu(h), params["down"][chosen])
    return jnp.einsum("tk,tkd->td", gates, y)


def softly(params, x):
    """All experts, by exponentials over the sum of those that are not masked."""
    logits = x @ params["router"]
    weights = jax.nn.softmax(logits, where=logits > -1.0)
    return jnp.einsum("te,ted->td", weights, every_expert(params, x))


def by_expert(params, x):
    """Each expert picks its three tokens, and puts them back where they were."""
    scores = jax.nn.softmax(x @ params["router"])
    gates, picked = jax.lax.top_k(scores.T, CAPACITY)
    h = jnp.einsum("ecd,edf->ecf", x[picked], params["up"]) + params["up_bias"][:, None]
    y = jnp.einsum("ecf,efd->ecd", jax.nn.gelu(h), params["down"])
    picked = jax.nn.one_hot(picked, len(x))
    return jnp.einsum("ec,ect,ecd->td", gates, picked, y)


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
DISPATCHES = {
    "sorted tokens": sorted_tokens,
    "dense combination": dense_combination,
    "Switch": dispatched,
    "GShard": grouped,
    "scattered gates": scattered_gates,
    "above a threshold": above_a_threshold,
    "above a sorted one": above_a_sorted_one,
    "by rank": by_rank,
    "the largest": the_largest,
    "taken from all": taken_from_all,
    "matrices of the chosen": matrices_of_the_chosen,
    "softly": softly,
    "expert choice": by_expert,
}
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
    CASES[f"{name}, more experts"] = Case(make_model, GROWING, **more)


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
