"""Kernels of variance 1 in the product, and training in float8."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.linen.fp8_ops import fp8_scaled_dot_general
from helpers import named
from jax import lax

import jaxmup

UNIT, TABLE3 = named("mup adam unit"), named("mup adam table3")
SIZES = {"in_features": 256, "out_features": 64, "base_in_features": 16}


class Spy:
    """A `dot_general` that keeps what it is given."""

    def __init__(self):
        self.stds = []

    def __call__(self, x, w, dims, precision=None, out_sharding=None, **settings):
        self.stds.append((float(jnp.std(x)), float(jnp.std(w))))
        return lax.dot_general(x, w, dims, **settings)


def nnx_layer(parametrization, spy):
    settings = {"parametrization": parametrization, "dot_general": spy, "rngs": nnx.Rngs(0)}
    return jaxmup.nnx.Linear(**SIZES, **settings)


def linen_layer(parametrization, spy):
    layer = jaxmup.linen.Dense(
        64, base_in_features=16, parametrization=parametrization, dot_general=spy
    )
    variables = layer.init(jax.random.key(0), jnp.ones((1, 256)))
    spy.stds.clear()
    return functools.partial(layer.apply, variables)


@pytest.mark.parametrize("make", [nnx_layer, linen_layer])
@pytest.mark.parametrize("tokens", [4, 512], ids=["few", "many"])
def test_under_unit_the_product_has_inputs_and_kernel_of_std_one(make, tokens):
    """A kernel of 256 inputs has std 1/16 elsewhere; here it comes after the product."""
    spy = Spy()
    make(UNIT, spy)(jax.random.normal(jax.random.key(1), (tokens, 256)))
    ((of_inputs, of_kernel),) = spy.stds
    assert of_inputs == pytest.approx(1, abs=0.05)
    assert of_kernel == pytest.approx(1, abs=0.05)


def test_a_move_of_gauge_moves_the_place_of_the_multiplier():
    x = jax.random.normal(jax.random.key(1), (512, 256))
    spy = Spy()
    layer = nnx_layer(TABLE3, spy)
    layer.bias.set_value(jnp.full(64, 0.25))
    there = jaxmup.nnx.regauged(layer, UNIT)
    back = jaxmup.nnx.regauged(there, TABLE3)
    outputs = [each(x) for each in (layer, there, back)]
    # muP's readout: σ = 1/4 at base width and r = 16, so that W has std 1/64
    assert [w for _, w in spy.stds] == pytest.approx([1 / 64, 1, 1 / 64], rel=0.05)
    for y in outputs[1:]:
        np.testing.assert_array_equal(y, outputs[0])  # θ is a power of two


def test_a_tied_readout_has_the_embedding_as_it_is():
    embed = jaxmup.nnx.Embed(
        64, 256, base_features=16, parametrization=UNIT, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (128, 256))
    program = jax.make_jaxpr(lambda x: embed.attend(x))(x)
    names = [equation.primitive.name for equation in program.eqns]
    assert names.index("mul") > names.index("dot_general")


def test_parameters_may_be_float8_where_those_of_flax_may():
    """Flax's own initializers are NaN in float8; one that draws in float32 is not."""

    def init(key, shape, dtype):
        return jax.random.normal(key, shape, jnp.float32).astype(dtype)

    settings = {"param_dtype": jnp.float8_e4m3fn, "dtype": jnp.float32, "kernel_init": init}
    ours = jaxmup.nnx.Linear(32, 32, **settings, rngs=nnx.Rngs(0))
    plain = nnx.Linear(32, 32, **settings, rngs=nnx.Rngs(0))
    assert ours.kernel.dtype == jnp.float8_e4m3fn
    x = jax.random.normal(jax.random.key(1), (4, 32))
    assert jnp.isfinite(plain(x)).all()
    np.testing.assert_array_equal(ours(x), plain(x))
    wide = jaxmup.nnx.Linear(64, 8, base_in_features=32, **settings, rngs=nnx.Rngs(0))
    tokens = jnp.ones((1, 64))  # the sum of 64 normal numbers, halved
    assert 2 < float(jnp.std(wide(tokens))) < 8


# ---- training

VOCABULARY, BATCH, LENGTH, STEPS = 32, 8, 16, 40


def in_float8(x, w, dims, precision=None, out_sharding=None, preferred_element_type=None):
    """Flax's product: inputs and kernel in e4m3 as they are, gradients in e5m2 by token."""
    one, no_history = jnp.ones(1, jnp.float32), jnp.zeros(1, jnp.float32)
    return fp8_scaled_dot_general(
        x,
        w,
        dims,
        preferred_element_type=x.dtype,
        lhs_scale=one,
        rhs_scale=one,
        grad_scale=one / (BATCH * LENGTH),
        lhs_amax_history=no_history,
        rhs_amax_history=no_history,
        grad_amax_history=no_history,
    )


def trained(dot_general):
    """The mean loss of the last ten steps, in nats."""
    sizes = {"width": 64, "num_layers": 2, "num_heads": 4, "base_width": 16, "base_num_heads": 4}
    model = jaxmup.models.GPT(
        VOCABULARY,
        **sizes,
        stacked=True,
        parametrization=UNIT,
        dtype=jnp.bfloat16,
        dot_general=dot_general,
        rngs=nnx.Rngs(0),
    )
    graph, params = nnx.split(model, nnx.Param)
    tx = jaxmup.optim.adam(2**-7, jaxmup.resolve(jaxmup.nnx.specs(model), UNIT))
    state = tx.init(params)
    # A walk with steps of 1 to 4: ln 4 = 1.386 nats are left of ln 32 = 3.466.
    walks = np.random.default_rng(0).integers(1, 5, (STEPS, BATCH, LENGTH + 1)).cumsum(-1)

    def loss_fn(params, tokens):
        logits = nnx.merge(graph, params)(tokens[:, :-1]).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(carry, tokens):
        params, state = carry
        loss, gradients = jax.value_and_grad(loss_fn)(params, tokens)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), loss

    _, losses = jax.jit(lambda carry, tokens: lax.scan(step, carry, tokens))(
        (params, state), walks % VOCABULARY
    )
    return float(losses[-10:].mean())


def test_a_gpt_trains_in_float8_as_in_bfloat16():
    """Within 0.02 nats, where bfloat16 has learned more than one."""
    plain, ours = trained(lax.dot_general), trained(in_float8)
    assert plain < np.log(VOCABULARY) - 1
    assert abs(ours - plain) < 0.02
    assert ours != plain
