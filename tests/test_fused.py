"""The backward pass fused with the update: the same numbers as the plain step, in less memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TOL, cases

import jaxmup
from jaxmup import fused, optim

LAYERS, N, BATCH = 4, 6, 3
SCHEDULE = optax.cosine_decay_schedule(0.02, 40)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def norm(x):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def draw(shapes: Any, dtype: Any = jnp.float64) -> Any:
    """Normal parameters of these shapes, of variance 1 over the last axis but one."""
    random = np.random.default_rng(0)
    one = lambda s: jnp.asarray(random.normal(size=s) / np.sqrt(s[-2:][0]), dtype)
    return jax.tree.map(one, shapes, is_leaf=lambda x: isinstance(x, tuple))


def residual(params, x):
    """A stack between an embedding and a readout; a vector and two matrices a layer."""

    def block(x, p):
        return x + jnp.tanh(norm(x) @ p["up"] + p["bias"][None]) @ p["down"], None

    x, _ = jax.lax.scan(block, x @ params["in"], params["blocks"])
    return jnp.mean((norm(x) @ params["out"] - 1.0) ** 2)


BLOCKS = {"up": (LAYERS, N, 2 * N), "bias": (LAYERS, 2 * N), "down": (LAYERS, 2 * N, N)}
RESIDUAL = {"in": (5, N), "blocks": BLOCKS, "out": (N, 3)}
INPUTS = np.random.default_rng(1).normal(size=(BATCH, 5))

EVERYTHING = {
    "embed": (11, N),
    "encoder": {"w": (LAYERS, N, N), "b": (LAYERS, N)},
    "decoder": {"up": (2, N, N), "skip": (2, N, N)},
    "shared": (N, N),
}


def everything(params, tokens, key):
    """Two stacks, the second in reverse, with all that a loop can have.

    Positions, a mask, dropout, a checkpoint with a policy, outputs that the second stack reads and
    that are returned, statistics, an integer carry, a parameter that every layer shares, and an
    embedding used twice.
    """
    mask = jnp.tril(jnp.ones((BATCH, BATCH)))

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def encode(x, inputs):
        p, key, statistic, position = inputs
        keep = jax.random.bernoulli(key, 0.8, x.shape)
        h = jnp.where(keep, norm(x) @ p["w"] + p["b"][None], 0.0) + position
        h = jnp.tanh(mask @ h + x @ params["shared"])
        return x + h, (h, statistic + jax.lax.stop_gradient(h.mean()))

    def decode(carry, inputs):
        x, count = carry
        p, h = inputs
        return (x + jnp.tanh(x @ p["up"] + h @ p["skip"]), count + 1), None

    layers = (params["encoder"], jax.random.split(key, LAYERS), jnp.zeros(LAYERS), jnp.arange(4.0))
    x, (skips, statistics) = jax.lax.scan(encode, params["embed"][tokens], layers)
    (x, count), _ = jax.lax.scan(decode, (x, 0), (params["decoder"], skips[:2]), reverse=True)
    logits = norm(x) @ params["embed"].T
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()
    return loss, (statistics, count)


TOKENS = np.array([1, 4, 10])


def plain(loss_fn, tx, has_aux=False):
    """The step that computes all gradients before it updates."""

    def step(params, state, *args):
        value, gradients = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, *args)
        updates, state = tx.update(gradients, state, params)
        return value, optax.apply_updates(params, updates), state

    return step


def trained(step, tx, params, *args, steps=50, **compiled) -> Any:
    """All values, and parameters and state, after some steps in one program."""

    def run(params, state):
        def one(carry, _):
            value, *carry = step(*carry, *args)
            return tuple(carry), value

        return jax.lax.scan(one, (params, state), length=steps)

    return jax.jit(run, compiler_options=QUICK)(params, tx.init(params))


def require_equal(got: Any, expected: Any, *row: str) -> None:
    """Each tensor within a row of the table, relative to its norm; without a row, bit for bit."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.float64(a), np.float64(b)
        assert np.linalg.norm(a - b) <= (TOL[row].rtol if row else 0.0) * np.linalg.norm(b)


def scalings(shapes: Any, family: Any) -> Any:
    """MuP at twice the base width, with a batch axis where parameters are stacked."""

    def spec(shape):
        grows = [jaxmup.Axis(k, n, base=n // 2) for k, n in zip(("input", "output"), shape[-2:])]
        return jaxmup.ParamSpec((*(jaxmup.Axis("batch", n) for n in shape[:-2]), *grows))

    vector = jaxmup.ParamSpec((jaxmup.Axis("batch", LAYERS), jaxmup.Axis("output", 2 * N, base=N)))
    specs = jax.tree.map(spec, shapes, is_leaf=lambda x: isinstance(x, tuple))
    specs["blocks"]["bias"] = vector
    specs["in"] = jaxmup.ParamSpec((jaxmup.Axis("input", 5), jaxmup.Axis("output", N, base=3)))
    return specs, jaxmup.resolve(specs, jaxmup.parametrization("mup", family))


def muon() -> optax.GradientTransformation:
    specs, scaled = scalings(RESIDUAL, "muon")
    return optim.muon(SCHEDULE, scaled, specs, weight_decay=0.1)


def mup(chain: Any, **arguments: Any) -> optax.GradientTransformation:
    return chain(SCHEDULE, scalings(RESIDUAL, "adam")[1], **arguments)


OPTIMIZERS = {
    "adam": (lambda: optax.adam(SCHEDULE),),
    "sgd, Nesterov": (lambda: optax.sgd(0.1, 0.9, nesterov=True),),
    "muP adamw": (lambda: mup(optim.adamw, weight_decay=0.1, mask=lambda p: {**mask_of(p)}),),
    "muP amsgrad": (lambda: mup(optim.amsgrad),),
    "muP muon, layer by layer": (muon,),
    "adafactor, layer by layer": (
        lambda: fused.per_layer(optax.adafactor(0.02, min_dim_size_to_factor=4), "blocks"),
    ),
    "accumulated": (lambda: optax.MultiSteps(optax.adam(0.02), 3).gradient_transformation(),),
    "injected rates": (lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE),),
}


def mask_of(params):
    return {name: jax.tree.map(lambda _: name != "out", tree) for name, tree in params.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", cases(OPTIMIZERS))
def test_every_optimizer_ends_where_the_plain_step_does(make):
    tx, params = make(), draw(RESIDUAL)
    steps = (plain(residual, tx), fused.value_and_update(residual, tx))
    expected, got = (trained(step, tx, params, INPUTS) for step in steps)
    require_equal(got, expected, "fused", "float64")
    assert float(expected[1][-1]) < float(expected[1][0])


@pytest.mark.usefixtures("x64")
def test_a_model_with_everything_that_a_loop_can_have():
    tx, params, key = optax.adam(0.01), draw(EVERYTHING), jax.random.key(0)
    ours = fused.value_and_update(everything, tx, has_aux=True)
    steps = (plain(everything, tx, has_aux=True), ours)
    expected, got = (trained(step, tx, params, TOKENS, key) for step in steps)
    require_equal(got, expected, "fused", "float64")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.usefixtures("x64")
def test_sgd_is_the_same_to_the_last_bit(dtype):
    tx, params, inputs = optax.sgd(0.1), draw(RESIDUAL, dtype), INPUTS.astype(dtype)
    steps = (plain(residual, tx), fused.value_and_update(residual, tx))
    expected, got = (trained(step, tx, params, inputs) for step in steps)
    require_equal(got, expected)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.usefixtures("x64")
def test_a_global_norm_is_measured_in_a_pass_of_its_own(scaled):
    of_leaves = scalings(RESIDUAL, "adam")[1] if scaled else None
    clip = optim.clip_by_global_norm(0.1, of_leaves) if scaled else optax.clip_by_global_norm(0.1)
    tx, params = optax.sgd(0.3), draw(RESIDUAL)
    chain = optax.chain(clip, tx)
    ours = fused.value_and_update(residual, tx, clip=fused.clip_by_global_norm(0.1, of_leaves))
    (p, _), values = trained(plain(residual, chain), chain, params, INPUTS)
    (q, _), got = trained(ours, tx, params, INPUTS)
    require_equal((q, got), (p, values), "fused", "float64")
    (unclipped, _), _ = trained(plain(residual, tx), tx, params, INPUTS)
    assert abs(float(unclipped["out"][0, 0] / p["out"][0, 0]) - 1) > 1e-3
