"""The reference models."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import z_bound

import jaxmup
from jaxmup._tree import leaves_by_path
from jaxmup.models import CNN, GPT, MLP
from jaxmup.models._block import rotate


def mlp(**changes):
    arguments = {"width": 32, "depth": 3, "base_width": 16}
    return MLP(8, 4, rngs=nnx.Rngs(0), **arguments | changes)


def test_depth_counts_the_hidden_layers():
    state = nnx.state(nnx.eval_shape(lambda: mlp(depth=4)), nnx.Param)
    kernels = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim == 2]
    assert kernels == [(8, 32), (32, 32), (32, 32), (32, 32), (32, 4)]


def test_roles():
    specs = jaxmup.nnx.specs(nnx.eval_shape(mlp))
    assert [specs["hidden"][i]["kernel"].role for i in range(3)] == ["input", "hidden", "hidden"]
    assert [specs["hidden"][i]["bias"].role for i in range(3)] == ["input", "input", "input"]
    assert (specs["readout"]["kernel"].role, specs["readout"]["bias"].role) == ("output", "fixed")


def test_forward_is_activation_after_each_hidden_layer_and_none_after_the_readout():
    model = mlp(activation=jnp.tanh, depth=2)
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
    w0, w1, w2 = (
        np.asarray(layer.kernel[...], np.float64) * layer.kernel_multiplier
        for layer in (*model.hidden, model.readout)
    )
    expected = np.tanh(np.tanh(x @ w0) @ w1) @ w2
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-6)


def test_parametrization_reaches_every_layer():
    # In the gauge "ntk" each kernel has a multiplier other than 1, and `resolve` refuses layers of
    # another gauge.
    rule = jaxmup.parametrization("mup", "sgd", gauge="ntk")
    abstract = nnx.eval_shape(lambda: mlp(parametrization=rule))
    scalings = jaxmup.resolve(jaxmup.nnx.specs(abstract), rule)
    assert scalings["readout"]["kernel"].multiplier == pytest.approx(2**-0.5)
    assert [scalings["hidden"][i]["kernel"].multiplier for i in range(3)] == pytest.approx(
        [1.0, 2**-0.5, 2**-0.5]
    )


@pytest.mark.parametrize("name", ["depth", "width", "base_width"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match="at least 1"):
        mlp(**{name: 0})


# ---- GPT

GPT2 = {
    "positions": "learned",
    "context": 5,
    "norm": "layer",
    "feed_forward": "plain",
    "use_bias": True,
    "tied": True,
}
TOKENS = jnp.array([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])


def gpt(**changes):
    sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "base_width": 8}
    return GPT(11, rngs=nnx.Rngs(0), **sizes | changes)


def roles(model):
    """Names of the parameters by role; what blocks have, without their number."""
    found = {}
    for name, spec in leaves_by_path(jaxmup.nnx.specs(model)).items():
        found.setdefault(spec.role, set()).add(re.sub(r"blocks/(\d+/|blocks/)", "", name))
    return {role: " ".join(sorted(names)) for role, names in found.items()}


ATTENTION = (
    "attention/key/kernel attention/out/kernel attention/query/kernel attention/value/kernel"
)
LLAMA_ROLES = {
    "input": "attention_norm/scale embed/embedding feed_forward_norm/scale norm/scale",
    "hidden": f"{ATTENTION} feed_forward/down/kernel feed_forward/gate/kernel "
    "feed_forward/up/kernel",
    "output": "readout/kernel",
}
GPT2_ROLES = {
    "input": "attention/key/bias attention/out/bias attention/query/bias attention/value/bias "
    "attention_norm/bias attention_norm/scale embed/embedding feed_forward/down/bias "
    "feed_forward/up/bias feed_forward_norm/bias feed_forward_norm/scale norm/bias norm/scale "
    "positions/embedding",
    "hidden": f"{ATTENTION} feed_forward/down/kernel feed_forward/up/kernel",
}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("changes", "expected"), [({}, LLAMA_ROLES), (GPT2, GPT2_ROLES)])
def test_roles_of_a_gpt(changes, expected, stacked):
    model = nnx.eval_shape(lambda: gpt(stacked=stacked, **changes))
    assert roles(model) == expected


@pytest.fixture(scope="module")
def gpt2():
    return gpt(**GPT2)


def test_a_gpt_sees_no_later_token_and_every_earlier_one(gpt2):
    model = nnx.jit(gpt2)
    logits = [model(TOKENS.at[0, 2].set(token)) for token in (4, 9)]
    differs = np.abs(logits[0] - logits[1]).max((0, 2)) > 0
    assert differs.tolist() == [False, False, True, True, True]


def test_a_stacked_gpt_computes_what_its_blocks_do(gpt2):
    stacked, listed = gpt(stacked=True, **GPT2), nnx.clone(gpt2)
    state, blocks = (nnx.to_pure_dict(nnx.state(m, nnx.Param)) for m in (stacked, listed))
    stack = state["blocks"].pop("blocks")
    each = {i: jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(2)}
    assert jax.tree.structure(blocks) == jax.tree.structure({**state, "blocks": each})
    nnx.update(listed, {**state, "blocks": each})
    np.testing.assert_allclose(listed(TOKENS), stacked(TOKENS), rtol=1e-5, atol=1e-6)


def test_rotated_products_depend_on_the_distance_alone(x64):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 6))
    rows = [rotate(jnp.broadcast_to(x, (8, 1, 6))) for x in (q, k)]
    products = np.einsum("thd,shd->ts", *rows)
    for distance in range(-7, 8):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-12)
    # by hand: the first pair, features 0 and 3, turns by 1 per position, the last by 10000^(-4/6)
    turned = np.asarray(rows[0][1, 0])
    for i, angle in ((0, 1.0), (2, 10_000 ** (-4 / 6))):
        complex_pair = (q[0, i] + 1j * q[0, i + 3]) * np.exp(1j * angle)
        np.testing.assert_allclose(turned[[i, i + 3]], [complex_pair.real, complex_pair.imag])


def test_initial_std_of_a_gpt():
    """GPT-2's 0.02 in every matrix, over √2 in hidden ones at twice the base width."""
    model = gpt(**GPT2 | {"context": 40, "init_std": 0.02}, width=64, base_width=32)
    specs = leaves_by_path(jaxmup.nnx.specs(model))
    for name, leaf in leaves_by_path(nnx.state(model, nnx.Param)).items():
        if specs[name].role == "hidden" or name.endswith("embedding"):
            expected = 0.02 if name.endswith("embedding") else 0.02 / 2**0.5
            bound = 1 + z_bound(leaf.size)
            assert expected / bound < np.std(leaf) < expected * bound, name
    untied = gpt(init_std=0.02, base_width=16).readout.kernel[...]
    assert 0.015 < np.std(untied) < 0.025
    zeros = gpt(init_std=0.02, readout_init=nnx.initializers.zeros)
    assert not np.any(zeros(TOKENS))


def test_a_gpt_takes_a_rule_of_ones_own():
    rule = jaxmup.Parametrization.from_table(
        "mine", "adam", dict.fromkeys(("input", "hidden", "output"), jaxmup.ABCD(0, 0.5, 1, 0))
    )
    scalings = jaxmup.resolve(jaxmup.nnx.specs(gpt(parametrization=rule)), rule)
    assert {s.lr for s in leaves_by_path(scalings).values()} == {0.5}


@pytest.mark.parametrize("tied", [False, True])
def test_logit_scale_multiplies_the_logits(tied):
    plain, scaled = (gpt(tied=tied, logit_scale=scale)(TOKENS) for scale in (1.0, 4.0))
    np.testing.assert_allclose(scaled, 4 * plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "default"), [("gated", jax.nn.silu), ("plain", lambda x: jax.nn.gelu(x, True))]
)
def test_activation_of_a_gpt(kind, default):
    def fed(**activation):
        block = gpt(num_layers=1, feed_forward=kind, **activation).blocks[0]
        return block.feed_forward(jnp.linspace(-2, 2, 32).reshape(2, 16))

    assert np.array_equal(fed(), fed(activation=default))
    assert not np.any(fed(activation=jnp.zeros_like))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "`width` must be a multiple of `num_heads`.*Got 16 and 3"),
        ({"base_num_heads": 3}, "`base_width` must be a multiple of `base_num_heads`"),
        ({"num_layers": 0}, "`num_layers`.*at least 1. Got 0"),
        ({"base_num_layers": 0}, "`base_num_layers`.*at least 1. Got 0"),
        ({"hidden_features": 0, "base_hidden_features": 0}, "at least 1. Got 0"),
        ({"width": 0}, "`width` .* at least 1. Got 0"),
        ({"hidden_features": 32}, "`hidden_features` and `base_hidden_features`.*together"),
        ({"norm": "batch"}, "`norm` must be one of 'rms', 'layer'. Got 'batch'"),
        ({"feed_forward": "moe"}, "`feed_forward` must be one of 'gated', 'plain'"),
        ({"positions": "none"}, "`positions` must be one of 'rotary', 'learned'"),
        ({"positions": "learned"}, "`context`.*must be given for learned positions"),
        ({"context": 8}, "`context`.*not for rotary ones"),
        ({"tied": True, "readout_init": nnx.initializers.zeros}, "left out for a tied readout"),
    ],
)
def test_a_gpt_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        gpt(**changes)


def test_a_readout_that_starts_at_zero():
    assert not np.any(gpt(readout_init=nnx.initializers.zeros)(TOKENS))


def test_a_sequence_longer_than_its_positions():
    with pytest.raises(ValueError, match=r"no longer than .* positions, 5. Got .*\(1, 6\)"):
        nnx.eval_shape(lambda: gpt(**GPT2)(jnp.zeros((1, 6), jnp.int32)))
    with pytest.raises(ValueError, match=r"must be even. Got \(2, 1, 3\)"):
        rotate(jnp.ones((2, 1, 3)))


# ---- CNN


def test_roles_and_sizes_of_a_cnn():
    def make():
        return CNN(3, 5, width=8, num_stages=3, base_width=4, rngs=nnx.Rngs(0))

    specs = leaves_by_path(jaxmup.nnx.specs(nnx.eval_shape(make)))
    kernels = {name: (s.shape, s.role) for name, s in specs.items() if name.endswith("kernel")}
    assert kernels == {
        "convs/0/kernel": ((3, 3, 3, 8), "input"),
        "convs/1/kernel": ((3, 3, 8, 16), "hidden"),
        "convs/2/kernel": ((3, 3, 16, 32), "hidden"),
        "readout/kernel": ((32, 5), "output"),
    }
    assert {s.r_out for name, s in specs.items() if name.startswith("norms")} == {2.0}
    assert nnx.eval_shape(lambda: make()(jnp.ones((2, 8, 8, 3)))).shape == (2, 5)


def test_a_cnn_without_a_stage():
    with pytest.raises(ValueError, match=r"`num_stages`.*at least 1. Got 0"):
        CNN(3, 5, width=8, num_stages=0, base_width=4, rngs=nnx.Rngs(0))
