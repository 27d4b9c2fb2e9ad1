"""The layers: Flax's own at base width, the parametrization's elsewhere; NNX and Linen alike."""

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases, require_close, z_bound
from jax.nn import initializers

import jaxmup
from jaxmup import ABCD, Axis, Parametrization, ParamSpec, _tiles, functional, parametrization


class Layer(NamedTuple):
    """A linear layer of either API as a function of its parameters."""

    params: dict[str, jax.Array]
    apply: Callable[[dict[str, jax.Array], Any], jax.Array]
    specs: Callable[[], dict[str, ParamSpec]]


def nnx_layer(n_in: int, n_out: int, bases: Any = None, ours: bool = True, **kwargs: Any) -> Layer:
    if bases is not None:
        kwargs |= {"base_in_features": bases[0], "base_out_features": bases[1]}
    layer = (jaxmup.nnx.Linear if ours else nnx.Linear)(n_in, n_out, rngs=nnx.Rngs(7), **kwargs)

    def apply(params, x):
        model = nnx.clone(layer)
        nnx.update(model, params)
        return model(x)

    params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    return Layer(params, apply, lambda: dict(jaxmup.nnx.specs(layer)))


def linen_layer(
    n_in: int, n_out: int, bases: Any = None, ours: bool = True, **kwargs: Any
) -> Layer:
    if bases is not None:
        kwargs |= {"base_in_features": bases[0], "base_features": bases[1]}
    layer = (jaxmup.linen.Dense if ours else nn.Dense)(n_out, **kwargs)
    x = np.ones((1, n_in), np.float32)
    params = layer.init(jax.random.key(7), x)["params"]

    def apply(params, x):
        return layer.apply({"params": params}, x)

    return Layer(params, apply, lambda: jaxmup.linen.specs(layer, x))


MAKERS = {"nnx": nnx_layer, "linen": linen_layer}
each_api = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(dtype)


def bits(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.dtype.name, x.shape, np.asarray(x).tobytes()), tree)


# ---- at base width: Flax's layer, bit for bit


def everything(layer: Layer, x: Any, transform: Any = lambda function: function) -> Any:
    """The bits of initial values, outputs and gradients."""

    def loss(params, x):
        y = layer.apply(params, x)
        return jnp.sum(jnp.sin(y).astype(jnp.float32)), y

    gradients, y = transform(jax.grad(loss, argnums=(0, 1), has_aux=True))(layer.params, x)
    return bits({"params": layer.params, "y": y, "gradients": gradients})


BASES = (8, 12)
NORMAL = initializers.normal(0.02)
SGD = {gauge: parametrization("mup", "sgd", gauge=gauge) for gauge in ("table9", "tp4b")}


def promote_to_half(first: Any, *rest: Any, dtype: Any) -> Any:
    """As NNX calls it, with one tuple, or as Linen does, with three arrays."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), (first, *rest) if rest else first)


def own_product(*args: Any, precision: Any, **kwargs: Any) -> jax.Array:
    return jax.lax.dot_general(*args, **kwargs) * (2 if precision is None else 3)


# arguments of both layers, of ours only, of Flax's only
AT_BASE = {
    "no base": ({}, {}, {}),
    "base": ({}, {"bases": BASES}, {}),
    "base of one axis": ({}, {"bases": (None, 12)}, {}),
    "standard": ({}, {"bases": BASES, "parametrization": "standard"}, {}),
    "ntk": ({}, {"bases": BASES, "parametrization": "ntk"}, {}),
    "mean_field": ({}, {"bases": BASES, "parametrization": "mean_field"}, {}),
    "cellarium": ({}, {"bases": BASES, "parametrization": "cellarium"}, {}),
    "table9": ({}, {"bases": BASES, "parametrization": SGD["table9"]}, {}),
    "tp4b": ({}, {"bases": BASES, "parametrization": SGD["tp4b"]}, {}),
    "lr_scale": ({}, {"bases": BASES, "lr_scale": 3.0}, {}),
    "lecun_normal": ({"kernel_init": initializers.lecun_normal()}, {"bases": BASES}, {}),
    "zeros": ({"kernel_init": initializers.zeros}, {"bases": BASES}, {}),
    "orthogonal": ({"kernel_init": initializers.orthogonal()}, {"bases": BASES}, {}),
    "bias_init": ({"bias_init": NORMAL}, {"bases": BASES}, {}),
    "init_std": ({}, {"bases": BASES, "init_std": 0.02}, {"kernel_init": NORMAL}),
    "bias_init_std": ({}, {"bases": BASES, "bias_init_std": 0.02}, {"bias_init": NORMAL}),
    "bfloat16 parameters": ({"param_dtype": jnp.bfloat16}, {"bases": BASES}, {}),
    "promote_dtype": ({"promote_dtype": promote_to_half}, {"bases": BASES}, {}),
    "dot_general": ({"dot_general": own_product}, {"bases": BASES}, {}),
    "precision": ({"dot_general": own_product, "precision": "highest"}, {"bases": BASES}, {}),
}


@each_api
@pytest.mark.parametrize(("both", "ours", "flax"), cases(AT_BASE))
def test_at_base_width_the_layer_is_flax(make, both, ours, flax):
    x = draw(3, 8)
    expected = everything(make(8, 12, ours=False, **both, **flax), x)
    assert everything(make(8, 12, **both, **ours), x) == expected


DTYPES = {
    "float32": (np.float32, {}),
    "bfloat16 compute": (np.float32, {"dtype": jnp.bfloat16}),
    "bfloat16 inputs": (jnp.bfloat16, {}),
    "float64": (np.float64, {"param_dtype": jnp.float64}),
}


@each_api
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("x_dtype", "dtypes"), cases(DTYPES))
def test_at_base_width_every_dtype_is_flax(make, use_bias, x_dtype, dtypes, x64):
    x = draw(3, 8, dtype=x_dtype)
    expected = everything(make(8, 12, ours=False, use_bias=use_bias, **dtypes), x, jax.jit)
    assert everything(make(8, 12, bases=BASES, use_bias=use_bias, **dtypes), x, jax.jit) == expected


ONE_API = {
    "preferred_element_type": (nnx_layer, {"preferred_element_type": "f4", "dtype": jnp.bfloat16}),
    "dot_general_cls": (linen_layer, {"dot_general_cls": lambda: own_product}),
}


@pytest.mark.parametrize(("make", "argument"), cases(ONE_API))
def test_arguments_of_one_api_are_passed_through(make, argument):
    x = draw(3, 8)
    expected = everything(make(8, 12, ours=False, **argument), x)
    assert everything(make(8, 12, bases=BASES, **argument), x) == expected


@each_api
def test_sizes_may_be_numpy_integers(make):
    layer = make(np.int64(8), np.int64(12), (np.int64(4), np.int64(3)))
    assert layer.specs() == make(8, 12, (4, 3)).specs()


def arguments(function: Any) -> list[Any]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


def fields(module: Any) -> list[Any]:
    return [(field.name, field.default, field.kw_only) for field in dataclasses.fields(module)]


SIGNATURES = {
    "nnx": (arguments(jaxmup.nnx.Linear.__init__), arguments(nnx.Linear.__init__)),
    "nnx call": (arguments(jaxmup.nnx.Linear.__call__), arguments(nnx.Linear.__call__)),
    "linen": (fields(jaxmup.linen.Dense), fields(nn.Dense)),
    "linen call": (arguments(jaxmup.linen.Dense.__call__), arguments(nn.Dense.__call__)),
}


@pytest.mark.parametrize(("ours", "flax"), cases(SIGNATURES))
def test_every_argument_of_flax_is_there_in_its_order_with_its_default(ours, flax):
    assert [argument for argument in ours if argument in flax] == flax


# ---- at other widths

# sizes, sizes at base, arguments; standard deviation of the kernel, multipliers of kernel and bias.
# 64 grows by 4 and σ is 1/2; the factors are those of Tensor Programs V, Tables 3, 8 and 9.
HIDDEN, OUTPUT, INPUT = ((256, 256), (64, 64)), ((256, 64), (64, None)), ((64, 256), (None, 64))
GROWN = {
    "table8 input": (*INPUT, parametrization("mup"), {}, 0.5, 1.0, 1.0),
    "table8 hidden": (*HIDDEN, parametrization("mup"), {}, 0.25, 1.0, 1.0),
    "table8 output": (*OUTPUT, parametrization("mup"), {}, 0.5, 0.25, 1.0),
    "table3 output": (*OUTPUT, parametrization("mup", gauge="table3"), {}, 0.125, 1.0, 1.0),
    "table9 input": (*INPUT, parametrization("mup", gauge="table9"), {}, 0.25, 2.0, 2.0),
    "table9 output": (*OUTPUT, parametrization("mup", gauge="table9"), {}, 0.25, 0.5, 1.0),
    "unit hidden": (*HIDDEN, parametrization("mup", gauge="unit"), {}, 1.0, 0.25, 1.0),
    "standard output": (*OUTPUT, parametrization("standard"), {}, 0.25, 1.0, 1.0),
    "ntk hidden": (*HIDDEN, parametrization("ntk"), {}, 0.5, 0.5, 1.0),
    "cellarium hidden": (*HIDDEN, parametrization("cellarium"), {}, 1.0, 0.25, 1.0),
    "cellarium input": (*INPUT, parametrization("cellarium", "sgd"), {}, 0.25, 2.0, 2.0),
    "cellarium α": (*HIDDEN, parametrization("cellarium"), {"lr_scale": 4.0}, 0.5, 0.5, 2.0),
    "mup α": (*HIDDEN, parametrization("mup"), {"lr_scale": 4.0}, 0.25, 1.0, 1.0),
    "tapering": ((256, 64), (64, 64), parametrization("mup"), {}, 0.125, 1.0, 1.0),
    "widening": ((64, 256), (64, 64), parametrization("mup"), {}, 0.5, 1.0, 1.0),
    "narrower than base": ((16, 16), (64, 64), parametrization("mup"), {}, 1.0, 1.0, 1.0),
    "by 1.5": ((96, 64), (64, None), parametrization("mup"), {}, 0.5, 2 / 3, 1.0),
}


@each_api
@pytest.mark.parametrize(
    ("sizes", "bases", "rule", "arguments", "std", "kernel_multiplier", "bias_multiplier"),
    cases(GROWN),
)
def test_kernel_std_and_product(
    make, sizes, bases, rule, arguments, std, kernel_multiplier, bias_multiplier, x64
):
    arguments = arguments | {"init_std": 0.5, "bias_init": initializers.normal(1.0)}
    layer = make(*sizes, bases, parametrization=rule, param_dtype=np.float64, **arguments)
    kernel, bias = (np.asarray(layer.params[name]) for name in ("kernel", "bias"))
    assert abs(np.sqrt(np.mean(kernel**2)) / std - 1) <= z_bound(kernel.size)
    for batch in (1, 300):  # the multiplier is on the inputs, on the kernel
        x = draw(batch, sizes[0], dtype=np.float64)
        expected = x @ (kernel_multiplier * kernel) + bias_multiplier * bias
        require_close(layer.apply(layer.params, x), expected, "layer", "float64")


DRAWN = {
    "default": ({}, "kernel", 1 / 16),  # fan_in^-1/2
    "lecun_normal": ({"kernel_init": initializers.lecun_normal()}, "kernel", 1 / 16),
    "default of unit": ({"parametrization": parametrization("mup", gauge="unit")}, "kernel", 1.0),
    "bias": ({"bias_init_std": 0.5}, "bias", 0.5),
    "bias of table9": ({"bias_init_std": 0.5, "parametrization": SGD["table9"]}, "bias", 0.25),
}


@each_api
@pytest.mark.parametrize(("arguments", "name", "std"), cases(DRAWN))
def test_std_of_other_initializers(make, arguments, name, std):
    values = np.asarray(make(256, 256, (64, 64), **arguments).params[name])
    assert abs(np.sqrt(np.mean(values**2)) / std - 1) <= z_bound(values.size)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_nnx_and_linen_are_one_layer(dtype):
    x = draw(5, 32)
    by_nnx, by_linen = (
        make(32, 8, (8, 4), dtype=dtype, bias_init_std=1.0) for make in (nnx_layer, linen_layer)
    )
    assert by_nnx.specs() == by_linen.specs()
    assert bits(by_nnx.apply(by_nnx.params, x)) == bits(by_linen.apply(by_nnx.params, x))


OPERANDS = {
    "small batch": (2, np.float32, (2, 256)),
    "large batch": (300, np.float32, (256, 256)),
    "equal sizes": (256, np.float32, (256, 256)),
    "integers": (2, np.int32, (256, 256)),
}


@each_api
@pytest.mark.parametrize(("batch", "dtype", "scaled"), cases(OPERANDS))
def test_the_smaller_operand_is_multiplied(make, batch, dtype, scaled):
    layer = make(256, 256, (64, 64), parametrization="ntk")
    equations = jax.make_jaxpr(layer.apply)(layer.params, draw(batch, 256).astype(dtype)).eqns
    assert [e.outvars[0].aval.shape for e in equations if e.primitive.name == "mul"] == [scaled]


@pytest.mark.parametrize(("batch", "scaled"), [(2, (3.0, 1.0)), (8, (1.0, 3.0))])
def test_scale_smaller(batch, scaled):
    got = functional.scale_smaller(jnp.ones((batch, 4)), jnp.ones((4, 8)), 3.0)
    assert tuple(float(x[0, 0]) for x in got) == scaled


def test_a_multiplier_is_not_rounded_to_bfloat16():
    x = jnp.linspace(1.0, 2.0, 4001).astype(jnp.bfloat16)

    def bias(product):
        assert product.dtype == jnp.bfloat16
        return abs(np.mean(np.float64(product) / (np.float64(x) / 3)) - 1)

    assert bias(functional.scale(x, 1 / 3)) < 2e-4
    assert bias(x * (1 / 3)) > 1e-3  # 1/3 is 0.2 % off in bfloat16


# ---- initializers: called at base width, then tiled

PLAIN = Parametrization.from_table(
    "plain", "adam", {role: ABCD(0, 0, 0, 0) for role in ("input", "hidden", "output")}
)


TILES = {
    "larger": ((8, 9), (4, 3), (2, 3)),
    "smaller": ((2, 3), (4, 5), (1, 1)),
    "one axis": ((4, 9), (None, 3), (1, 3)),
    "no multiple": ((7, 5), (3, 4), (3, 2)),
    "larger and smaller": ((7, 2), (3, 4), (3, 1)),
}


@each_api
@pytest.mark.parametrize(("sizes", "bases", "tiles"), cases(TILES))
def test_an_initializer_sees_the_base_shape_only(make, sizes, bases, tiles):
    shapes = []

    def counting(key, shape, dtype):
        shapes.append(shape)
        return jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)

    base_shape = tuple(b or n for n, b in zip(sizes, bases, strict=True))
    layer = make(*sizes, bases, kernel_init=counting, parametrization=PLAIN)
    assert set(shapes) == {base_shape}
    tile = np.arange(np.prod(base_shape), dtype=np.float32).reshape(base_shape)
    expected = np.tile(tile, tiles)[: sizes[0], : sizes[1]]
    np.testing.assert_array_equal(layer.params["kernel"], expected)


@each_api
def test_tiles_are_independent(make):
    kernel = make(12, 12, (4, 4)).params["kernel"]
    assert np.unique(kernel).size == kernel.size


each_width = pytest.mark.parametrize("bases", [(8, 8), (4, 4)], ids=["base width", "grown"])


@each_width
@pytest.mark.parametrize("box", [nn.with_partitioning, nn.with_logical_partitioning])
def test_linen_boxes_survive(bases, box):
    layer = linen_layer(8, 8, bases, kernel_init=box(initializers.ones, (None, "model")))
    kernel = layer.params["kernel"]
    assert isinstance(kernel, nn.Partitioned | nn.LogicallyPartitioned)
    assert (kernel.names, kernel.value.shape) == ((None, "model"), (8, 8))
    assert layer.specs()["kernel"].shape == (8, 8)


@each_width
def test_nnx_initializers_with_metadata_survive(bases):
    init = nnx.with_metadata(initializers.ones, tag="embedding")
    kwargs = dict(zip(("base_in_features", "base_out_features"), bases, strict=True))
    layer = jaxmup.nnx.Linear(8, 8, kernel_init=init, rngs=nnx.Rngs(0), **kwargs)
    assert layer.kernel.get_metadata()["tag"] == "embedding"
    assert jaxmup.nnx.specs(layer)["kernel"].shape == (8, 8)


def test_linen_asks_an_initializer_for_initial_values_alone():
    shapes = []

    def counting(key, shape, dtype):
        shapes.append(shape)
        return jnp.ones(shape, dtype)

    layer = linen_layer(8, 8, (4, 4), kernel_init=counting)
    drawn = len(shapes)
    assert drawn > 0
    layer.apply(layer.params, draw(2, 8))
    assert len(shapes) == drawn


@each_api
def test_an_initializer_of_the_users_is_asked_whenever_values_are_drawn(make):
    std = {"now": 1.0}

    def changing(key, shape, dtype):
        return std["now"] * jnp.ones(shape, dtype)

    def drawn() -> Any:
        kernel = jax.jit(lambda: make(8, 8, (4, 4), kernel_init=changing).params["kernel"])()
        return float(kernel[0, 0])

    first = drawn()
    std["now"] = 2.0
    assert drawn() == 2 * first


def test_linen_traces_an_initializer_of_jax_once_for_each_shape(monkeypatch):
    drawn = []
    draw_ = _tiles.Grown.draw
    monkeypatch.setattr(
        _tiles.Grown, "draw", lambda *args, **kw: drawn.append(args) or draw_(*args, **kw)
    )
    layers = [jaxmup.linen.Dense(24, base_in_features=8, base_features=12) for _ in range(3)]
    jax.eval_shape(nn.Sequential(layers).init, jax.random.key(0), jnp.ones((1, 24)))
    assert len(drawn) == 2  # kernels and biases


def test_tiles_are_drawn_without_temporary_arrays():
    """Nothing but their keys; Threefry in a loop over its rounds keeps two words a number."""
    grown = _tiles.Grown(initializers.lecun_normal(), (8, 8), (8, 8), gain=0.5)
    program = jax.jit(lambda key: grown(key, (64, 64))).lower(jax.random.key(0)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 64 * 64 * 4


# ---- specs of models


class Pair(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = jaxmup.nnx.Linear(6, 8, base_in_features=3, base_out_features=4, rngs=rngs)
        self.readout = jaxmup.nnx.Linear(8, 2, base_in_features=4, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.readout(self.hidden(x))


def test_nnx_specs_are_a_tree_like_the_parameters():
    model = Pair(nnx.Rngs(0))
    tree = jaxmup.nnx.specs(model)
    specs, params = (dict(nnx.to_flat_state(t)) for t in (tree, nnx.state(model, nnx.Param)))
    scalings = dict(nnx.to_flat_state(jaxmup.resolve(tree, parametrization("mup"))))
    assert list(specs) == list(params) == list(scalings)
    assert {path: (spec.role, spec.base_shape) for path, spec in specs.items()} == {
        ("hidden", "kernel"): ("hidden", (3, 4)),
        ("hidden", "bias"): ("input", (4,)),
        ("readout", "kernel"): ("output", (4, 2)),
    }
    assert all(specs[path].shape == params[path].shape for path in specs)


COPIES = {
    "split and merge": lambda model: nnx.merge(*nnx.split(model)),
    "clone": nnx.clone,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "jit": nnx.jit(lambda model: model),
}


@pytest.mark.parametrize("through", COPIES.values(), ids=COPIES)
def test_nnx_metadata_survives(through):
    model, x = Pair(nnx.Rngs(0)), draw(2, 6)
    copied = through(model)
    assert jaxmup.nnx.specs(copied) == jaxmup.nnx.specs(model)
    assert bits(copied(x)) == bits(model(x))
    nnx.update(copied, jax.tree.map(jnp.zeros_like, nnx.state(copied, nnx.Param)))
    assert jaxmup.nnx.specs(copied) == jaxmup.nnx.specs(model)


def test_nnx_layers_stack_under_vmap_and_scan():
    def block(rngs):
        return jaxmup.nnx.Linear(8, 8, base_in_features=4, base_out_features=4, rngs=rngs)

    stacked = nnx.split_rngs(splits=3)(nnx.vmap(block))(nnx.Rngs(0))
    specs, single = jaxmup.nnx.specs(stacked), jaxmup.nnx.specs(block(nnx.Rngs(0)))
    assert specs["kernel"] == single["kernel"].with_batch_axis(0, 3)
    rule = parametrization("mup")
    scaling, of_one = (jaxmup.resolve(tree, rule)["kernel"] for tree in (specs, single))
    assert scaling.shape == (3, 8, 8)
    assert scaling.batch_axes == (0,)
    assert dataclasses.replace(scaling, shape=of_one.shape, batch_axes=()) == of_one

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x, layer):
        return nnx.remat(lambda layer, x: layer(x))(layer, x)

    x = expected = draw(2, 8)
    for kernel in np.asarray(stacked.kernel[...]):
        expected = expected @ kernel
    require_close(forward(jnp.asarray(x), stacked), expected, "layer", "float32")
    assert jaxmup.nnx.specs(stacked) == specs


def test_a_shared_nnx_layer_has_one_spec():
    layer = jaxmup.nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    specs = nnx.to_flat_state(jaxmup.nnx.specs(nnx.Sequential(layer, layer)))
    assert [path for path, _ in specs] == [("layers", 0, "kernel")]


def dense(**kwargs: Any) -> jaxmup.linen.Dense:
    return jaxmup.linen.Dense(8, base_in_features=4, base_features=4, **kwargs)


class Block(nn.Module):
    """Called as `nn.scan` wants it."""

    @nn.compact
    def __call__(self, x, _=None):
        return dense()(x), None


class Setup(nn.Module):
    """Setup-style, with a layer that is used twice and one that is called by keyword."""

    def setup(self):
        self.shared = dense(use_bias=False)
        self.by_keyword = dense(use_bias=False)

    def __call__(self, x):
        return self.by_keyword(inputs=self.shared(self.shared(x)))


AT_0, AT_1 = (
    {"variable_axes": {"params": axis}, "split_rngs": {"params": True}} for axis in (0, 1)
)
TRANSFORMED = {  # a module, and the axis that it has added
    "scan": (nn.scan(Block, length=3, **AT_0)(), 0),
    "scan at axis 1": (nn.scan(Block, length=3, **AT_1)(), 1),
    "scan of remat": (nn.scan(nn.remat(Block), length=3, **AT_0)(), 0),
    "vmap": (nn.vmap(Block, axis_size=3, in_axes=None, **AT_0)(), 0),
    "remat": (nn.remat(Block)(), None),
    "jit": (nn.jit(Block)(), None),
    "clone": (Block().clone(), None),
    "deepcopy": (copy.deepcopy(Block()), None),
    "pickle": (pickle.loads(pickle.dumps(Block())), None),
}


@pytest.mark.parametrize(("module", "axis"), cases(TRANSFORMED))
def test_linen_specs_through_transforms(module, axis):
    x = draw(2, 8)
    specs = jaxmup.linen.specs(module, x, None)
    params = jax.eval_shape(module.init, jax.random.key(0), x, None)["params"]
    assert jax.tree.map(lambda spec: spec.shape, specs) == jax.tree.map(jnp.shape, params)
    (layer,) = specs.values()
    expected = linen_layer(8, 8, (4, 4)).specs()
    if axis is not None:
        expected = {name: spec.with_batch_axis(axis, 3) for name, spec in expected.items()}
    assert layer == expected


CALLS = {
    "arrays": ((draw(1, 8),), {}),
    "abstract": ((jax.ShapeDtypeStruct((1, 8), np.float32),), {}),
    "keyword": ((), {"x": draw(1, 8)}),
}


@pytest.mark.parametrize(("args", "kwargs"), cases(CALLS))
def test_linen_specs_are_a_tree_like_the_parameters(args, kwargs):
    specs = jaxmup.linen.specs(Setup(), *args, **kwargs)
    params = jax.eval_shape(Setup().init, jax.random.key(0), draw(1, 8))["params"]
    assert jax.tree.structure(specs) == jax.tree.structure(params)
    assert {spec.role for spec in jax.tree.leaves(specs)} == {"hidden"}


def test_specs_of_a_huge_layer_allocate_nothing():
    sizes = {"base_in_features": 64, "base_out_features": 64}
    abstract = nnx.eval_shape(lambda: jaxmup.nnx.Linear(80_000, 80_000, rngs=nnx.Rngs(0), **sizes))
    by_linen = jaxmup.linen.specs(
        jaxmup.linen.Dense(80_000, base_in_features=64, base_features=64),
        jax.ShapeDtypeStruct((1, 80_000), np.float32),
    )
    assert dict(jaxmup.nnx.specs(abstract)) == by_linen
    assert by_linen["kernel"].r_in == 1250.0


# ---- bad input


def with_norm() -> nnx.Module:
    rngs = nnx.Rngs(0)
    layer = jaxmup.nnx.Linear(4, 8, kernel_init=initializers.zeros, rngs=rngs)
    return nnx.Sequential(layer, nnx.LayerNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs))


class WithNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm()(dense()(x))


def specs_nnx(**given: Any) -> Any:
    return jaxmup.nnx.specs(with_norm(), **given)


def specs_linen(**given: Any) -> Any:
    return jaxmup.linen.specs(WithNorm(), draw(1, 8), **given)


WITHOUT_SPEC = {
    "nnx": (specs_nnx, [f"layers/{i}/{name}" for i in (1, 2) for name in ("bias", "scale")]),
    "linen": (specs_linen, ["LayerNorm_0/bias", "LayerNorm_0/scale"]),
}
GAIN = ParamSpec((Axis("output", 8, 4),))


@pytest.mark.parametrize(("specs", "names"), cases(WITHOUT_SPEC))
def test_a_parameter_without_a_spec_is_an_error_with_every_path(specs, names):
    with pytest.raises(ValueError, match="needs a ParamSpec") as error:
        specs()
    assert re.findall(r"^  (\S+) \(8,\)$", str(error.value), re.MULTILINE) == names
    given = dict.fromkeys(names, GAIN)
    assert jax.tree.leaves(specs(given=given)).count(GAIN) == len(names)
    with pytest.raises(ValueError, match=r"(?s)`given` must name.*Got\n  norm/scale\n"):
        specs(given={**given, "norm/scale": GAIN})
    with pytest.raises(ValueError, match=rf"{names[0]} has shape \(8,\), its spec \(9,\)"):
        specs(given={**given, names[0]: ParamSpec((Axis("output", 9),))})


def test_a_replaced_nnx_parameter_is_an_error():
    model = Pair(nnx.Rngs(0))
    model.hidden.kernel.set_value(jnp.zeros((6, 16)))
    with pytest.raises(ValueError, match=r"hidden/kernel has shape \(6, 16\), its spec \(6, 8\)"):
        jaxmup.nnx.specs(model)


BAD = {
    "base 0": ({"bases": (0, 4)}, "`base` .* at least 1. Got 0"),
    "base -4": ({"bases": (None, -4)}, "`base` .* at least 1. Got -4"),
    "base 1.5": ({"bases": (1.5, 4)}, "`base` .* integer .* Got 1.5"),
    "σ NaN": ({"init_std": np.nan}, "`init_std` .* above 0. Got nan"),
    "σ -1": ({"init_std": -1.0}, "`init_std` .* above 0. Got -1.0"),
    "bias σ NaN": ({"bias_init_std": np.nan}, "above 0. Got nan"),
    "α NaN": ({"lr_scale": np.nan}, "`lr_scale` .* above 0. Got nan"),
    "α 0": ({"lr_scale": 0.0}, "`lr_scale` .* above 0. Got 0.0"),
    "α array": ({"lr_scale": jnp.ones(2)}, "`lr_scale` .* number. Got Array"),
    "α text": ({"lr_scale": "1"}, "`lr_scale` .* number. Got '1'"),
    "dtype": ({"dtype": jnp.int32}, "`dtype` .* Got int32"),
    "param_dtype": ({"param_dtype": bool}, "`param_dtype` .* Got bool"),
    "no bias": ({"bias_init_std": 0.1, "use_bias": False}, "`bias_init_std` .* bias. Got 0.1"),
    "σ twice": ({"init_std": 0.1, "kernel_init": NORMAL}, "(?s)`kernel_init` .*Got.*init_std=0.1"),
    "σ that nobody knows": (
        {"parametrization": parametrization("mup", gauge="unit"), "kernel_init": NORMAL},
        r"(?s)`kernel_init` .*shape \(8, 8\) under mup/unit .* Pass `init_std`",
    ),
    "unknown name": ({"parametrization": "mub"}, "one of 'mup'.* Got 'mub'"),
    "no name": ({"parametrization": 8}, "`parametrization` .* Got 8"),
    "axis it lacks": ({"base_heads": 8}, "base_heads"),
}


@each_api
@pytest.mark.parametrize(("arguments", "message"), cases(BAD))
def test_bad_input(make, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(8, 8, **arguments)


@each_api
def test_a_boolean_is_refused_after_the_number_that_equals_it(make):
    make(8, 8, lr_scale=1.0)
    with pytest.raises(TypeError, match=r"`lr_scale` .* Got True"):
        make(8, 8, lr_scale=True)


EVERY_LAYER = {
    "inputs smaller": 1,
    "kernel smaller at some widths": 100,
    "kernel smaller": 5000,
}


@pytest.mark.parametrize("rule", ["mup", "ntk", "mean_field"])
@pytest.mark.parametrize("rows", EVERY_LAYER.values(), ids=EVERY_LAYER)
@each_api
def test_a_layer_is_one_program_at_every_width(make, rows, rule):
    def operations(width):
        layer = make(width, width, (64, 64), parametrization=rule)
        equations = jax.make_jaxpr(layer.apply)(layer.params, jnp.ones((rows, width))).eqns
        return [(e.primitive.name, [v.aval.ndim for v in e.invars]) for e in equations]

    programs = [operations(width) for width in (32, 64, 128, 256)]
    assert programs == programs[:1] * 4
