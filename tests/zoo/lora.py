"""Attention with low-rank updates of its kernels, beside them or merged into them."""

import functools
import math

import jax
import jax.numpy as jnp

from zoo.case import Case, at

VOCABULARY, LENGTH, RANK = 11, 6, 4


def make_model(width, heads, head_size, key):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    inner = heads * head_size
    kernels = {"q": (width, inner), "k": (width, inner), "v": (width, inner), "o": (inner, width)}
    adapted = {
        name: {"A": normal(i, kernels[name][0], RANK), "B": normal(i, RANK, kernels[name][1])}
        for i, name in enumerate("qo")
    }
    return {
        "embed": normal(10, VOCABULARY, width),
        "lora": adapted,
        "head": normal(11, width, VOCABULARY),
        **{name: normal(12, *shape) for name, shape in kernels.items()},
    }


def beside(x, kernel, lora):
    return x @ kernel + x @ lora["A"] @ lora["B"] * (16 / RANK)


def merged(x, kernel, lora):
    return x @ (kernel + lora["A"] @ lora["B"] * (16 / RANK))


def apply(params, tokens, through, head_size):
    x = params["embed"][tokens]
    q = through(x, params["q"], params["lora"]["q"])
    k, v = x @ params["k"], x @ params["v"]
    q, k, v = (a.reshape(*a.shape[:2], -1, head_size or a.shape[-1] // 2) for a in (q, k, v))
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])  # logits
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
    y = y.reshape(*y.shape[:2], -1)
    return (x + through(y, params["o"], params["lora"]["o"])) @ params["head"]


# `A` maps the width to the rank, as a readout does, and `B` the rank to the width, as an embedding.
LORA = """
lora/q/A   in* -      7     1     {gain}
lora/q/B   in out*    1     {r}   {gain}
lora/o/A   in* -      {r}   1     1
lora/o/B   in out*    1     7     1
"""
ANSWER = (
    LORA
    + """
embed      - out*     1     7     1
[qk]       in* out*   7     {r}   {gain}
v          in* out*   7     {r}   1
o          in* out*   {r}   7     1
head       in* -      7     1     1
"""
)
HEADS = {"base": {"width": 16, "heads": 2}, "target": {"width": 112, "heads": 6}}
SIZE = {"base": {"width": 16, "head_size": 8}, "target": {"width": 112, "head_size": 16}}
CASES = {}
for name, through in {"beside": beside, "merged": merged}.items():
    how = {"inputs": jnp.zeros((2, LENGTH), jnp.int32)}
    more_heads = functools.partial(make_model, head_size=8)
    larger_heads = functools.partial(make_model, heads=2)
    fixed = functools.partial(apply, through=through, head_size=8)
    larger = functools.partial(apply, through=through, head_size=None)
    CASES[f"{name}, more heads"] = Case(
        more_heads, ANSWER.format(r=3, gain=1), apply=fixed, **HEADS, **how
    )
    CASES[f"{name}, more heads, the rest frozen"] = Case(
        more_heads, LORA.format(r=3, gain=1), apply=fixed, wrt="lora/*", **HEADS, **how
    )
    # All of the queries, or all of the keys, carry the factor that the logits lack.
    CASES[f"{name}, larger heads"] = Case(
        larger_heads,
        ANSWER.format(r=2, gain="?"),
        apply=larger,
        products={"q * k": "2^-1/2", "lora/q/A * lora/q/B * k": "2^-1/2"},
        **SIZE,
        **how,
    )
    # What is frozen carries nothing, and half of the queries is not enough.
    CASES[f"{name}, larger heads, the rest frozen"] = Case(
        larger_heads,
        "",
        apply=larger,
        wrt="lora/*",
        refused=at(__file__, "logits"),
        **SIZE,
        **how,
    )
