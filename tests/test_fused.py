"""The backward pass fused with the update: the same numbers as the plain step, in less memory."""

import itertools
import os
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
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

    def one(shape):
        return jnp.asarray(random.normal(size=shape) / np.sqrt(shape[-2:][0]), dtype)

    return jax.tree.map(one, shapes, is_leaf=lambda x: isinstance(x, tuple))


def residual(params, x, gather=None):
    """A stack between an embedding and a readout; a vector and two matrices a layer."""
    whole = gather or (lambda w: w)

    def block(x, p):
        p = jax.tree.map(whole, p)
        return x + jnp.tanh(norm(x) @ p["up"] + p["bias"][None]) @ p["down"], None

    x, _ = jax.lax.scan(block, x @ whole(params["in"]), params["blocks"])
    return jnp.mean((norm(x) @ whole(params["out"]) - 1.0) ** 2)


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


def trained(step, tx, params, *args, steps=50) -> Any:
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
        *batch, n_in, n_out = shape
        grows = (jaxmup.Axis("input", n_in, n_in // 2), jaxmup.Axis("output", n_out, n_out // 2))
        return jaxmup.ParamSpec((*(jaxmup.Axis("batch", n) for n in batch), *grows))

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
    "muP adamw": (lambda: mup(optim.adamw, weight_decay=0.1, mask=mask_of),),
    "muP amsgrad": (lambda: mup(optim.amsgrad),),
    "muP muon, layer by layer": (muon,),
    "adafactor, layer by layer": (
        lambda: fused.per_layer(optax.adafactor(0.02, min_dim_size_to_factor=4), "blocks"),
    ),
    "accumulated": (lambda: optax.MultiSteps(optax.adam(0.02), 3).gradient_transformation(),),
    "a NaN in its program": (lambda: optax.stateless(lambda g, _: jax.tree.map(finite, g)),),
    "injected rates": (lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE),),
}


def finite(g):
    return jnp.where(jnp.abs(g) < 1e6, -0.1 * g, jnp.nan)


def mask_of(params):
    return {**jax.tree.map(lambda _: True, params), "out": False}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", cases(OPTIMIZERS))
def test_every_optimizer_ends_where_the_plain_step_does(make):
    tx, params = make(), draw(RESIDUAL)
    expected = trained(plain(residual, tx), tx, params, INPUTS)
    for size in (0, N):
        step = fused.value_and_update(residual, tx, update_size=size)
        require_equal(trained(step, tx, params, INPUTS), expected, "fused", "float64")
    assert float(expected[1][-1]) < float(expected[1][0])


def in_micro_batches(params, batches):
    """`residual` of several micro-batches, each block's one after another."""

    @jax.checkpoint
    def one(p, x):
        return x + jnp.tanh(norm(x) @ p["up"] + p["bias"][None]) @ p["down"]

    def block(xs, p):
        return jax.lax.map(partial(one, p), xs), None

    xs, _ = jax.lax.scan(block, batches @ params["in"], params["blocks"])
    return jnp.mean((norm(xs) @ params["out"] - 1.0) ** 2)


@pytest.mark.usefixtures("x64")
def test_gradients_accumulate_inside_the_block_over_micro_batches():
    """The step on all of them at once, with the temporaries of one and no accumulator."""
    tx, params = optax.adam(0.01), draw(RESIDUAL)
    batches = np.stack([INPUTS, INPUTS[::-1] ** 2, np.cos(INPUTS)])

    def at_once(params, batches):
        return jnp.mean(jnp.stack([residual(params, x) for x in batches]))

    ours = fused.value_and_update(in_micro_batches, tx)
    expected, got = (trained(s, tx, params, batches, steps=20) for s in (plain(at_once, tx), ours))
    require_equal(got, expected, "fused", "float64")


@pytest.mark.usefixtures("x64")
def test_a_model_with_everything_that_a_loop_can_have():
    tx, params, key = optax.adam(0.01), draw(EVERYTHING), jax.random.key(0)
    expected = trained(plain(everything, tx, has_aux=True), tx, params, TOKENS, key)
    for size in (0, 3, N):
        ours = fused.value_and_update(everything, tx, has_aux=True, update_size=size)
        require_equal(trained(ours, tx, params, TOKENS, key), expected, "fused", "float64")


def test_without_contractions_of_products_and_sums_it_is_the_same_to_the_last_bit():
    """Compiled with them, the two programs round the optimizer's products in other places."""
    params, inputs = draw(RESIDUAL, jnp.float32), INPUTS.astype(np.float32)
    for tx, size in itertools.product((optax.adam(0.01), optax.sgd(0.01, 0.9)), (0, N)):
        step = fused.value_and_update(residual, tx, update_size=size)
        expected, got = (trained(s, tx, params, inputs) for s in (plain(residual, tx), step))
        require_equal(got, expected)


@pytest.mark.usefixtures("x64")
def test_a_global_norm_is_measured_in_a_pass_of_its_own():
    of_leaves, tx, params = scalings(RESIDUAL, "adam")[1], optax.sgd(0.3), draw(RESIDUAL)
    chain = optax.chain(optim.clip_by_global_norm(0.1, of_leaves), tx)
    clip = fused.global_norm_clip(0.1, of_leaves)
    (expected, _), values = trained(plain(residual, chain), chain, params, INPUTS)
    for size in (0, N):
        ours = fused.value_and_update(residual, tx, clip=clip, update_size=size)
        (got, _), losses = trained(ours, tx, params, INPUTS)
        require_equal((got, losses), (expected, values), "fused", "float64")


def by_shape():
    """Divides by the number of columns: what it does depends on the shape that it sees."""
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: -0.3 * x / x.shape[-1], g))


def by_number_of_rows():
    """Divides by the number of rows, of which there are fewer when some are taken at a time."""

    def update(gradients, _):
        rows = jax.tree.map(lambda x: x.shape[1], gradients)
        return jax.tree.map(lambda x, n: -0.3 * x / n, gradients, rows)

    return optax.stateless(update)


def by_number():
    """Another rate for each number of a layer."""
    rates = {"in": 0.1, "blocks": jax.tree.map(lambda s: spread(s[1:]), BLOCKS, is_leaf=is_shape)}
    rates["out"] = 0.1
    return optax.stateless(lambda g, _: jax.tree.map(lambda x, r: -0.1 * r * x, g, rates))


def by_row():
    """By the largest gradient of each row; of a vector, of all."""
    return optax.stateless(
        lambda g, _: jax.tree.map(lambda x: -0.1 * x / (1 + jnp.abs(x).max(-1, keepdims=True)), g)
    )


def reversed_rows():
    """The rows of a gradient in reverse order."""
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: -0.1 * x[:, ::-1], g))


def spread(shape):
    return np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(1, *shape)


def is_shape(x):
    return isinstance(x, tuple)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [by_shape, by_number_of_rows, by_number, by_row, reversed_rows])
def test_what_does_not_treat_each_number_by_itself_takes_whole_layers(make):
    tx, params = make(), draw(RESIDUAL)
    step = fused.value_and_update(residual, tx, update_size=N)
    expected, got = (trained(s, tx, params, INPUTS, steps=5) for s in (plain(residual, tx), step))
    require_equal(got, expected, "fused", "float64")


def test_what_is_updated_by_rows_needs_no_memory_for_new_values():
    """With Adam a gradient and some rows, where whole layers need two moments and parameters too.

    The forward pass keeps all that the gradients need: nothing but their order says that a layer is
    read before it is written, and without that XLA copies the stacks.
    """
    layers, n, tx = 8, 128, optax.adam(0.1)

    def loss(params, x):
        def block(x, p):
            return x + jnp.tanh(x @ p["up"]) @ p["down"], None

        return jnp.sum(jax.lax.scan(block, x, params)[0] ** 2)

    shapes = {"up": (layers, n, 2 * n), "down": (layers, 2 * n, n)}
    params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in shapes.items()}
    arguments = params, jax.eval_shape(tx.init, params), jax.ShapeDtypeStruct((1, n), jnp.float32)
    taken = []
    for size in (0, 4 * n):
        step = fused.value_and_update(loss, tx, update_size=size)
        found = fused.memory_report(step, *arguments, forms=("fused",)).forms["fused"]
        taken.append((found.temporaries - found.activations) / (4 * 4 * n * n))
    whole, rows = taken
    assert rows < 2.5 < 4 < whole


class Dropped(nnx.Module):
    """A block with a linear layer, dropout and statistics of its inputs."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = jaxmup.nnx.Linear(N, N, rngs=rngs)
        self.norm = nnx.BatchNorm(N, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.dropout(jnp.tanh(self.linear(self.norm(x))))


def of_nnx():
    """A stack of NNX blocks whose statistics and random keys move; its loss returns both."""
    model = jaxmup.nnx.Stack(Dropped, LAYERS, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x):
        model = nnx.merge(graph, params, rest, copy=True)
        value = jnp.mean((model(x) - 1.0) ** 2)
        return value, nnx.state(model, nnx.Not(nnx.Param))

    return loss, params, (rest, jnp.asarray(INPUTS @ np.ones((5, N)), jnp.float32)), True


class LinenBlock(linen.Module):
    """A block for `nn.scan`."""

    @linen.compact
    def __call__(self, x, _):
        return x + linen.Dropout(0.2, deterministic=False)(jnp.tanh(linen.Dense(N)(x))), x.mean()


def of_linen():
    """A scanned Linen block, rematerialized, with dropout and a collected output."""
    scanned = linen.scan(
        linen.remat(LinenBlock, prevent_cse=False),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=LAYERS,
    )
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    x = jnp.asarray(INPUTS @ np.ones((5, N)), jnp.float32)
    params = scanned().init(keys, x, None)

    def loss(params, x):
        y, means = scanned().apply(params, x, None, rngs=keys)
        return jnp.mean((y - 1.0) ** 2), means

    return loss, params, (x,), True


def of_half():
    """A plain function that computes in bfloat16: its parameters are cast before the loop."""

    @jax.jit
    def loss(params, x):
        half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
        return residual(half, x.astype(jnp.bfloat16)).astype(jnp.float32)

    return loss, draw(RESIDUAL, jnp.float32), (jnp.asarray(INPUTS, jnp.float32),), False


MODELS = {"nnx": (of_nnx, "float32"), "linen": (of_linen, "float32"), "half": (of_half, "bfloat16")}


@pytest.mark.parametrize(("make", "dtype"), cases(MODELS))
def test_models_of_flax(make, dtype):
    loss, params, args, has_aux = make()
    tx = optax.sgd(0.05)
    steps = (plain(loss, tx, has_aux), fused.value_and_update(loss, tx, has_aux=has_aux))
    expected, got = (trained(step, tx, params, *args, steps=5) for step in steps)
    require_equal(jax.tree.map(raw, got), jax.tree.map(raw, expected), "fused", dtype)


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_one_layers_gradients_exist_at_a_time():
    """What no form keeps of a layer, and what only fused forms forget."""
    reports = {}
    for layers in (4, 12):
        shapes = {"in": (5, 32), "blocks": {"up": (layers, 32, 64), "bias": (layers, 64)}}
        shapes["blocks"]["down"] = (layers, 64, 32)
        params = jax.eval_shape(lambda s=shapes: draw({**s, "out": (32, 3)}, jnp.float32))
        tx = optax.adam(0.1)
        step = fused.value_and_update(residual, tx)
        state = jax.eval_shape(tx.init, params)
        inputs = jax.ShapeDtypeStruct(INPUTS.shape, jnp.float32)
        reports[layers] = fused.memory_report(
            step, params, state, inputs, forms=("remat", "remat + fused")
        ).forms
    block = 4 * (2 * 32 * 64 + 64)
    grown = {
        form: reports[12][form].temporaries
        - reports[4][form].temporaries
        - (reports[12][form].activations - reports[4][form].activations)
        for form in ("remat", "remat + fused")
    }
    assert grown["remat"] >= 8 * block  # the gradients of eight layers more
    assert grown["remat + fused"] <= block
    remat, ours = (reports[12][form] for form in ("remat", "remat + fused"))
    assert remat.gradients >= 12 * block > 4 * block > ours.gradients
    assert ours.gradients >= block  # what is live inside of the loop counts too
    donated = ours.parameters + ours.state
    assert donated + ours.temporaries <= ours.peak < donated + ours.temporaries + 1000
    assert remat.parameters == 12 * block + 4 * (5 * 32 + 32 * 3)
    assert remat.state == 2 * remat.parameters + 4
    assert remat.activations == ours.activations >= 12 * BATCH * 32 * 4
    assert "remat + fused" in str(fused.MemoryReport(reports[12]))


def test_forms_without_rematerialization_ignore_a_checkpoint_of_the_model():
    def report(change):
        def loss(params, x):
            block = change(lambda x, w: (jnp.tanh(x @ w), None))
            return jnp.sum(jax.lax.scan(block, x, params)[0])

        step = fused.value_and_update(loss, optax.sgd(0.1))
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 16, 16), (4, 16)))
        params, x = shapes
        return fused.memory_report(step, params, optax.sgd(0.1).init(params), x, forms=("fused",))

    assert report(jax.checkpoint) == report(lambda block: block)


def test_what_was_not_donated_is_said_with_its_cost():
    params, tx = draw(RESIDUAL, jnp.float32), optax.sgd(0.1)
    step, inputs = fused.value_and_update(residual, tx), INPUTS.astype(np.float32)
    size = 4 * sum(x.size for x in jax.tree.leaves(params))
    with pytest.warns(UserWarning, match=rf"not donated: {size:,} bytes exist twice.*donate_argnu"):
        fused.memory_report(jax.jit(step), params, tx.init(params), inputs, forms=())
    with pytest.raises(UserWarning, match=rf"not donated: they exist twice, {size:,} bytes more"):
        step(params, tx.init(params), inputs)


def unrolled(layers, x):
    for w in layers:
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


def test_xla_fuses_unrolled_models_by_itself_but_for_what_couples_them():
    layers = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 6
    x = jax.ShapeDtypeStruct((2, 64), jnp.float32)

    def found(tx):
        step = jax.jit(plain(unrolled, tx), donate_argnums=(0, 1))
        return fused.live_gradients(step, layers, jax.eval_shape(tx.init, layers), x)

    alone, coupled = found(optax.adam(0.1)), found(optax.chain(CLIP, optax.adam(0.1)))
    assert alone.total == coupled.total == 6 * 64 * 64 * 4 == 3 * alone.largest
    assert alone.is_fused
    assert not coupled.is_fused


def test_layer_by_layer_is_the_plain_step():
    tx, params = optax.adam(0.01), list(draw(dict.fromkeys(range(3), (5, 5)), jnp.float32).values())

    def layer(w, x):
        return jnp.tanh(x @ w)

    x = jnp.asarray(INPUTS, jnp.float32)
    step = fused.layer_by_layer([layer] * 3, lambda y: jnp.mean(y**2), tx)
    (expected, _), values = trained(plain(unrolled, tx), tx, params, x, steps=10)
    states = [tx.init(w) for w in params]
    losses = []
    for _ in range(10):
        loss, params, states = step(params, states, x)
        losses.append(loss)
    require_equal((params, jnp.stack(losses)), (expected, values), "fused", "float32")
    with pytest.raises(ValueError, match="3 layers, 3 parameters and 2 states"):
        step(params, states[:2], x)


def test_layer_by_layer_may_start_with_tokens():
    """The first layer has no gradient for its input."""
    tx, tokens = optax.sgd(0.5), jnp.array([1, 0, 1])
    layers = [lambda w, x: w[x], lambda w, x: x @ w]
    params = [jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([[1.0], [-2.0]])]
    step = fused.layer_by_layer(layers, jnp.sum, tx)
    loss, (embed, readout), _ = step(params, [tx.init(w) for w in params], tokens)
    assert float(loss) == -17.0  # 2 (3 - 2 · 5) + (1 - 2 · 2)
    assert embed.tolist() == [[0.5, 3.0], [2.0, 7.0]]  # each token takes -0.5 [1, -2] per use
    assert readout.tolist() == [[-2.5], [-8.0]]  # less 0.5 of the sums, 7 and 12


CLIP = optax.clip_by_global_norm(1.0)


def penalized(params, x):
    return residual(params, x) + jnp.sum(params["blocks"]["up"] ** 2)


def all_penalized(params, x):
    return residual(params, x) + optax.tree.norm(params["blocks"])


def of_one_layer(params, x):
    return jnp.mean((x @ params["in"]) ** 2)


def looped(params, x):
    """A loop whose block has one and the same parameter."""
    x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ params["up"]), None), x, length=LAYERS)
    return jnp.mean(x**2)


def noisy(updates, params):
    def add(u):
        return u + jax.random.normal(jax.random.key(0), u.shape, u.dtype)

    return jax.tree.map(add, updates)


def mean_over_layers(updates, params):
    return jax.tree.map(lambda u: u - u.mean(0, keepdims=True), updates)


def summed_up(updates, params):
    """Of the layers from the first on."""
    return jax.tree.map(lambda u: jnp.cumsum(u, 0), updates)


def with_a_product(updates, params):
    """With a product that is summed over layers."""
    return jax.tree.map(lambda u: u + 0 * jnp.tensordot(u, u, ((0,), (0,))).sum(), updates)


FULL = {"blocks": BLOCKS, "in": (5, N), "out": (N, 3)}
ADAM = optax.adam(0.1)
SCALED = optax.adafactor(0.1)
PER_RATE = optax.stateless(
    lambda u, _: jax.tree.map(lambda x: x * jnp.ones((4, 1, 1)) if x.ndim == 3 else x, u)
)


def over_layers(g, _):
    return jax.tree.map(lambda x: x / x.shape[0], g)


WRONG = {
    "no loop": (of_one_layer, {"in": (5, N)}, ADAM, "Got none. The parameters are\n  in"),
    "a block that is not stacked": (looped, {"up": (5, 5)}, ADAM, "leading axis of layers"),
    "all used elsewhere": (all_penalized, FULL, ADAM, "used elsewhere too.*blocks/bias"),
    "global norm": (residual, FULL, optax.chain(CLIP, ADAM), "the gradient of in.*clip=jaxmup"),
    "not finite": (residual, FULL, optax.apply_if_finite(ADAM, 3), "needs.*the gradient of"),
    "norm of a stack": (residual, FULL, SCALED, "takes all layers together.*per_layer"),
    "mean over layers": (residual, FULL, optax.stateless(mean_over_layers), "layers together"),
    "sum of layers": (residual, FULL, optax.stateless(summed_up), "goes along the layers"),
    "product": (residual, FULL, optax.stateless(with_a_product), "sums over layers"),
    "noise": (residual, FULL, optax.stateless(noisy), "several layers|not known"),
    "by the number of layers": (residual, FULL, optax.stateless(over_layers), "number of layers"),
    "a constant a layer": (residual, FULL, PER_RATE, "shapes and dtypes as they are"),
}


@pytest.mark.parametrize(("loss", "shapes", "tx", "message"), cases(WRONG))
def test_what_cannot_be_fused_is_refused_before_anything_is_computed(loss, shapes, tx, message):
    params = jax.eval_shape(lambda: draw(shapes, jnp.float32))
    x = jax.ShapeDtypeStruct((BATCH, 5), jnp.float32)
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        jax.eval_shape(fused.value_and_update(loss, tx), params, jax.eval_shape(tx.init, params), x)


def test_other_bad_input():
    params = jax.eval_shape(lambda: draw(FULL, jnp.float32))
    x = jax.ShapeDtypeStruct((BATCH, 5), jnp.float32)
    state = jax.eval_shape(ADAM.init, params)
    step = fused.value_and_update(residual, ADAM)
    with pytest.raises(ValueError, match="state must be that of the optimizer"):
        jax.eval_shape(step, params, state[0], x)
    three = jax.eval_shape(lambda: draw(BLOCKS3, jnp.float32))
    short = state[0]._replace(mu={**state[0].mu, "blocks": three})
    with pytest.raises(ValueError, match=r"mu/blocks/up \(3, 6, 12\)"):
        jax.eval_shape(step, params, (short, state[1]), x)
    counts = state[0]._replace(count=jax.ShapeDtypeStruct((LAYERS,), jnp.int32))
    with pytest.raises(ValueError, match=r"count \(4,\), and \(\) for one layer"):
        jax.eval_shape(step, params, (counts, state[1]), x)
    uneven = {**params, "blocks": {**params["blocks"], "up": three["up"]}}
    with pytest.raises(ValueError, match=r"(?s)one length.*blocks/up \(3, 6, 12\).*Stack as many"):
        jax.eval_shape(step, uneven, jax.eval_shape(ADAM.init, uneven), x)
    with pytest.raises(TypeError, match="real scalar"):
        jax.eval_shape(fused.value_and_update(lambda p: p["out"], ADAM), params, state)
    with pytest.raises(TypeError, match="value_and_update"):
        fused.memory_report(jax.jit(residual), params, state, x)
    with pytest.raises(ValueError, match="'eager'"):
        fused.memory_report(step, params, state, x, forms=("eager",))
    with pytest.raises(TypeError, match="must be compiled"):
        fused.live_gradients(step, params, state, x)
    with pytest.raises(ValueError, match="`update_size` must"):
        fused.value_and_update(residual, ADAM, update_size=-1)
    with pytest.raises(TypeError, match=r"`update_size` must be an integer.*Got 1\.5"):
        fused.value_and_update(residual, ADAM, update_size=1.5)  # type: ignore[arg-type]
    for wrong in (0.0, np.float32(-1.0), jnp.array(jnp.nan), jnp.inf):
        with pytest.raises(ValueError, match="`max_norm` must be a finite number above 0"):
            fused.global_norm_clip(wrong)
    with pytest.raises(TypeError, match="`max_norm` must be a real number"):
        fused.global_norm_clip(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="It lacks\n  out"):
        fused.GlobalNormClip(1.0, {"in": 1.0}).factor({"in": 0, "out": 0}, [])
    with pytest.raises(ValueError, match="'block' must all have"):
        fused.per_layer(ADAM, "block").init(params)


BLOCKS3 = {name: (3, *shape[1:]) for name, shape in BLOCKS.items()}


def test_a_parameter_that_is_also_used_elsewhere_keeps_its_gradient():
    tx, params, x = optax.sgd(0.01), draw(RESIDUAL, jnp.float32), INPUTS.astype(np.float32)
    (expected, _), _ = trained(plain(penalized, tx), tx, params, x, steps=5)
    with pytest.warns(UserWarning, match=r"(?s)used elsewhere too.*blocks/up \(4, 6, 12\)"):
        (got, _), _ = trained(fused.value_and_update(penalized, tx), tx, params, x, steps=5)
    require_equal(got, expected, "fused", "float32")


SHARDED = """
import sys; sys.path[:0] = {path}
import jax, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from test_fused import INPUTS, draw, fused, jnp, np, plain, residual
L, n = 16, 64
shapes = {{"up": (L, n, 4 * n), "bias": (L, 4 * n), "down": (L, 4 * n, n)}}
params = draw({{"in": (5, n), "blocks": shapes, "out": (n, 4)}}, jnp.float32)
tx, x = optax.sgd(0.01, 0.9), np.tile(INPUTS, (4, 1)).astype(np.float32)
whole = jax.jit(plain(residual, tx))(params, tx.init(params), x)
total = sum(x.size * 4 for x in jax.tree.leaves(params))

def error(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))

for axes, gather in (("Auto", None), ("Explicit", lambda w: jax.sharding.reshard(w, P()))):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType[axes],))
    def spread(x):
        return jax.device_put(x, NamedSharding(mesh, P(*[None] * (x.ndim - 1), "data")))
    with jax.set_mesh(mesh):
        apart = jax.tree.map(spread, params)
        state, inputs = tx.init(apart), jax.device_put(x, NamedSharding(mesh, P("data")))
        step = fused.value_and_update(lambda *args: residual(*args, gather), tx)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(apart, state, inputs).compile()
        sizes = compiled.memory_analysis()
        got = compiled(apart, state, inputs)
    errors = jax.tree.map(error, got[:2], whole[:2])
    spec = jax.tree.leaves(got[1])[0].sharding.spec
    print(max(jax.tree.leaves(errors)), sizes.temp_size_in_bytes / total, "data" in spec)
types = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=w.sharding), apart)
with jax.set_mesh(mesh):
    state = jax.eval_shape(tx.init, types)
    report = fused.memory_report(step, types, state, inputs, forms=["fused"])
print(report.forms["fused"].parameters / total)
"""


def test_sharded_parameters_stay_so():
    """FSDP over four devices, in meshes of both kinds: the same numbers, and no stack gathered."""
    code = SHARDED.format(path=[p for p in sys.path if p])
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **flags}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *kinds, on_one_device = done.stdout.splitlines()[-3:]
    assert float(on_one_device) == 0.25
    for line in kinds:
        error, temporaries, is_sharded = line.split()
        assert float(error) <= TOL["fused", "float32"].rtol
        assert float(temporaries) < 0.5
        assert is_sharded == "True"
