"""Initial values of unmodified models: the base model's at base width, muP's elsewhere."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases, require_close, z_bound
from plain_models import MODELS, Plain

import jaxmup
from jaxmup._tree import leaves_by_path

TABLE3 = jaxmup.parametrization("mup", "adam", gauge="table3")
KEY = jax.random.key(5)
LABELS = jnp.arange(16) % 5
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def infer(model: Plain, base: int, target: int) -> Any:
    """The specs, and the arguments of `rescale` that go with them."""
    sizes = {"base": base, "target": target, "inputs": model.inputs}
    specs = jaxmup.infer(model.make_model, delta=2 * base, rules=model.rules, **sizes)
    return specs, functools.partial(jaxmup.rescale, model.make_model, specs, TABLE3, **sizes)


def bits(tree: Any) -> dict[str, Any]:
    return {name: (x.dtype, np.asarray(x).tobytes()) for name, x in leaves_by_path(tree).items()}


# quick to compile; the networks are too small to be slow
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def one_step(tx: optax.GradientTransformation, outputs: Any) -> Any:
    """A step of training: parameters and optimizer state to those after it."""

    def loss(params: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(outputs(params)[0], LABELS).mean()

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return quick(step)


# ---- at base width: the plain model, bit for bit


@each_model
def test_at_base_width_it_is_the_plain_model(model):
    specs, rescale = infer(model, 16, 16)
    scalings = jaxmup.resolve(specs, TABLE3)
    stock = optax.adamw(0.01)
    ours = optax.chain(
        jaxmup.optim.scale_gradients(scalings), stock, jaxmup.optim.scale_updates(scalings)
    )
    after = []
    for made, tx in ((model.make(16, KEY), stock), (rescale(key=KEY), ours)):
        params, outputs = model.split(made, 16)
        end, _ = one_step(tx, outputs)(params, tx.init(params))
        after.append(bits({"start": params, "end": end}))
    assert after[0] == after[1]


# ---- elsewhere: changes of activations do not depend on the width


@functools.cache
def changes(name: str, width: int, mup: bool) -> np.ndarray:
    """Size of the changes of logits and features in 4 steps of Adam, mean of 4 seeds."""
    model, rate = MODELS[name], 2**-7
    if mup:
        specs, rescale = infer(model, 32, width)
        tx = jaxmup.optim.adam(rate, jaxmup.resolve(specs, TABLE3))
    else:
        tx = optax.adam(rate)

    start = quick(lambda key: model.arrays(rescale(key=key) if mup else model.make(width, key)))
    _, outputs = model.split(model.make(width, KEY), width)

    step, outputs = one_step(tx, outputs), quick(outputs)
    sizes = []
    for key in jax.random.split(KEY, 4):
        params = start(key)
        first, state = outputs(params), tx.init(params)
        for _ in range(4):
            params, state = step(params, state)
        pairs = zip(outputs(params), first, strict=True)
        sizes.append([float(jnp.sqrt(jnp.mean((a - b) ** 2))) for a, b in pairs])
    return np.mean(sizes, axis=0)


# `benchmarks/whole_models.py` does it to all of them, at more widths.
@pytest.mark.parametrize("name", ["MLP", "CNN", "pre-norm transformer", "nested dict"])
def test_changes_of_activations_over_widths(name):
    def slopes(mup: bool) -> np.ndarray:
        return np.log2(changes(name, 256, mup) / changes(name, 32, False)) / 3

    assert np.abs(slopes(True)).max() <= 0.15
    assert np.abs(slopes(False)).max() > 0.2  # the standard parametrization


def test_the_factor_of_attention_is_that_of_its_logits(x64):
    """Trained with the factor in the weights, it is attention that has the factor in its logits."""
    gain = 0.5  # √(8 / 32)

    def scaled(query: Any, *args: Any, **kwargs: Any) -> Any:
        return nnx.dot_product_attention(gain * query, *args, **kwargs)

    def attention(heads_size: int, normalize_qk: bool, rngs: nnx.Rngs, **kwargs: Any) -> Any:
        return nnx.MultiHeadAttention(
            2,
            6,
            2 * heads_size,
            decode=False,
            normalize_qk=normalize_qk,
            rngs=rngs,
            param_dtype=jnp.float64,
            bias_init=nnx.initializers.normal(),
            **kwargs,
        )

    x = np.random.default_rng(0).normal(size=(4, 3, 6))
    for normalize_qk in (False, True):
        sizes = [{"heads_size": n, "normalize_qk": normalize_qk} for n in (8, 16, 32)]
        base, delta, target = sizes
        specs = jaxmup.infer(attention, base=base, delta=delta, target=target)
        plain = jaxmup.rescale(attention, specs, TABLE3, base=base, target=target, key=KEY)
        carriers = ["query_ln/scale"] if normalize_qk else ["query/kernel", "query/bias"]
        without = jax.tree.map(lambda spec: dataclasses.replace(spec, forward_gain=1.0), specs)
        moved = nnx.clone(plain)
        moved.attention_fn = scaled
        params = nnx.to_pure_dict(nnx.state(moved, nnx.Param))
        for name in carriers:
            layer, leaf = name.split("/")
            params[layer][leaf] /= gain
        nnx.update(moved, params)
        ends = [trained(model, tree, x) for model, tree in ((plain, specs), (moved, without))]
        require_close(ends[0], ends[1], "trajectory", "float64")


def trained(model: nnx.Module, specs: Any, x: Any) -> Any:
    """The outputs of a model after five steps of Adam."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    tx = jaxmup.optim.adam(0.02, jaxmup.resolve(specs, TABLE3), eps=1e-4)

    def outputs(params: Any) -> Any:
        return nnx.merge(graph, params, rest)(x)

    @quick
    def step(params: Any, state: Any) -> Any:
        gradient = jax.grad(lambda params: jnp.square(outputs(params) - 1).mean())(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(5):
        params, state = step(params, state)
    return outputs(params)


# ---- how values are laid out


def leaves(width: int, key: Any, length: int = 3) -> dict[str, Any]:
    keys = jax.random.split(key, 5)
    fan_in = width**-0.5
    return {
        "hidden": fan_in * jax.random.normal(keys[0], (width, width)),
        "readout": fan_in * jax.random.normal(keys[1], (width, 50)),
        "embedding": fan_in * jax.random.normal(keys[2], (40, width)),  # as Flax's own
        "gain": 1 + 0.1 * jax.random.normal(keys[3], (width,)),
        "stack": fan_in * jax.random.uniform(keys[4], (length, width, 2 * width), minval=-1),
        "zeros": jnp.zeros((width, width)),
        "ones": jnp.ones(width),
    }


RULES = {
    "hidden": ("input", "output"),
    "readout": ("input", "output"),
    "embedding": ("batch", "output"),
    "gain": ("output",),
    "stack": ("batch", "input", "output"),
    "zeros": ("input", "output"),
    "ones": ("output",),
}
STDS = {  # standard deviation at 4 times the base width 16, and the mean; by hand, from Table 3
    "hidden": (1 / 8, 0.0),
    "readout": (1 / 16, 0.0),
    "embedding": (1 / 4, 0.0),
    "gain": (0.1, 1.0),
    "stack": (1 / 8 / 3**0.5, 0.0),
    "zeros": (0.0, 0.0),
    "ones": (0.0, 1.0),
}


def rescaled(make_model: Any = leaves, base: Any = 16, target: Any = 64, **kwargs: Any) -> Any:
    sizes = {"base": base, "target": target}
    more = {name: kwargs[name] for name in ("inputs",) if name in kwargs}
    rules, delta = kwargs.pop("rules", RULES), kwargs.pop("delta", 32)
    specs = jaxmup.infer(make_model, delta=delta, rules=rules, **sizes, **more)
    return jaxmup.rescale(make_model, specs, TABLE3, **sizes, key=KEY, **kwargs)


def test_standard_deviations():
    for name, values in rescaled().items():
        values = np.asarray(values, np.float64)
        std, mean = STDS[name]
        assert abs(values.mean() - mean) <= 5 * std / values.size**0.5
        assert abs(values.std() - std) <= z_bound(values.size) * std
        if std:
            assert np.unique(values).size > 0.9 * values.size  # no draw stands twice


def test_a_narrower_model_goes_back():
    for name, values in rescaled(base=64, delta=128, target=16).items():
        expected = {"hidden": 1 / 4, "readout": 1 / 2, "embedding": 1 / 8}.get(name)
        if expected is not None:
            assert abs(np.std(values) / expected - 1) <= z_bound(values.size)


def test_more_layers_are_drawn_for_themselves():
    sizes = {"base": {"width": 8, "length": 2}, "delta": {"width": 16, "length": 2}}
    stack = rescaled(target={"width": 8, "length": 5}, **sizes)["stack"]
    assert np.unique(stack).size == stack.size

    def layers(width: int, depth: int, key: Any) -> Any:
        keys = jax.random.split(key, depth)
        return {f"layer_{i}": jax.random.normal(keys[i], (width, width)) for i in range(depth)}

    kwargs = {"base": {"width": 8, "depth": 2}, "delta": {"width": 16, "depth": 2}}
    for width in (8, 24):
        target = {"width": width, "depth": 4}
        deep = rescaled(layers, target=target, rules={"*": ("input", "output")}, **kwargs)
        every = np.stack(list(deep.values()))
        assert np.unique(every).size == every.size == 4 * width**2


class ScannedBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(self.width, use_bias=False)(x), None


class Scanned(nn.Module):
    """Blocks stacked along the second axis, and perhaps such stacks along the first one."""

    width: int
    length: int = 3
    nested: bool = False

    @nn.compact
    def __call__(self, x, _=None):
        block: Any = ScannedBlock
        args, lifted = (self.width,), {"split_rngs": {"params": True}}
        if self.nested:
            block, args = Scanned, (self.width, self.length)
            stack = nn.scan(block, variable_axes={"params": 0}, length=2, **lifted)
        else:
            stack = nn.scan(block, variable_axes={"params": 1}, length=self.length, **lifted)
        return stack(*args)(x, None)[0], None


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("length", [3, 5])
def test_stacks_along_any_axis(nested, length):
    sizes = {
        name: {"width": width, "length": number, "nested": nested}
        for name, width, number in (("base", 8, 3), ("delta", 16, 3), ("target", 32, length))
    }
    made = rescaled(Scanned, rules=None, inputs=lambda width, **_: jnp.ones((2, width)), **sizes)
    (kernel,) = jax.tree.leaves(made)
    assert kernel.shape == (*([2] if nested else []), 32, length, 32)
    assert np.unique(kernel).size > 0.99 * kernel.size
    spread = np.std(kernel, axis=(-3, -1))
    assert np.abs(spread / 32**-0.5 - 1).max() <= z_bound(32**2)


def test_members_that_train_side_by_side():
    def make(width: int, rngs: nnx.Rngs) -> nnx.Module:
        members = nnx.vmap(lambda rngs: nnx.Linear(width, width, rngs=rngs))
        return nnx.split_rngs(splits=4)(members)(rngs)

    kernel = rescaled(make, base=8, delta=16, target=32, rules=None).kernel[...]
    assert kernel.shape == (4, 32, 32)
    assert np.unique(kernel).size > 0.99 * kernel.size
    assert np.abs(np.std(kernel, axis=(1, 2)) / 32**-0.5 - 1).max() <= z_bound(32**2)


def test_nothing_is_scaled_twice_and_the_rest_is_as_it_was():
    def make(width: int, rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Sequential(
            nnx.Linear(width, 3, rngs=rngs),
            nnx.BatchNorm(3, rngs=rngs),
            nnx.Dropout(0.5, rngs=rngs),
        )

    specs = jaxmup.infer(make, base=4, delta=8, target=16)
    first, second, other = (
        jaxmup.rescale(make, specs, TABLE3, base=4, target=16, key=key)
        for key in (KEY, KEY, jax.random.key(6))
    )
    assert bits(nnx.state(first, nnx.Param)) == bits(nnx.state(second, nnx.Param))
    assert bits(nnx.state(first, nnx.Param)) != bits(nnx.state(other, nnx.Param))
    rest = (nnx.filterlib.Not(nnx.Param),)
    plain = make(16, nnx.Rngs(KEY))
    assert jax.tree.map(str, nnx.state(first, *rest)) == jax.tree.map(str, nnx.state(plain, *rest))


def test_under_jit():
    _, rescale = infer(MODELS["MLP"], 16, 64)
    traced = jax.jit(lambda key: nnx.state(rescale(key=key), nnx.Param))(KEY)
    require_close(
        nnx.to_pure_dict(traced),
        nnx.to_pure_dict(nnx.state(rescale(key=KEY), nnx.Param)),
        "update",
        "float32",
    )


def test_linen_variables():
    module = nn.Sequential([nn.Dense(8), nn.BatchNorm(False), nn.Dropout(0.5, deterministic=False)])

    def make(width: int) -> nn.Module:
        boxed = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
        return nn.Sequential([nn.Dense(width, kernel_init=boxed), *module.layers[1:]])

    sizes = {"base": 4, "target": 16, "inputs": jax.ShapeDtypeStruct((1, 3), np.float32)}
    specs = jaxmup.infer(make, delta=8, **sizes)
    keys = {"params": KEY, "dropout": KEY}
    variables = jaxmup.rescale(make, specs, TABLE3, **sizes, key=keys)
    assert isinstance(variables["params"]["layers_0"]["kernel"], nn.Partitioned)
    assert variables["batch_stats"]["layers_1"]["mean"].shape == (16,)
    plain = jaxmup.rescale(
        make,
        jaxmup.infer(make, delta=8, **sizes | {"target": 4}),
        TABLE3,
        **sizes | {"target": 4},
        key=keys,
    )
    assert bits(plain) == bits(make(4).init(keys, np.ones((1, 3), np.float32)))


def test_jaxmup_layers_keep_their_values():
    def mixed(width: int, rngs: nnx.Rngs) -> nnx.Module:
        ours = jaxmup.nnx.Linear(width, 5, base_in_features=8, parametrization=TABLE3, rngs=rngs)
        return nnx.Sequential(ours, nnx.Linear(3, width, rngs=rngs))

    model = rescaled(mixed, base=8, delta=16, target=32, rules=None)
    plain = mixed(32, nnx.Rngs(KEY))
    assert bits(nnx.state(model.layers[0])) == bits(nnx.state(plain.layers[0]))


# ---- bad input


def fixed_values(width: int, key: Any) -> Any:
    table = np.sin(np.arange(3 * width, dtype=np.float32)).reshape(3, width)
    return {"a": {"table": table}, "w": jax.random.normal(key, (width, 2))}


FIXED = {"rules": {"w": ("input", "output"), "a/table": ("batch", "output")}}


def other_specs(make_model: Any = leaves, base: int = 16, target: int = 128) -> Any:
    specs = jaxmup.infer(leaves, base=16, delta=32, target=64, rules=RULES)
    return jaxmup.rescale(make_model, specs, TABLE3, base=base, target=target, key=KEY)


def flat_gain_at_base(width: int, key: Any) -> Any:
    made = leaves(width, key)
    return made | {"gain": made["gain"][None]} if width == 16 else made


def no_gain_at_base(width: int, key: Any) -> Any:
    made = leaves(width, key)
    return {name: made[name] for name in made if width != 16 or name != "gain"}


def with_rule(rule: Any) -> Any:
    make = lambda n, rngs: nnx.Linear(n, 2, rngs=rngs)  # noqa: E731
    specs = jaxmup.infer(make, base=4, delta=8, target=16)
    return jaxmup.rescale(make, specs, rule, base=4, target=16, key=KEY)


BAD = {
    "not drawn with the key": (
        lambda: rescaled(fixed_values, **FIXED),
        r"drawn with `key`(.|\n)*\n  a/table \(3, 64\), in the base model \(3, 16\)\n",
    ),
    "no key": (
        lambda: rescaled(lambda n: nnx.Linear(n, 2, rngs=nnx.Rngs(0)), rules=None),
        "must have a parameter `key` or `rngs`",
    ),
    "specs of another target": (
        other_specs,
        r"Spec and (.|\n)*\n  hidden: \(64, 64\), \(128, 128\)",
    ),
    "specs of another base": (
        lambda: other_specs(base=8, target=64),
        r"those of `base`(.|\n)*\n  hidden: \(16, 16\), \(8, 8\)(.|\n)*same `make_model`",
    ),
    "a base of another rank": (
        lambda: other_specs(flat_gain_at_base, target=64),
        r"those of `base`(.|\n)*\n  gain: \(16,\), \(1, 16\)",
    ),
    "a base without a parameter": (
        lambda: other_specs(no_gain_at_base, target=64),
        r"must have the same parameters(.|\n)*\n  gain",
    ),
    "specs of no tree": (
        lambda: jaxmup.rescale(leaves, {"a": 1}, TABLE3, base=16, target=16, key=KEY),
        "`specs` must be a tree with a `ParamSpec`",
    ),
    "a gauge with multipliers": (
        lambda: with_rule(jaxmup.parametrization("mup", "adam")),
        "kernel: .*applies no multiplier",
    ),
    "a parametrization's name": (lambda: with_rule("mup"), "must be a `Parametrization`"),
}


@pytest.mark.parametrize(("call", "message"), cases(BAD))
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
