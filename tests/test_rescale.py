"""Initial values of unmodified models: the base model's at base width, muP's elsewhere."""

import dataclasses
import functools
import os
import subprocess
import sys
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
features = lambda width: jnp.ones((2, width))  # noqa: E731
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def infer(model: Plain, base: int, target: int) -> Any:
    """The specs, and the arguments of `rescale` that go with them."""
    sizes = {"base": base, "target": target}
    specs = jaxmup.infer(model.model, delta=2 * base, **sizes)
    return specs, functools.partial(jaxmup.rescale, model.model, specs, TABLE3, **sizes)


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
        specs = jaxmup.infer(attention, base=base, delta=delta, target=target, inputs=x)
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
    more = {name: kwargs[name] for name in ("inputs", "apply") if name in kwargs}
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


class Multiplied(nnx.Module):
    """Gemma's way with an embedding."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(500, width, rngs=rngs)
        self.head = nnx.Linear(width, 3, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        return self.head(jnp.tanh(self.product(tokens)))

    def product(self, tokens):
        return self.embed(tokens) * self.embed.features**0.5


def multiplied_tree(width: int, key: Any) -> Any:
    return {"embed": jax.random.normal(key, (500, width)) * 0.5, "head": jnp.ones((width, 3))}


def of_tree(params: Any, tokens: Any) -> Any:
    return jnp.tanh(params["embed"][tokens] * params["embed"].shape[1] ** 0.5) @ params["head"]


def test_an_embedding_times_the_root_of_the_width_starts_so_that_the_product_keeps_its_size():
    """It carries √(16 / 64): at 4 times the width half the base model's standard deviation."""
    every = jnp.arange(500)
    model = rescaled(Multiplied, inputs=every, rules=None)
    # Flax draws embeddings with variance 1 / features: 1/4 at 16, where the product has 1.
    assert abs(float(jnp.std(model.embed.embedding[...])) / 0.125 - 1) <= z_bound(500 * 64)
    assert abs(float(jnp.std(model.product(every))) - 1) <= z_bound(500 * 64)
    # A half in the plain tree at every width, and the product 2 at 16.
    params = rescaled(multiplied_tree, inputs=every, apply=of_tree, rules=None)
    assert abs(float(jnp.std(params["embed"])) / 0.25 - 1) <= z_bound(500 * 64)
    assert abs(float(jnp.std(params["embed"] * 8.0)) / 2 - 1) <= z_bound(500 * 64)


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

    sizes = {"base": 8, "delta": 16, "target": 32}
    apply = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))
    kernel = rescaled(make, **sizes, rules=None, inputs=features, apply=apply).kernel[...]
    assert kernel.shape == (4, 32, 32)
    assert np.unique(kernel).size > 0.99 * kernel.size
    assert np.abs(np.std(kernel, axis=(1, 2)) / 32**-0.5 - 1).max() <= z_bound(32**2)


def tables(width: int, key: Any) -> Any:
    angles = np.arange(5.0)[:, None] * 100.0 ** -np.linspace(0, 1, width)
    return {
        "A_log": jnp.log(jnp.tile(jnp.arange(1.0, 9.0), (width, 1))),
        "numpy": np.tile(np.arange(4, dtype=np.float32)[:, None], (1, width)),
        "signs": jnp.where(jnp.arange(6) % 2 == 0, 1.0, -1.0)[:, None] * jnp.ones((1, width)),
        "positions": jnp.sin(angles),
        "w": jax.random.normal(key, (width, 2)),
    }


TABLES = {
    "A_log": ("output", "batch"),
    "numpy": ("batch", "output"),
    "signs": ("batch", "output"),
    "positions": ("batch", "output"),
    "w": ("input", "output"),
}


@pytest.mark.parametrize("target", [16, 40, 64])
def test_what_is_not_random(target):
    """Values constant along the axes that grow are repeated; others come from the target."""
    made = rescaled(tables, target=target, rules=TABLES, from_target="pos*")
    plain = tables(target, KEY)
    exactly = ("A_log", "numpy", "signs", "positions")
    assert bits({n: made[n] for n in exactly}) == bits({n: plain[n] for n in exactly})
    assert (bits(made["w"]) == bits(plain["w"])) == (target == 16)


def test_values_from_the_target():
    """Random ones too, multiplied by nothing, also under `jit`."""
    plain, names = leaves(64, KEY), ("hidden", "gain")
    made = rescaled(from_target=names)
    assert bits({n: made[n] for n in names}) == bits({n: plain[n] for n in names})
    assert bits(made["readout"]) == bits(rescaled()["readout"])
    specs = jaxmup.infer(tables, base=16, delta=32, target=64, rules=TABLES)
    arguments = {"base": 16, "target": 64, "from_target": ["positions"]}
    traced = jax.jit(lambda key: jaxmup.rescale(tables, specs, TABLE3, key=key, **arguments))(KEY)
    require_close(traced["positions"], tables(64, KEY)["positions"], "update", "float32")


def compiled(caplog: Any, function: Any) -> list[str]:
    """The names of what XLA compiles for a call."""
    caplog.clear()
    with jax.log_compiles():
        jax.block_until_ready(jax.tree.leaves(function()))
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if text.startswith("Finished XLA compilation")]


def test_traced_abstractly_nothing_is_computed(caplog):
    _, rescale = infer(MODELS["MLP"], 16, 64)
    make = lambda key: nnx.state(rescale(key=key), nnx.Param)  # noqa: E731
    assert not compiled(caplog, lambda: jax.eval_shape(make, KEY) and None)
    assert not compiled(caplog, lambda: jax.jit(make).lower(KEY) and None)


def test_layers_of_one_shape_are_compiled_once(caplog):
    def make(width: int, rngs: nnx.Rngs) -> Any:
        return nnx.Sequential(*(nnx.Linear(width, width, rngs=rngs) for _ in range(6)))

    specs = jaxmup.infer(make, base=8, delta=16, target=24, inputs=features)
    arguments = {"base": 8, "target": 24}

    def drawn(seed: int) -> Any:
        key = jax.random.key(seed)
        return nnx.state(jaxmup.rescale(make, specs, TABLE3, key=key, **arguments))

    assert sum("jit(grown)" in text for text in compiled(caplog, lambda: drawn(0))) == 1
    assert not compiled(caplog, lambda: drawn(1))


def test_nothing_is_scaled_twice_and_the_rest_is_as_it_was():
    def make(width: int, rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Sequential(
            nnx.Linear(width, 3, rngs=rngs),
            nnx.BatchNorm(3, rngs=rngs),
            nnx.Dropout(0.5, rngs=rngs),
        )

    specs = jaxmup.infer(make, base=4, delta=8, target=16, inputs=features)
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
        return nnx.Sequential(nnx.Linear(3, width, rngs=rngs), ours)

    model = rescaled(mixed, base=8, delta=16, target=32, rules=None, inputs=jnp.ones((2, 3)))
    plain = mixed(32, nnx.Rngs(KEY))
    assert bits(nnx.state(model.layers[1])) == bits(nnx.state(plain.layers[1]))


# ---- on a mesh

ON_A_MESH = """
import sys
sys.path[:0] = {path!r}
import jax, jax.numpy as jnp, numpy as np
from flax import linen as nn, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxmup
TABLE3, KEY = jaxmup.parametrization("mup", "adam", gauge="table3"), jax.random.key(0)
METADATA = dict(out_sharding=("data", "model"))

def make(width, rngs):
    return nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs, kernel_metadata=METADATA)

class Boxed(nn.Module):
    width: int
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", "model"))
        return nn.Dense(4 * self.width, use_bias=False, kernel_init=init)(x)

def explicit(width, key):
    return jax.random.normal(key, (width, 4 * width), out_sharding=P("data", "model"))

def constrained(width, key):
    kernel = jax.random.normal(key, (width, 4 * width))
    return width**-0.5 * jax.lax.with_sharding_constraint(kernel, P("data", "model"))

def kernel(model):
    if isinstance(model, jax.Array):
        return model
    if isinstance(model, nnx.Module):
        return model.kernel[...]
    return model["params"]["Dense_0"]["kernel"].value

def boxed(width):
    return Boxed(width).init(KEY, jnp.ones((2, 64)))

inputs = dict(inputs=lambda width: jnp.ones((2, width)))

def ours(make, specs, base, **kwargs):
    return lambda: jaxmup.rescale(make, specs, TABLE3, base=base, target=64, key=KEY, **kwargs)

def alike(x, y):
    return x.sharding.is_equivalent_to(y.sharding, 2) and jax.typeof(x) == jax.typeof(y)

for kind in AxisType.Auto, AxisType.Explicit:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    on_one_device = {{}}  # a base of 6 does not divide the mesh
    own = explicit if kind is AxisType.Explicit else constrained
    rules = dict(rules={{"": ("input", "output")}})
    for name, model, of in ("nnx", make, inputs), ("linen", Boxed, inputs), ("own", own, {{}}):
        if kind is AxisType.Explicit and name == "linen":
            continue  # Flax's own `init` refuses boxed values there
        base = 8 if name == "own" else 6  # which names the axes itself, so that each size divides
        with jax.set_mesh(mesh):
            known = rules if name == "own" else of
            specs = jaxmup.infer(model, base=base, delta=2 * base, target=64, **known)
        if name == "own":
            plain = lambda width, key: (1 if model is explicit else width**-0.5) * (
                jax.random.normal(key, (width, 4 * width))
            )
            on_one_device[name] = np.asarray(ours(plain, specs, base, **of)())
        else:
            with nnx.use_eager_sharding(False):
                on_one_device[name] = np.asarray(kernel(ours(model, specs, base, **of)()))
        with jax.set_mesh(mesh):
            flax = {{
                "nnx": lambda: make(64, nnx.Rngs(KEY)),
                "linen": lambda: boxed(64),
                "own": lambda: model(64, KEY),
            }}[name]
            eager = [kernel(f()) for f in (flax, ours(model, specs, base, **of))]
            jitted = [
                jax.jit(lambda f=f: kernel(f()))() for f in (flax, ours(model, specs, base, **of))
            ]
            out = NamedSharding(mesh, P("model", "data"))
            asked = [
                jax.jit(lambda f=f: kernel(f()), out_shardings=out)()
                for f in (flax, ours(model, specs, base, **of))
            ]
            for theirs, own in (eager, jitted, asked):
                assert alike(theirs, own), (kind, name, theirs.sharding, own.sharding)
                error = np.abs(np.asarray(own) - on_one_device[name]).max()
                assert error <= 1e-6, (kind, name, error)

# A mesh that does not divide the target is told by parameter, shape and axis.
for kind in AxisType.Auto, AxisType.Explicit:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    odd = dict(base=4, target=7)
    specs = jaxmup.infer(make, delta=8, **odd, **inputs)
    with jax.set_mesh(mesh):
        try:
            jaxmup.rescale(make, specs, TABLE3, key=KEY, **odd)
        except ValueError as error:
            assert "  kernel (7, 28): axis 0 over 'data' of 2 devices" in str(error), error
        else:
            raise AssertionError("a mesh that does not divide the target")

class Logical(nn.Module):
    width: int
    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("in", "out"))
        return x @ self.param("kernel", init, (x.shape[-1], 4 * self.width))

mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
for model, of, name in (Logical, inputs, "kernel"), (constrained, {{}}, ""):
    sizes = dict(base=8, target=7)
    known = of or dict(rules={{"": ("input", "output")}})
    with nn.logical_axis_rules([("in", "data"), ("out", "model")]), jax.set_mesh(mesh):
        specs = jaxmup.infer(model, delta=16, **sizes, **known)
        try:
            jaxmup.rescale(model, specs, TABLE3, key=KEY, **sizes, **of)
        except ValueError as error:
            assert f"  {{name}} (7, 28): axis 0 over 'data' of 2" in str(error), error
        else:
            raise AssertionError(f"a mesh that does not divide the target: {{name}}")

# No device draws more than its part.
def temporaries(mesh, names, draw, **options):
    with jax.set_mesh(mesh):
        program = jax.jit(lambda: draw().kernel[...], **options).lower().compile()
    return program.memory_analysis().temp_size_in_bytes

for names in ("model", None), (None, "model"):
    metadata = dict(kernel_metadata=dict(out_sharding=names))
    make = lambda width, rngs: nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs, **metadata)
    specs = jaxmup.infer(make, base=64, delta=128, target=512, **inputs)
    flax = lambda: make(512, nnx.Rngs(KEY))
    ours = lambda: jaxmup.rescale(make, specs, TABLE3, base=64, target=512, key=KEY)
    meshes = [
        jax.make_mesh((8,), ("model",), axis_types=(kind,))
        for kind in (AxisType.Auto, AxisType.Explicit)
    ]
    # In explicit axes Flax makes all of a parameter on every device before it lays it out.
    theirs = temporaries(meshes[0], names, flax)
    print(theirs, *(temporaries(mesh, names, ours) for mesh in meshes))
"""


def test_on_a_mesh():
    """As Flax's constructor lays out, in meshes of both kinds; no device draws what is not its."""
    code = ON_A_MESH.format(path=[p for p in sys.path if p])
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **flags}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines()[-2:]:
        theirs, *own = map(int, line.split())
        assert max(own) <= 1.2 * theirs + 2**12


# ---- bad input


def fixed_values(width: int, key: Any) -> Any:
    table = np.sin(np.arange(3 * width, dtype=np.float32)).reshape(3, width)
    return {"a": {"table": table}, "w": jax.random.normal(key, (width, 2))}


def fixed_in_a_loop(width: int, key: Any) -> Any:
    """A table beside a matrix that is drawn, both from one scan over layers."""

    def layer(carry, key):
        return carry, (jax.random.normal(key, (width, 2)), jnp.sin(jnp.arange(width) * 1.0))

    _, (kernel, table) = jax.lax.scan(layer, None, jax.random.split(key, 3))
    return {"kernel": kernel, "table": table}


IN_A_LOOP = {"kernel": ("batch", "input", "output"), "table": ("batch", "output")}


def test_a_factory_that_has_changed_is_drawn_as_it_is_now():
    scale = {"of all": 1.0}

    def make(width: int, key: Any) -> Any:
        return {"w": scale["of all"] * jax.random.normal(key, (width, 4))}

    rules = {"rules": {"w": ("input", "output")}}
    first = rescaled(make, **rules)["w"]
    scale["of all"] = 2.0
    np.testing.assert_array_equal(rescaled(make, **rules)["w"], 2 * first)


def test_arrays_that_a_factory_holds_are_those_of_now():
    table = np.array([1.0, 2.0, 4.0, 8.0], np.float32)

    def make(width: int, key: Any) -> Any:
        return {"w": jax.random.normal(key, (width, 4)) * jnp.asarray(table)[None]}

    rules = {"rules": {"w": ("input", "batch")}}
    first = np.asarray(rescaled(make, **rules)["w"])
    table *= 2
    np.testing.assert_array_equal(rescaled(make, **rules)["w"], 2 * first)


def test_a_key_that_is_a_constant_under_jit():
    _, rescale = infer(MODELS["MLP"], 16, 64)
    traced = jax.jit(lambda: nnx.state(rescale(key=KEY), nnx.Param))()
    expected = nnx.to_pure_dict(nnx.state(rescale(key=KEY), nnx.Param))
    require_close(nnx.to_pure_dict(traced), expected, "update", "float32")


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
    specs = jaxmup.infer(make, base=4, delta=8, target=16, inputs=features)
    return jaxmup.rescale(make, specs, rule, base=4, target=16, key=KEY)


BAD = {
    "not drawn with the key": (
        lambda: rescaled(fixed_values, **FIXED),
        r"drawn with `key`(.|\n)*\n  a/table \(3, 64\), in the base model \(3, 16\): axis 1\n"
        r'(.|\n)*`from_target="a/table"`',
    ),
    "not drawn with the key, in a loop": (
        lambda: rescaled(fixed_in_a_loop, rules=IN_A_LOOP),
        r"drawn with `key`(.|\n)*\n  table \(3, 64\)",
    ),
    "a pattern of nothing": (
        lambda: rescaled(from_target=["*/table", "embedding"]),
        r"`from_target` must name parameters(.|\n)*\n  \*/table\n(.|\n)*\n  readout",
    ),
    "a key that nothing is drawn with": (
        lambda: rescaled(
            lambda n, rngs: nnx.Linear(n, 2, rngs=nnx.Rngs(0)), rules=None, inputs=features
        ),
        r"drawn with `key`(.|\n)*\n  kernel \(64, 2\), in the base model \(16, 2\): axis 0\n",
    ),
    "specs of another model": (
        lambda: other_specs(tables, target=64),
        r"those of `target`(.|\n)*\n  embedding: \(40, 64\), no parameter\n"
        r"(.|\n)*\n  A_log: no spec, \(64, 8\)\n",
    ),
    "no key": (
        lambda: rescaled(lambda n: nnx.Linear(n, 2, rngs=nnx.Rngs(0)), rules=None, inputs=features),
        "must have a parameter `key` or `rngs`",
    ),
    "specs of another target": (
        other_specs,
        r"Spec and (.|\n)*\n  hidden: \(64, 64\), \(128, 128\): axis 0 and 1\n",
    ),
    "specs of another base": (
        lambda: other_specs(base=8, target=64),
        r"those of `base`(.|\n)*\n  hidden: \(16, 16\), \(8, 8\): axis 0 and 1\n"
        r"(.|\n)*same `make_model`",
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
