"""Scales measured in one pass: what they make 1, for which modules, and what is refused."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import TOL

import jaxmup
from jaxmup import empirical
from jaxmup.empirical import absorb_scales, calibrate, learning_rates, report, statistics, wrap

X = jax.random.normal(jax.random.key(1), (32, 6))
Y = jax.random.normal(jax.random.key(2), (32, 6))


def loss(outputs):
    return jnp.square(outputs - Y).mean()


class Net(nnx.Module):
    """Three layers behind norms, with a residual; a layer may be used several times."""

    def __init__(self, uses=1, activation=jnp.tanh):
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.layers = nnx.List(nnx.Linear(6, 6, rngs=rngs) for _ in range(2))
        self.uses, self.activation = uses, activation

    def __call__(self, x):
        x = x + self.activation(self.layers[0](self.norm(x)))
        for _ in range(self.uses):
            x = self.activation(self.layers[1](x))
        return x


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + jnp.tanh(nn.Dense(6, name="first")(nn.LayerNorm(name="norm")(x)))
        return jnp.tanh(nn.Dense(6, name="second")(x))


def numbers(rows):
    return np.array([[row.activations, row.gradients, row.updates] for row in rows])


def values(scales):
    return {name: {k: float(v) for k, v in s.items()} for name, s in scales.items()}


def leaves(model):
    counts = nnx.state(model, nnx.Not(nnx.RngKey))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(counts)]


# ---- What holds afterwards


@pytest.mark.parametrize("uses", [1, 3])
def test_three_numbers_are_one(uses):
    model = Net(uses)
    before = leaves(model)
    found = calibrate(model, X, loss)
    assert (found.passes == 1) == (uses == 1)
    assert list(found.scales) == ["norm", "layers/0", "layers/1"]  # in the order of the calls
    np.testing.assert_allclose(numbers(statistics(found.model, X, loss)), 1.0, rtol=1e-4)
    # The model itself is as it was, and biases are zero in the new one.
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(model), strict=True))
    inner = found.model.layers[0].module
    assert not np.any(inner.bias[...])
    assert np.array_equal(found.model.norm.module.scale[...], np.ones(6))
    assert np.std(inner.kernel[...]) == pytest.approx(1.0, rel=0.4)
    assert not np.array_equal(inner.kernel[...], found.model.layers[1].module.kernel[...])


def test_the_change_of_a_step_is_one():
    """By taking the step: SGD at a small learning rate, on the module's own parameters."""
    layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
    model = calibrate(layer, X, loss, redraw=False).model
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def outputs(params):
        return nnx.merge(graph, params, rest)(X)

    gradients = jax.grad(lambda params: loss(outputs(params)))(params)
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradients)
    change = (outputs(moved) - outputs(params)) / 1e-2  # linear in the parameters: exact
    assert float(jnp.sqrt(jnp.square(change).mean())) == pytest.approx(1.0, rel=1e-4)


def test_gradients_are_per_example():
    """A layer that doubles, and a mean over 32 examples: 2 for each, not 2 / 32."""
    layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
    layer.kernel[...] = 2 * jnp.eye(6)
    [row] = statistics(layer, X, lambda y: y.sum(axis=1).mean())
    assert row.gradients == pytest.approx(2.0)


def test_a_gradient_leaves_the_whole_model_with_rms_one():
    """As `jax.grad` finds it through both layers."""
    model = nnx.Sequential(*(nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(2)))
    model = calibrate(model, X, loss).model
    gradient = 32 * jax.grad(lambda x: loss(model(x)))(X)
    assert float(jnp.sqrt(jnp.square(gradient).mean())) == pytest.approx(1.0, rel=1e-4)


def test_modules_that_share_a_parameter():
    model = Net()
    model.layers[1].kernel = model.layers[0].kernel
    found = calibrate(model, X, loss)
    assert found.passes > 1
    np.testing.assert_allclose(numbers(statistics(found.model, X, loss)), 1.0, rtol=1e-4)


def test_linen_finds_the_same_scales():
    model = Net()
    module = LinenNet()
    variables = module.init(jax.random.key(0), X)
    names = {"norm": model.norm, "first": model.layers[0], "second": model.layers[1]}
    for name, layer in names.items():
        variables["params"][name] = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    ours = values(calibrate(model, X, loss, redraw=False).scales)
    found = calibrate(module, X, loss, variables=variables, redraw=False)
    theirs = values(found.scales)
    for name, same in {"norm": "norm", "first": "layers/0", "second": "layers/1"}.items():
        assert theirs[name] == pytest.approx(ours[same], rel=TOL["layer", "float32"].rtol)
    # Applied, they give outputs of RMS 1 before the last tanh; the collection is the only addition.
    assert set(found.model) == {"params", "empirical"}
    shown = report(module, found.model, X, loss, variables=variables)
    np.testing.assert_allclose(numbers(shown.after), 1.0, rtol=1e-4)
    assert np.max(np.abs(numbers(shown.before) - 1)) > 0.5
    absorbed = absorb_scales(module, variables=found.model, inputs=X)
    assert not absorbed.kept
    np.testing.assert_allclose(
        module.apply(absorbed.model, X),
        empirical.apply(module, found.model, X),
        rtol=1e-4,
        atol=1e-5,
    )


def test_stacked_modules_have_a_scale_each():
    """A scan over layers against the same layers in a row."""
    keys = jax.random.split(jax.random.key(3), 2)
    stack = jaxmup.nnx.Stack(lambda rngs: nnx.Linear(6, 6, rngs=rngs), 2, rngs=nnx.Rngs(0))
    stack.blocks.kernel[...] = jnp.stack([jax.random.normal(key, (6, 6)) for key in keys])
    row = nnx.Sequential(*(nnx.Linear(6, 6, rngs=nnx.Rngs(0)) for _ in range(2)))
    for layer, kernel in zip(row.layers, stack.blocks.kernel[...], strict=True):
        layer.kernel[...] = kernel
    [stacked] = calibrate(stack, X, loss, redraw=False).scales.values()
    apart = calibrate(row, X, loss, redraw=False).scales.values()
    for name, found in stacked.items():
        np.testing.assert_allclose(found, [scales[name] for scales in apart], rtol=1e-4)


def test_linen_scan_has_a_scale_for_each_layer():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(nn.Dense(6)(x)), None

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
            )
            return scan(name="blocks")(x, None)[0]

    module = Scanned()
    variables = module.init(jax.random.key(0), X)
    found = calibrate(module, X, loss, variables=variables)
    assert found.scales["blocks/Dense_0"]["scale_actv_y"].shape == (2,)
    rows = statistics(module, X, loss, variables=found.model)
    assert [row.module for row in rows] == ["blocks/Dense_0[0]", "blocks/Dense_0[1]"]
    np.testing.assert_allclose(numbers(rows), 1.0, rtol=1e-4)


def test_complex_parameters_and_several_inputs():
    class Bilinear(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jax.random.normal(jax.random.key(0), (6, 6), jnp.complex64))

        def __call__(self, a, b):
            return (a @ self.w[...]) * b

    def real_loss(z):
        return jnp.square(jnp.abs(z - Y * 1j)).mean()

    found = calibrate(Bilinear(), (X + 1j * Y, 3 * X), real_loss)
    [row] = statistics(found.model, (X + 1j * Y, 3 * X), real_loss)
    np.testing.assert_allclose(numbers([row]), 1.0, rtol=1e-4)
    # |∂L/∂w| from real and imaginary parts: the step that lowers the loss changes z by RMS 1.
    graph, params, rest = nnx.split(found.model, nnx.Param, ...)

    def outputs(params):
        return nnx.merge(graph, params, rest)(X + 1j * Y, 3 * X)

    gradients = jax.grad(lambda params: real_loss(outputs(params)))(params)
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g.conj(), params, gradients)
    change = (outputs(moved) - outputs(params)) / 1e-2
    assert float(jnp.sqrt(jnp.square(jnp.abs(change)).mean())) == pytest.approx(1.0, rel=1e-3)
    assert real_loss(outputs(moved)) < real_loss(outputs(params))


class Rich(nnx.Module):
    """An embedding used twice, remat, dropout, and norms by the batch."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(5, 6, rngs=rngs)
        self.dense = nnx.Linear(6, 6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(3))
        self.norm = nnx.BatchNorm(6, rngs=rngs)

    def __call__(self, tokens):
        x = nnx.remat(lambda layer, x: layer(x))(self.dense, self.embed(tokens))
        return self.embed.attend(self.norm(self.dropout(jnp.tanh(x))))


class LinenRich(nn.Module):
    """The same."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(5, 6, name="embed")
        x = nn.remat(nn.Dense)(6, name="dense")(embed(tokens))
        x = nn.Dropout(0.5, deterministic=False)(jnp.tanh(x))
        return embed.attend(nn.BatchNorm(use_running_average=False, name="norm")(x))


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_tied_embedding_remat_dropout_and_batch_norm(api):
    tokens = jnp.arange(32) % 5

    def loss_fn(logits):
        return jnp.square(logits - Y[:, :5]).mean()

    if api == "nnx":
        model = Rich()
        before = leaves(model)
        found = calibrate(model, tokens, loss_fn)
        rows = statistics(found.model, tokens, loss_fn)
        # Neither the running statistics nor the count of random keys are those of the pass.
        assert all(np.array_equal(a, b) for a, b in zip(before, leaves(model), strict=True))
        assert np.array_equal(found.model.norm.module.mean[...], np.zeros(6))
    else:
        model, keys = LinenRich(), {"rngs": {"dropout": jax.random.key(5)}}
        variables = model.init({"params": jax.random.key(0), **keys["rngs"]}, tokens)
        found = calibrate(model, tokens, loss_fn, variables=variables, arguments=keys)
        rows = statistics(model, tokens, loss_fn, variables=found.model, arguments=keys)
        assert np.array_equal(found.model["batch_stats"]["norm"]["mean"], np.zeros(6))
    assert [row.module for row in rows] == ["embed", "dense", "norm"]
    np.testing.assert_allclose(numbers(rows), 1.0, rtol=1e-4)


def test_a_readout_has_a_gain_of_one():
    """Orthogonal rows of length 3 from 6 features to 2 outputs: a gain of 3 √(6 / 2)."""
    layer = nnx.Linear(6, 2, rngs=nnx.Rngs(0))
    layer.kernel[...] = 3 * jnp.eye(6)[:, :2]

    def loss_fn(outputs):
        return jnp.square(outputs - Y[:, :2]).mean()

    found = calibrate(layer, X, loss_fn, readouts=["model"], redraw=False)
    assert float(found.scales["model"]["scale_actv_y"]) == pytest.approx(1 / (3 * 3**0.5))
    [row] = statistics(found.model, X, loss_fn)
    assert row.activations == pytest.approx(np.sqrt(np.mean(X[:, :2] ** 2) / 3), rel=1e-5)
    assert (row.gradients, row.updates) == pytest.approx((1.0, 1.0), rel=1e-4)
    with pytest.raises(ValueError, match="used once and share no parameter"):
        calibrate(Net(2), X, loss, readouts=["layers/1"])
    with pytest.raises(ValueError, match="must have an input that a gradient can pass to"):
        calibrate(nnx.Embed(5, 6, rngs=nnx.Rngs(0)), jnp.arange(32) % 5, loss, readouts=["model"])
    with pytest.raises(ValueError, match="must match a module to calibrate"):
        calibrate(layer, X, loss_fn, readouts=["head"])


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


def summed(layer, pair, double, train):
    """Asks Python what is no array."""
    assert train is True
    return layer(pair.left + pair.right if double is False else pair.left)


class Flagged(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, pair, double=False, *, train):
        return summed(self.layer, pair, double, train)


class LinenFlagged(nn.Module):
    @nn.compact
    def __call__(self, pair, double=False, *, train):
        return summed(nn.Dense(6, name="layer"), pair, double, train)


@pytest.mark.parametrize("api", ["nnx", "linen"])
@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        (Pair(X - 1, 1), {"train": True}),
        ((Pair(X - 1, 1), False), {"train": True}),
        ({"args": Pair(X - 1, 1), "kwargs": {"train": True}}, None),
        ({"args": (Pair(X, X), True), "kwargs": {"train": True}}, None),
    ],
    ids=["named tuple", "flag", "keywords", "both"],
)
def test_inputs_are_any_tree_and_flags_stay_flags(api, inputs, arguments):
    plain, module = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), LinenFlagged()
    kernel = {"kernel": plain.kernel[...], "bias": plain.bias[...]}
    expected = values(calibrate(plain, X, loss, redraw=False).scales)["model"]
    model, variables = (
        (Flagged(), None) if api == "nnx" else (module, {"params": {"layer": kernel}})
    )
    options = {"variables": variables, "arguments": arguments}
    found = calibrate(model, inputs, loss, redraw=False, **options)
    assert values(found.scales)["layer"] == pytest.approx(expected, rel=1e-4)
    if api == "nnx":
        after = statistics(found.model, inputs, loss, arguments=arguments)
        assert not absorb_scales(found.model).kept
    else:
        after = statistics(model, inputs, loss, variables=found.model, arguments=arguments)
        options |= {"variables": found.model}
        assert not absorb_scales(model, inputs=inputs, **options).kept
    np.testing.assert_allclose(numbers(after), 1.0, rtol=1e-4)
    assert wrap(model, inputs, **options) is not None


@pytest.mark.parametrize("make", [lambda size, rngs: Net(), lambda size: LinenNet()])
def test_a_model_of_one_size_is_drawn_and_called_as_it_says(make):
    doubled = jaxmup.Model(make, inputs=X / 2, apply=lambda model, x: model(2 * x)).at(6)
    held = doubled.join(doubled.draw(jax.random.key(7)))
    found = calibrate(doubled, None, loss, redraw=False, key=jax.random.key(7))
    by_hand = (
        calibrate(held, X, loss, redraw=False)
        if doubled.kind == "nnx"
        else calibrate(LinenNet(), X, loss, variables=held, redraw=False)
    )
    for name, scales in values(by_hand.scales).items():
        assert values(found.scales)[name] == pytest.approx(scales, rel=1e-5)
    shown = report(doubled, found.model, None, loss, variables=held)
    np.testing.assert_allclose(numbers(shown.after), 1.0, rtol=1e-4)
    assert np.max(np.abs(numbers(shown.before) - 1)) > 0.5
    assert not absorb_scales(doubled, variables=found.model).kept
    assert wrap(doubled, None) is not None


def test_models_that_cannot_be_measured_are_refused():
    def tree(size, key):
        return {"w": jnp.ones((6, size))}

    model = jaxmup.Model(tree, inputs=X, apply=lambda tree, x: x @ tree["w"])
    with pytest.raises(TypeError, match=r"its size with `.at\(size\)`"):
        calibrate(model, X, loss)
    with pytest.raises(TypeError, match="must consist of Flax modules"):
        calibrate(model.at(6), None, loss)
    linen = jaxmup.Model(lambda size: LinenNet(), inputs=X).at(6)
    with pytest.raises(TypeError, match="must be a model of kind 'linen' as a user holds it"):
        calibrate(linen, None, loss, variables=Net())
    with pytest.raises(TypeError, match="Got none in either"):
        calibrate(jaxmup.Model(lambda size, rngs: Net()).at(6), None, loss)


def test_traced_it_finds_the_same_and_looks_at_nothing():
    def traced(model):
        graph, state = nnx.split(model)

        @jax.jit
        def scales(state):
            return calibrate(nnx.merge(graph, state), X, loss, redraw=False).scales

        return values(scales(state))

    expected = values(calibrate(Net(), X, loss, redraw=False).scales)
    for name, found in traced(Net()).items():
        assert found == pytest.approx(expected[name], rel=1e-4)
    repeated = traced(Net(uses=2))
    assert np.isnan(repeated["layers/1"]["scale_actv_y"])
    assert np.isfinite(repeated["layers/0"]["scale_actv_y"])


def test_one_evaluation_whatever_the_depth():
    """The activation function stands outside of every wrapped module."""
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(x)

    counts = []
    for depth in (2, 6):
        layers = [nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(depth)]
        model = nnx.Sequential(*(part for layer in layers for part in (layer, counted)))
        calibrate(model, X, loss)
        jax.effects_barrier()
        counts.append(len(calls) / depth)
        calls.clear()
    assert counts == [1.0, 1.0]


def test_true_gradients_and_their_learning_rates():
    model = nnx.Sequential(*(nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(2)))
    found = calibrate(model, X, loss, gradients="true", redraw=False)
    scales = [found.scales[f"layers/{i}"]["scale_actv_y"] for i in range(2)]

    def by_hand(kernels):
        return loss(scales[1] * (scales[0] * (X @ kernels[0]) @ kernels[1]))

    kernels = [layer.kernel[...] for layer in model.layers]
    expected = jax.grad(by_hand)(kernels)
    gradients = nnx.grad(lambda model: loss(model(X)))(found.model)
    got = [gradients["layers"][i]["module"]["kernel"][...] for i in range(2)]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    rates = learning_rates(found.model)
    rate = float(rates["layers"][1]["module"]["kernel"][0, 0])
    assert rate == pytest.approx(float(found.scales["layers/1"]["learning_rate"]))
    np.testing.assert_allclose(numbers(statistics(found.model, X, loss))[:, [0, 2]], 1.0, rtol=1e-4)


def test_learning_rates_of_linen_variables():
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    scales = {"a": {"scale_actv_y": jnp.array(2.0), "learning_rate": jnp.array(0.25)}}
    rates = learning_rates({"params": params, "empirical": scales})
    assert (float(rates["a"]["kernel"][0, 0]), float(rates["b"]["kernel"][0, 0])) == (0.25, 1.0)


def test_wrapping_changes_nothing_and_absorbing_is_exact_where_it_says():
    class Shift(nnx.Module):
        def __init__(self):
            self.shift = nnx.Param(jnp.full((6,), 2.0))

        def __call__(self, x):
            return x + self.shift[...][None]

    model = nnx.Sequential(nnx.Linear(6, 6, rngs=nnx.Rngs(0)), Shift())
    assert jnp.array_equal(wrap(model, X)(X), model(X))
    found = calibrate(model, X, loss).model
    absorbed = absorb_scales(found)
    assert list(absorbed.kept) == ["layers/1"]
    assert isinstance(absorbed.model.layers[0], nnx.Linear)
    np.testing.assert_allclose(absorbed.model(X), found(X), rtol=1e-4, atol=1e-5)
    restored = wrap(model, X)  # scales are state: saved and restored with the model
    nnx.update(restored, nnx.state(found))
    assert jnp.array_equal(restored(X), found(X))


# ---- Defects that the reference has


def test_what_is_zero_keeps_its_scale_and_is_named():
    model = Net()
    model.layers[1].kernel[...] = jnp.zeros((6, 6))
    found = calibrate(model, X, loss, redraw=False)
    assert found.scales["layers/1"]["scale_actv_y"] == 1.0
    assert "layers/1: activations are zero" in found.warnings[-2]


def test_gains_are_not_redrawn():
    class Gain(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones((1, 6)))

        def __call__(self, x):
            return x * self.scale[...]

    assert np.array_equal(calibrate(Gain(), X, loss).model.module.scale[...], np.ones((1, 6)))


def test_a_tiny_bias_moves_nothing():
    with_bias, without = Net(), Net()
    with_bias.layers[0].bias[...] = jnp.full((6,), 1e-9)
    found = [values(calibrate(m, X, loss, redraw=False).scales) for m in (with_bias, without)]
    for name in found[0]:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


def test_dead_units_are_named():
    layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.array([-100.0, -100, 0, 0, 0, 0])
    model = nnx.Sequential(layer, nnx.relu)
    assert calibrate(model, X, loss, redraw=False).warnings == (
        "layers/0: 33% of the features are dead: no gradient from the whole batch",
    )


# ---- Refused


class Idle(Net):
    def __call__(self, x):
        return self.layers[0](self.norm(x))


class Rounded(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.eye(6))

    def __call__(self, x):
        return jnp.round(5 * x @ self.w[...])


class Integer(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.ones((6,), int))

    def __call__(self, x):
        return x * self.w[...]


class LinenIdle(LinenNet):
    """Has the parameters of `LinenNet`, and leaves its second layer out."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name="first")(nn.LayerNorm(name="norm")(x))


class LinenRounded(nn.Module):
    integer: bool = False

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (1, 6), int if self.integer else float)
        return x * w if self.integer else jnp.round(5 * x * w)


BAD = {
    "idle": (Idle, LinenIdle, X, loss, r"Never called:\s+(layers/1|second)"),
    "no loss": (Net, LinenNet, X, lambda y: jnp.sum(X), r"outputs [\s\S]*(layers/1|second)"),
    "zero loss": (
        *(Net, LinenNet, X, lambda y: 0.0 * y.sum()),
        "Its gradient is zero in every module, from (layers/1|second)",
    ),
    "zero": (Net, LinenNet, 0 * X, loss, "so norm sees nothing"),
    "nan": (Net, LinenNet, X.at[0, 0].set(jnp.nan), loss, "entries, which reach norm first"),
    "rounded": (
        *(lambda: nnx.Sequential(Rounded()), LinenRounded, X, loss),
        r"their own parameters get none:\s+(layers/0|model)",
    ),
    "integer": (
        *(lambda: nnx.Sequential(Integer()), lambda: LinenRounded(integer=True), X, loss),
        "(layers/0|model) has {'w': 'int32'}",
    ),
    "infinite": (
        *(Net, LinenNet, X, lambda y: y.sum() * jnp.inf),
        "The gradient of (layers/1|second) is not",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    make, make_linen, x, loss_fn, message = BAD[case]
    model = make()
    before = leaves(model)
    with pytest.raises(ValueError, match=message):
        calibrate(model, x, loss_fn, redraw=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(model), strict=True))
    module = make_linen()
    whole = LinenNet() if case == "idle" else module
    variables = whole.init(jax.random.key(0), X)
    before = jax.tree.map(np.array, variables)
    with pytest.raises(ValueError, match=message):
        calibrate(module, x, loss_fn, variables=variables, redraw=False)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


def test_patterns_are_refused():
    with pytest.raises(ValueError, match="Every pattern must match"):
        calibrate(Net(), X, loss, modules=["nothing"])
    with pytest.raises(ValueError, match="No chosen module may hold another"):
        calibrate(nnx.Sequential(Net()), X, loss, modules=["layers/0", "layers/0/norm"])
    with pytest.raises(TypeError, match="must be an NNX module, or a Linen module"):
        calibrate(LinenNet(), X, loss)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_examples": 0}, "`num_examples` must be an integer of at least 1. Got 0"),
        ({"num_examples": True}, "an integer of at least 1. Got True"),
        ({"num_examples": 2.5}, "an integer of at least 1. Got 2.5"),
        ({"gradients": "half"}, "`gradients` must be one of 'scaled', 'true'. Got 'half'"),
        ({"optimizer": "lion"}, "`optimizer` must be one of 'sgd', 'adam'. Got 'lion'"),
        ({"optimizer": "adam"}, "since Adam undoes any scale"),
        ({"inputs": X[:0]}, "first axis of examples"),
        ({"inputs": jnp.float32(1)}, "first axis of examples"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    with pytest.raises((TypeError, ValueError), match=message):
        calibrate(**{"model": Net(), "inputs": X, "loss_fn": loss} | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": 1}, "`seeds` must be an integer of at least 2. Got 1"),
        ({"seeds": 2.5}, "an integer of at least 2. Got 2.5"),
        ({"sizes": [6]}, "must be an integer of at least 2. Got 1. One size has no slope"),
        ({"sizes": [6, 6]}, r"Parameters must grow between the sizes. Got \[6, 6\]"),
    ],
)
def test_exponents_of_wrong_arguments_are_refused(changed, message):
    arguments = {"make_model": lambda size, rngs: Net(), "sizes": [6, 8], "inputs": X}
    with pytest.raises((TypeError, ValueError), match=message):
        empirical.calibrate_exponents(**arguments | {"loss_fn": loss, "seeds": 2} | changed)


# ---- Exponents


class Transposed(nnx.Module):
    """A matrix stored as its transpose: nothing says which axis is summed over."""

    def __init__(self, n, m, rngs):
        self.w = nnx.Param(jax.random.normal(rngs(), (m, n)))

    def __call__(self, x):
        return x @ self.w[...].T


class LinenTransposed(nn.Module):
    """The same in Linen."""

    n: int
    m: int

    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.normal(1.0), (self.m, self.n)).T


def test_an_unknown_linen_layer_gets_a_rule():
    def inputs(n, m):
        return jax.random.normal(jax.random.key(0), (2, n))

    class Whole(nn.Module):
        n: int
        m: int

        @nn.compact
        def __call__(self, x):
            return jnp.tanh(LinenTransposed(self.n, self.m, name="layer")(x))

    sizes = [{"n": 16, "m": 8}, {"n": 256, "m": 8}, {"n": 16, "m": 64}]
    found = empirical.calibrate_exponents(
        lambda n, m: Whole(n, m), sizes, inputs, lambda y: jnp.square(y - 1).mean(), seeds=2
    )
    assert found.rules == {"layer/w": ("output", "input")}


def test_an_unknown_layer_gets_a_rule():
    def make_model(n, m, rngs):
        return nnx.Sequential(Transposed(n, m, rngs), jnp.tanh)

    def inputs(n, m):  # few of them: updates align with inputs that there are fewer of than axes
        return jax.random.normal(jax.random.key(0), (2, n))

    sizes = [{"n": 16, "m": 8}, {"n": 256, "m": 8}, {"n": 16, "m": 64}]
    found = empirical.calibrate_exponents(
        make_model, sizes, inputs, lambda y: jnp.square(y - 1).mean(), seeds=4
    )
    assert found.rules == {"layers/0/w": ("output", "input")}
    [row] = found.rows
    assert row.axes == ((0,), (1,))
    for got, expected in zip(row.spread + row.step, (0.0, 0.5, 0.0, 1.0), strict=True):
        assert abs(got.value - expected) < TOL["slope", "float64"].rtol
        assert got.margin < TOL["slope", "float64"].rtol
    specs = jaxmup.infer(
        make_model,
        base=sizes[0],
        delta={"n": 32, "m": 16},
        target={"n": 256, "m": 64},
        rules=found.rules,
    )
    assert specs["layers"][0]["w"].role == "hidden"
    assert (specs["layers"][0]["w"].r_in, specs["layers"][0]["w"].r_out) == (16.0, 8.0)
