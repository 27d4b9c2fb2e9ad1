"""Sums of random signs, read off programs; every exponent by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import cases

from jaxmup.coord_check import tag
from jaxmup.coord_check._signs import signs_of
from jaxmup.coord_check._tags import collecting

SIZES = (8, 32)


def signs(loss, params_of, *inputs):
    """What random signs do to a loss whose parameters are a dict of shapes, some of width `n`."""
    programs = []
    for n in SIZES:
        params = {k: jax.ShapeDtypeStruct(v, "float32") for k, v in params_of(n).items()}
        programs.append(jax.make_jaxpr(loss)(params, *inputs))
    return signs_of(programs, sorted(params_of(1)), SIZES[1] / SIZES[0])


X = jnp.ones((5, 3))


def mlp(p, x):
    return jnp.mean((jnp.tanh(jnp.tanh(x @ p["in"]) @ p["mid"]) @ p["out"]) ** 2)


def attention(p, x):
    """One head of the size of the width, between an embedding and a readout."""
    h = x @ p["in"]
    a = jax.nn.softmax((h @ p["q"]) @ (h @ p["k"]).T / p["k"].shape[1])
    return jnp.mean((h + a @ (h @ p["v"])) @ p["out"])


def heads_grow(p, x):
    """Heads of three entries, of which there are more in a wider model."""
    h = x @ p["in"]
    q, k, v = (jnp.einsum("tn,nhd->htd", h, p[name]) for name in "qkv")
    a = jax.nn.softmax(jnp.einsum("htd,hsd->hts", q, k))
    return jnp.mean((h + jnp.einsum("hts,hsd,hdn->tn", a, v, p["o"])) @ p["out"])


def gate(p, x):
    """One number for each example, that all features are multiplied by."""
    h = x @ p["in"]
    return jnp.mean((h * jax.nn.sigmoid(h @ p["gate"] + p["bias"][None])) @ p["out"])


def narrow(p, x):
    """Three numbers between features and features."""
    return jnp.mean(jnp.tanh(jnp.tanh(x @ p["in"]) @ p["down"]) @ p["up"] @ p["out"])


def delta_state(p, x):
    """Linear attention by a state of outer products, forgotten by one number for each token."""
    h = x @ p["in"]
    keep = jax.nn.sigmoid(h @ p["forget"])

    def step(state, now):
        q, k, v, keep = now
        state = keep[:, None] * state + jnp.outer(v, k)
        return state, state @ q / q.shape[0]

    start = jnp.zeros((p["q"].shape[1], p["q"].shape[1]))
    y = jax.lax.scan(step, start, (h @ p["q"], h @ p["k"], h @ p["v"], keep))[1]
    return jnp.mean((h + y) @ p["out"])


def stopped(p, x):
    """Attention whose logits do not learn."""
    h = x @ p["in"]
    logits = jax.lax.stop_gradient((h @ p["q"]) @ (h @ p["k"]).T / p["k"].shape[1])
    return jnp.mean((h + jax.nn.softmax(logits) @ (h @ p["v"])) @ p["out"])


def energy(p, x):
    """Outputs times the mean square of the features, which is a sum of like signs."""
    h = x @ p["in"]
    return jnp.mean(jnp.einsum("tn,tn->t", h, h)[:, None] / h.shape[1] * (h @ p["out"]))


def residual(p, x):
    """A way around the bottleneck: it counts for what is inside of it alone."""
    h = jnp.tanh(x @ p["in"])
    return jnp.mean((h + jnp.tanh(h @ p["down"]) @ p["up"]) @ p["out"])


def ends(n, **more):
    return {"in": (3, n), "out": (n, 2)} | more


# A gradient falls short by n^-1/2 for each sum of n random signs on its best way to the loss.
GRADIENTS = {
    "MLP": (mlp, lambda n: ends(n, mid=(n, n)), {}),
    # What moves an attention logit is a sum over the values' features.
    "attention": (
        attention, lambda n: ends(n, q=(n, n), k=(n, n), v=(n, n)), {"q": 0.5, "k": 0.5},
    ),
    # Of three features each, which do not grow.
    "heads grow": (
        heads_grow, lambda n: ends(n, **dict.fromkeys("qkv", (n, n, 3)), o=(n, 3, n)), {},
    ),
    "gate": (gate, lambda n: ends(n, gate=(n, 1), bias=(1,)), {"gate": 0.5, "bias": 0.5}),
    # What leaves the narrow place is small at first, and so are the gradients of what it meets;
    # what returns to it is a sum of random signs.
    "narrow": (
        narrow,
        lambda n: ends(n, down=(n, 3), up=(3, n)),
        {"in": 0.5, "down": 0.5, "up": 0.5, "out": 0.5},
    ),
    "stopped": (stopped, lambda n: ends(n, q=(n, n), k=(n, n), v=(n, n)), {}),
    "energy": (energy, ends, {}),
    "around": (residual, lambda n: ends(n, down=(n, 3), up=(3, n)), {"down": 0.5, "up": 0.5}),
    # What is forgotten moves by (gradient · v) (q · k) / n, two sums of n random signs each. What
    # moves keys and queries has the first of them, what moves values the second.
    "state": (
        delta_state,
        lambda n: ends(n, q=(n, n), k=(n, n), v=(n, n), forget=(n, 1)),
        {"q": 0.5, "k": 0.5, "v": 0.5, "forget": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "shapes", "short"), cases(GRADIENTS))
def test_gradients_fall_short_by_the_sums_on_their_way(loss, shapes, short):
    found = signs(loss, shapes, X).gradients
    assert found == pytest.approx(dict.fromkeys(found, 0.0) | short)


def test_outputs_fall_short_and_what_the_loss_does_not_see_is_known():
    def loss(p, x):
        h = tag("h", jnp.tanh(x @ p["in"]))
        other = jnp.tanh(x @ p["other"])
        tag("head", other @ p["out"])  # for evaluation
        return jnp.mean(tag("head", h @ p["out"]) ** 2) + 0 * jnp.mean(tag("seen", h.mean(-1)))

    found = signs(loss, lambda n: ends(n, other=(3, n)), X)
    assert found.outputs == pytest.approx({"h": 0, "head": 0.5, "head#1": 0.5, "seen": 0.5})
    assert found.unseen == {"head"}
    assert str(found.lines["h"]).startswith("test_signs.py:")
    assert found.lines["out"].text.startswith('tag("head", other')


def test_programs_that_do_other_things_are_refused():
    programs = [jax.make_jaxpr(f)(jnp.ones(2)) for f in (jnp.sin, jnp.cos)]
    with pytest.raises(ValueError, match="sin"):
        signs_of(programs, ["w"])


def test_logits_are_seen_through_a_softmax_that_moves_axes():
    """As `nnx.MultiHeadAttention` computes it, by `jax.nn.dot_product_attention`."""
    layer = functools.partial(nnx.MultiHeadAttention, num_heads=2, in_features=4, decode=False)
    graph, state = nnx.split(layer(rngs=nnx.Rngs(0)))
    x = jnp.ones((1, 3, 4))
    _, found = collecting(lambda s, x: nnx.merge(graph, s)(x), state, x)(state, x)
    (logits,) = found
    assert logits.is_logits
    assert logits.value.size == 2 * 3 * 3
