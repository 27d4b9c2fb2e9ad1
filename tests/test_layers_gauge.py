"""Multipliers as data, and models in another gauge."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases, require_close
from test_layers import bits, draw

import jaxmup
from jaxmup import functional, parametrization

TABLE3, TABLE9 = (parametrization("mup", gauge=gauge) for gauge in ("table3", "table9"))


class Net(nnx.Module):
    """An input, a hidden and an output layer, 16 times wider than the base model."""

    def __init__(self, dtype: Any = None, param_dtype: Any = jnp.float32):
        kwargs = {"dtype": dtype, "param_dtype": param_dtype, "rngs": nnx.Rngs(0)}
        kwargs |= {"bias_init_std": 0.5}
        linear = jaxmup.nnx.Linear
        self.first = linear(3, 32, base_out_features=2, **kwargs)
        self.hidden = linear(32, 32, base_in_features=2, base_out_features=2, **kwargs)
        self.readout = linear(32, 5, base_in_features=2, **kwargs)

    def __call__(self, x):
        return self.readout(jnp.tanh(self.hidden(jnp.tanh(self.first(x)))))


def multipliers(model: nnx.Module) -> dict[str, float]:
    flat = nnx.to_flat_state(nnx.state(model, jaxmup.nnx.Multiplier))
    return {"/".join(map(str, path)): float(value[...]) for path, value in flat}


# Tensor Programs V, Tables 8, 3 and 9, at a width ratio of 16.
MULTIPLIERS = {
    "table8": (parametrization("mup"), 1.0, 1 / 16),
    "table3": (TABLE3, 1.0, 1.0),
    "table9": (TABLE9, 4.0, 1 / 4),
}


@pytest.mark.parametrize("traced", [False, True], ids=["constant", "traced"])
@pytest.mark.parametrize(("rule", "vector", "readout"), cases(MULTIPLIERS))
def test_a_regauged_model_computes_the_same_bits(rule, vector, readout, traced):
    model, x = Net(), draw(4, 3)
    before = bits(nnx.state(model)), jaxmup.nnx.specs(model)
    source = jaxmup.nnx.trace_multipliers(model) if traced else model
    moved = jaxmup.nnx.regauged(source, rule)
    as_data = jaxmup.nnx.trace_multipliers(moved)
    assert multipliers(as_data) == {
        "first/kernel_multiplier": vector,
        "first/bias_multiplier": vector,
        "hidden/kernel_multiplier": 1.0,
        "hidden/bias_multiplier": vector,
        "readout/kernel_multiplier": readout,
        "readout/bias_multiplier": 1.0,
    }
    assert bits(moved(x)) == bits(model(x))
    jaxmup.resolve(jaxmup.nnx.specs(moved), rule)  # which refuses another gauge than is applied
    assert (bits(nnx.state(model)), jaxmup.nnx.specs(model)) == before
    again = jaxmup.nnx.regauged(moved, parametrization("mup"))
    assert bits(nnx.state(again)) == bits(nnx.state(source))
    assert jaxmup.nnx.specs(again) == before[1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_one_compiled_program_serves_every_gauge_with_the_same_bits(dtype):
    model, x = jaxmup.nnx.trace_multipliers(Net(dtype, dtype)), draw(4, 3).astype(dtype)
    graph, *state = nnx.split(model, nnx.Param, jaxmup.nnx.Multiplier)
    params, factors = map(nnx.to_pure_dict, state)
    traces = []

    @jax.jit
    def loss_and_effective_gradients(params, factors):
        traces.append(1)

        def loss(params):
            return jnp.sum(nnx.merge(graph, params, factors)(x).astype(jnp.float32) ** 2)

        return jax.value_and_grad(loss)(params)

    value, gradients = loss_and_effective_gradients(params, factors)
    for rule in (TABLE3, TABLE9):
        _, *moved = nnx.split(jaxmup.nnx.regauged(model, rule), nnx.Param, jaxmup.nnx.Multiplier)
        moved_params, moved_factors = map(nnx.to_pure_dict, moved)
        other, other_gradients = loss_and_effective_gradients(moved_params, moved_factors)
        assert bits(other) == bits(value)
        thetas = jax.tree.map(jnp.divide, moved_factors, factors)
        for layer, theta in thetas.items():
            for name in ("kernel", "bias"):
                expected = gradients[layer][name] * theta[f"{name}_multiplier"].astype(dtype)
                assert bits(other_gradients[layer][name]) == bits(expected)
    assert len(traces) == 1


def test_scale_by_an_array_multiplies_also_by_one():
    x = jnp.linspace(1.0, 2.0, 7).astype(jnp.bfloat16)
    assert bits(functional.scale(x, jnp.float32(1 / 3))) == bits(functional.scale(x, 1 / 3))
    equations = jax.make_jaxpr(functional.scale)(x, jnp.float32(1.0)).eqns
    assert [e.primitive.name for e in equations].count("mul") == 1


def test_traced_multipliers_stack_with_their_parameters():
    def block(rngs):
        return jaxmup.nnx.Linear(4, 8, base_in_features=2, bias_init_std=1.0, rngs=rngs)

    stacked = nnx.split_rngs(splits=3)(nnx.vmap(block))(nnx.Rngs(0))
    traced = jaxmup.nnx.trace_multipliers(stacked)
    assert traced.kernel_multiplier.shape == (3,)
    moved = jaxmup.nnx.regauged(traced, TABLE3)
    x, apply = draw(3, 2, 4), nnx.vmap(lambda layer, x: layer(x))
    assert bits(apply(moved, x)) == bits(apply(stacked, x))
    assert float(moved.kernel_multiplier[0]) == 1.0


def test_traced_multipliers_are_not_trained():
    traced = jaxmup.nnx.trace_multipliers(Net())
    assert jaxmup.nnx.specs(traced) == jaxmup.nnx.specs(Net())
    gradients = nnx.grad(lambda model: jnp.sum(model(draw(2, 3))))(traced)
    assert "kernel_multiplier" not in gradients["first"]


def test_regauged_refuses_other_physics():
    with pytest.raises(ValueError, match="readout/kernel: A gauge move keeps"):
        jaxmup.nnx.regauged(Net(), parametrization("standard"))
    with pytest.raises(TypeError, match="Got 'mup'"):
        jaxmup.nnx.regauged(Net(), "mup")
    model = Net()
    model.first.kernel = model.hidden.kernel
    with pytest.raises(ValueError, match="first/kernel and hidden/kernel are the same"):
        jaxmup.nnx.regauged(model, TABLE3)
    model = Net()
    model.first.kernel = nnx.Param(model.first.kernel[...])
    with pytest.raises(ValueError, match=r"first/kernel of shape \(3, 32\) has none"):
        jaxmup.nnx.regauged(model, TABLE3)


# ---- Linen


def dense(features: int, **kwargs: Any) -> jaxmup.linen.Dense:
    return jaxmup.linen.Dense(features, base_in_features=2, bias_init_std=1.0, **kwargs)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return dense(5)(jnp.tanh(dense(32, name="hidden")(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return dense(8, base_features=2, parametrization="ntk")(x), None


def test_linen_multipliers_replace_the_constants():
    model, x = LinenNet(), draw(4, 32)
    params = model.init(jax.random.key(0), x)["params"]
    factors = jaxmup.linen.multipliers(model, x)
    assert jax.tree.map(float, factors) == {
        "Dense_0": {"kernel": 1 / 16, "bias": 1.0},
        "hidden": {"kernel": 1 / 16, "bias": 1.0},
    }
    y = model.apply({"params": params}, x)
    assert bits(model.apply({"params": params, "multipliers": factors}, x)) == bits(y)
    halves = jax.tree.map(lambda m: m / 2, factors)
    doubled = jax.tree.map(lambda w: w * 2, params)
    assert bits(model.apply({"params": doubled, "multipliers": halves}, x)) == bits(y)


@pytest.mark.parametrize("axis", ["variable_axes", "variable_broadcast"])
def test_linen_multipliers_are_lifted(axis):
    lifted = {"params": 0} | ({"multipliers": 0} if axis == "variable_axes" else {})
    kwargs = {"variable_axes": lifted, "split_rngs": {"params": True}, "length": 3}
    if axis == "variable_broadcast":
        kwargs["variable_broadcast"] = "multipliers"
    model, x = nn.scan(Block, **kwargs)(), draw(2, 8)
    factors = jaxmup.linen.multipliers(model, x, None)
    assert {m.ndim for m in jax.tree.leaves(factors)} == {int(axis == "variable_axes")}
    params = model.init(jax.random.key(0), x, None)["params"]
    expected, _ = model.apply({"params": params}, x, None)
    y, _ = model.apply({"params": params, "multipliers": factors}, x, None)
    require_close(y, expected, "layer", "float32")


def test_linen_multipliers_that_do_not_reach_a_layer_are_an_error():
    model = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    with pytest.raises(ValueError, match=r"does not reach those of\n  Dense_0/kernel"):
        jaxmup.linen.multipliers(model, np.ones((2, 8)), None)
