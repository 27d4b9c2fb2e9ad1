"""A table of models that are plain functions of a dict of arrays, and parts that many have."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from zoo.case import Case

BATCH, LENGTH, VOCABULARY = 2, 6, 11
TOKENS = jnp.zeros((BATCH, LENGTH), jnp.int32)
FEATURES = jnp.zeros((BATCH, 5))
SIZES = {"n": (16, 7), "d": (4, 2), "h": (2, 3), "f": (24, 5), "e": (4, 3)}
"""Base sizes and what they grow by: width, head size, heads, hidden width, experts."""


class Table(dict[str, Case]):
    """Cases by name."""

    def case(
        self,
        name: str,
        grows: str,
        shapes: Callable[..., dict[str, tuple[int, ...]]],
        answer: str = "",
        **expected: Any,
    ) -> Callable:
        """Adds the model that a function of arrays is, whose shapes follow from sizes.

        Args:
          name: Name of the case.
          grows: Names of the sizes that grow, a letter each; the others are the base model's.
          shapes: Function of all sizes that returns the shapes of the parameters.
          answer: Table of the answer.
          expected: What else `of` takes.
        """

        def make_model(**sizes):
            sizes = {key: base for key, (base, _) in SIZES.items()} | sizes
            return {name: jnp.ones(shape) for name, shape in shapes(**sizes).items()}

        def add(function):
            self[name] = of(make_model, grows, answer, apply=function, **expected)
            return function

        return add


def of(make_model, grows: str, answer: str, *, inputs: Any = TOKENS, **expected: Any) -> Case:
    """The case of a model of which these sizes grow."""
    base = {name: SIZES[name][0] for name in grows}
    target = {name: math.prod(SIZES[name]) for name in grows}
    return Case(make_model, answer, base, target, inputs, **expected)


def rms(x, scale=1.0):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def attended(q, k, v, scale):
    """Attention of `(batch, length, heads, head_size)`."""
    logits = jnp.einsum("bthd,bshd->bhts", q, k) * scale
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)


def attention(p, x, scale):
    q, k, v = (jnp.einsum("btn,nhd->bthd", x, p[name]) for name in "qkv")
    return jnp.einsum("bthd,hdn->btn", attended(q, k, v, scale), p["o"])


def embedded(n, **_):
    return {"embed": (VOCABULARY, n), "head": (n, VOCABULARY)}


def with_attention(n, h, d, **_):
    to_heads = dict.fromkeys("qkv", (n, h, d))
    return {**embedded(n), **to_heads, "o": (h, d, n)}


def hidden(n, **_):
    return {**embedded(n), "w": (n, n)}


ENDS = """
embed   - out*   1   7   1
head    in* -    7   1   1
"""
LARGER_HEADS = """
[kv]   in* - out*    7   2   1
o      in in* out*   2   7   1
"""
HIDDEN = """
w      in* out*   7   7   1
"""
