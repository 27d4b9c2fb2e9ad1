"""Every layer of both APIs: Flax's own at base width, the parametrization's elsewhere."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import require_close, z_bound
from test_layers import bits, draw

import jaxmup
from jaxmup import ABCD, Axis, Parametrization

# Flax's positional arguments and settings at k times the base width, the base sizes, the inputs.
Sizes = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]


class Row(NamedTuple):
    """One layer.

    `axes` are typed by hand: kind and base size of each axis, with an x if it grows with the width.
    """

    nnx: tuple[str, Sizes, dict[str, Any]] | None
    linen: tuple[str, Sizes, dict[str, Any]] | None
    inputs: Callable[[int], tuple[Any, ...]]
    axes: dict[str, str]


def floats(*shape: Any) -> Callable[[int], tuple[Any, ...]]:
    """An input of this shape, of which the sizes given as text grow."""
    return lambda k: (draw(*(int(n) * k if isinstance(n, str) else n for n in shape)),)


def general(k: int) -> Any:
    return (8 * k, (2 * k, 4)), {}


ATTENTION = {
    "query/kernel": "input8x output2x output4",
    "query/bias": "output2x output4",
    "key/kernel": "input8x output2x output4",
    "key/bias": "output2x output4",
    "value/kernel": "input8x output2x output4",
    "value/bias": "output2x output4",
    "out/kernel": "input2x input4 output8x",
    "out/bias": "output8x",
}
ROWS = {
    "linear": Row(
        ("Linear", lambda k: ((8 * k, 3), {}), {"base_in_features": 8}),
        ("Dense", lambda k: ((3,), {}), {"base_in_features": 8}),
        floats(2, "8"),
        {"kernel": "input8x output3", "bias": "output3"},
    ),
    "general": Row(
        ("LinearGeneral", general, {"base_in_features": 8, "base_out_features": (2, None)}),
        (
            "DenseGeneral",
            lambda k: (((2 * k, 4),), {}),
            {"base_in_features": 8, "base_features": (2, None)},
        ),
        floats(3, "8"),
        {"kernel": "input8x output2x output4", "bias": "output2x output4"},
    ),
    "general, two input axes and a batch axis": Row(
        (
            "LinearGeneral",
            lambda k: (((2 * k, 4), 8 * k), {"axis": (-2, -1), "batch_axis": {0: 3}}),
            {"base_in_features": (2, None), "base_out_features": 8},
        ),
        (
            "DenseGeneral",
            lambda k: ((8 * k,), {"axis": (-2, -1), "batch_dims": (0,)}),
            {"base_in_features": (2, None), "base_features": 8},
        ),
        floats(3, 5, "2", 4),
        {"kernel": "batch3 input2x input4 output8x", "bias": "batch3 output8x"},
    ),
    "einsum of experts": Row(
        (
            "Einsum",
            lambda k: (("etd,edf->etf", (3, 4 * k, 8 * k), (3, 8 * k)), {}),
            {"base_kernel_shape": (None, 4, 8)},
        ),
        (
            "Einsum",
            lambda k: (((3, 4 * k, 8 * k), "etd,edf->etf"), {}),
            {"base_shape": (None, 4, 8)},
        ),
        floats(3, 2, "4"),
        {"kernel": "batch3 input4x output8x", "bias": "batch3 output8x"},
    ),
    "convolution": Row(
        (
            "Conv",
            lambda k: ((4 * k, 6 * k, (3,)), {}),
            {"base_in_features": 4, "base_out_features": 6},
        ),
        ("Conv", lambda k: ((6 * k, (3,)), {}), {"base_in_features": 4, "base_features": 6}),
        floats(2, 5, "4"),
        {"kernel": "batch3 input4x output6x", "bias": "output6x"},
    ),
    "grouped convolution": Row(
        (
            "Conv",
            lambda k: ((4 * k, 6 * k, (3,)), {"feature_group_count": 2}),
            {"base_in_features": 4, "base_out_features": 6},
        ),
        (
            "Conv",
            lambda k: ((6 * k, (3,)), {"feature_group_count": 2}),
            {"base_in_features": 4, "base_features": 6},
        ),
        floats(2, 5, "4"),
        {"kernel": "batch3 input2x output6x", "bias": "output6x"},
    ),
    "depthwise convolution": Row(
        (
            "Conv",
            lambda k: ((4 * k, 4 * k, (3,)), {"feature_group_count": 4 * k}),
            {"base_in_features": 4, "base_out_features": 4, "base_feature_group_count": 4},
        ),
        (
            "Conv",
            lambda k: ((4 * k, (3,)), {"feature_group_count": 4 * k}),
            {"base_in_features": 4, "base_features": 4, "base_feature_group_count": 4},
        ),
        floats(2, 5, "4"),
        {"kernel": "batch3 input1 output4x", "bias": "output4x"},
    ),
    "transposed convolution": Row(
        (
            "ConvTranspose",
            lambda k: ((4 * k, 3, (2,), (2,)), {"transpose_kernel": True}),
            {"base_in_features": 4},
        ),
        (
            "ConvTranspose",
            lambda k: ((3, (2,), (2,)), {"transpose_kernel": True}),
            {"base_in_features": 4},
        ),
        floats(2, 5, "4"),
        {"kernel": "batch2 output3 input4x", "bias": "output3"},
    ),
    "embedding": Row(
        ("Embed", lambda k: ((5, 4 * k), {}), {"base_features": 4}),
        ("Embed", lambda k: ((5, 4 * k), {}), {"base_features": 4}),
        lambda k: (np.array([1, 3, 3]),),
        {"embedding": "input5 output4x"},
    ),
    "layer norm": Row(
        ("LayerNorm", lambda k: ((8 * k,), {}), {"base_num_features": 8}),
        ("LayerNorm", lambda k: ((), {}), {"base_features": 8}),
        floats(3, "8"),
        {"scale": "output8x", "bias": "output8x"},
    ),
    "RMS norm": Row(
        ("RMSNorm", lambda k: ((8 * k,), {}), {"base_num_features": 8}),
        ("RMSNorm", lambda k: ((), {}), {"base_features": 8}),
        floats(3, "8"),
        {"scale": "output8x"},
    ),
    "group norm": Row(
        ("GroupNorm", lambda k: ((8 * k, 4), {}), {"base_num_features": 8}),
        ("GroupNorm", lambda k: ((4,), {}), {"base_features": 8}),
        floats(3, 2, "8"),
        {"scale": "output8x", "bias": "output8x"},
    ),
    "batch norm": Row(
        ("BatchNorm", lambda k: ((8 * k,), {}), {"base_num_features": 8}),
        ("BatchNorm", lambda k: ((False,), {}), {"base_features": 8}),
        floats(3, "8"),
        {"scale": "output8x", "bias": "output8x"},
    ),
    "attention, more heads": Row(
        (
            "MultiHeadAttention",
            lambda k: ((2 * k, 8 * k), {"decode": False}),
            {"base_num_heads": 2, "base_in_features": 8},
        ),
        (
            "MultiHeadDotProductAttention",
            lambda k: ((2 * k,), {}),
            {"base_num_heads": 2, "base_in_features": 8},
        ),
        floats(3, "8"),
        ATTENTION,
    ),
    "attention, larger heads, QK norm": Row(
        (
            "MultiHeadAttention",
            lambda k: ((2, 8 * k, None, 3), {"decode": False, "normalize_qk": True}),
            {"base_head_dim": 4, "base_in_features": 8},
        ),
        (
            "MultiHeadDotProductAttention",
            lambda k: ((2,), {"out_features": 3, "normalize_qk": True}),
            {"base_head_dim": 4, "base_in_features": 8},
        ),
        floats(3, "8"),
        {
            "query/kernel": "input8x output2 output4x",
            "query/bias": "output2 output4x",
            "key/kernel": "input8x output2 output4x",
            "key/bias": "output2 output4x",
            "value/kernel": "input8x output2 output4x",
            "value/bias": "output2 output4x",
            "query_ln/scale": "output4x",
            "key_ln/scale": "output4x",
            "out/kernel": "input2 input4x output3",
            "out/bias": "output3",
        },
    ),
    "attention, grouped queries": Row(
        (
            "MultiHeadAttention",
            lambda k: ((4 * k, 8 * k, 16 * k, None, 2), {"decode": False, "use_bias": False}),
            {"base_num_heads": 4, "base_in_features": 8},
        ),
        None,
        floats(3, "8"),
        {
            "query/kernel": "input8x output4x output4",
            "key/kernel": "input8x output2 output4",
            "value/kernel": "input8x output2 output4",
            "out/kernel": "input4x input4 output8x",
        },
    ),
}


def cell(name: str) -> dict[str, Any]:
    """A cell of both APIs, of which the inputs grow too."""
    return {
        "nnx": (
            name,
            lambda k: ((3 * k, 4 * k), {}),
            {"base_in_features": 3, "base_hidden_features": 4},
        ),
        "linen": (name, lambda k: ((4 * k,), {}), {"base_in_features": 3, "base_features": 4}),
    }


def carry_and_input(k: int) -> tuple[Any, ...]:
    return draw(2, 4 * k), draw(2, 3 * k)


def lstm_inputs(k: int) -> tuple[Any, ...]:
    return (draw(2, 4 * k), draw(2, 4 * k)), draw(2, 3 * k)


def hidden(inputs: str, *names: str) -> dict[str, str]:
    """Kernels and biases of a cell; a name that ends in + has a bias."""
    kernels = {f"{name.rstrip('+')}/kernel": f"input{inputs}x output4x" for name in names}
    return kernels | {f"{name[:-1]}/bias": "output4x" for name in names if name.endswith("+")}


SIMPLE, GRU, LSTM = (cell(name) for name in ("SimpleCell", "GRUCell", "LSTMCell"))
OF_STATE = ("hi+", "hf+", "hg+", "ho+")
ROWS |= {
    "simple cell of nnx": Row(
        SIMPLE["nnx"],
        None,
        carry_and_input,
        hidden("3", "dense_i+") | hidden("4", "dense_h"),
    ),
    "simple cell of linen": Row(
        None, SIMPLE["linen"], carry_and_input, hidden("3", "i+") | hidden("4", "h")
    ),
    "GRU of nnx": Row(
        GRU["nnx"],
        None,
        carry_and_input,
        {
            "dense_i/kernel": "input3x output12x",
            "dense_i/bias": "output12x",
            "dense_h/kernel": "input4x output12x",
        },
    ),
    "GRU of linen": Row(
        None,
        GRU["linen"],
        carry_and_input,
        hidden("3", "ir+", "iz+", "in+") | hidden("4", "hr", "hz", "hn+"),
    ),
    "LSTM of nnx": Row(
        LSTM["nnx"],
        None,
        lstm_inputs,
        hidden("3", "ii", "if_", "ig", "io") | hidden("4", *OF_STATE),
    ),
    "LSTM of linen": Row(
        None,
        LSTM["linen"],
        lstm_inputs,
        hidden("3", "ii", "if", "ig", "io") | hidden("4", *OF_STATE),
    ),
    "LoRA": Row(
        (
            "LoRA",
            lambda k: ((4 * k, 2, 6 * k), {}),
            {"base_in_features": 4, "base_out_features": 6},
        ),
        None,
        floats(3, "4"),
        {"lora_a": "input4x output2", "lora_b": "input2 output6x"},
    ),
}


class Layer(NamedTuple):
    """A layer of either API as a function of its parameters, which are named by their paths."""

    params: dict[str, jax.Array]
    apply: Callable[..., Any]
    specs: dict[str, Any] | None


def flat(tree: Any) -> dict[str, Any]:
    return jax.tree_util.tree_leaves_with_path(tree) and {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def nnx_layer(row: Row, k: int, ours: bool, **kwargs: Any) -> Layer:
    name, sizes, bases = row.nnx
    args, flax = sizes(k)
    module = jaxmup.nnx if ours else nnx
    layer = getattr(module, name)(
        *args, **flax, **(bases if ours else {}), **kwargs, rngs=nnx.Rngs(7)
    )

    def apply(params, *inputs):
        model = nnx.clone(layer)
        nnx.update(model, nested(params))
        return model(*inputs)

    params = flat(nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
    return Layer(params, apply, flat(nnx.to_pure_dict(jaxmup.nnx.specs(layer))) if ours else None)


def linen_layer(row: Row, k: int, ours: bool, **kwargs: Any) -> Layer:
    name, sizes, bases = row.linen
    args, flax = sizes(k)
    module = jaxmup.linen if ours else nn
    layer = getattr(module, name)(*args, **flax, **(bases if ours else {}), **kwargs)
    variables = layer.init(jax.random.key(7), *row.inputs(k))
    rest = {name: value for name, value in variables.items() if name != "params"}

    def apply(params, *inputs):
        return layer.apply({"params": nested(params), **rest}, *inputs, mutable=True)[0]

    specs = flat(jaxmup.linen.specs(layer, *row.inputs(k))) if ours else None
    return Layer(flat(variables["params"]), apply, specs)


MAKERS = {"nnx": nnx_layer, "linen": linen_layer}
LAYERS = [
    pytest.param(make, row, id=f"{name}-{api}")
    for name, row in ROWS.items()
    for api, make in MAKERS.items()
    if getattr(row, api) is not None
]
every_layer = pytest.mark.parametrize(("make", "row"), LAYERS)


def values_and_gradients(layer: Layer, params: Any, inputs: Any) -> Any:
    """Outputs and the gradients with respect to the parameters."""

    def loss(params):
        y = layer.apply(params, *inputs)
        return sum(jnp.sum(jnp.sin(leaf).astype(jnp.float32)) for leaf in jax.tree.leaves(y)), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    return y, gradients


@every_layer
def test_at_base_width_the_layer_is_flax(make, row):
    ours, flax = make(row, 1, True), make(row, 1, False)
    assert bits(ours.params) == bits(flax.params)
    inputs = row.inputs(1)
    expected = values_and_gradients(flax, flax.params, inputs)
    assert bits(values_and_gradients(ours, ours.params, inputs)) == bits(expected)


PACKAGE = f"{os.sep}jaxmup{os.sep}"


def modules_entered(function: Callable[[], Any]) -> set[str]:
    """The modules of jaxmup whose functions run while `function` does."""
    entered = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and PACKAGE in file:
            entered.add(file.rpartition(PACKAGE)[2])

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return entered


@every_layer
def test_a_forward_pass_enters_the_layer_and_what_computes_alone(make, row):
    layer, inputs = make(row, 2, True), row.inputs(2)
    layer.apply(layer.params, *inputs)
    entered = modules_entered(lambda: layer.apply(layer.params, *inputs))
    # A product asks in which dtype to compute.
    entered -= {"functional.py", "_dtypes.py"}
    assert all(module.count(os.sep) for module in entered), entered
    # Norms inside of NNX's attention are layers of their own, in a module of their own.
    has_norm_inside = make is nnx_layer and any("_ln/" in name for name in row.axes)
    assert len(entered) <= 2 + has_norm_inside


def arguments(function: Any) -> list[Any]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


NAMES = {
    api: {getattr(row, api)[0] for row in ROWS.values() if getattr(row, api)} for api in MAKERS
}


@pytest.mark.parametrize("name", sorted(NAMES["nnx"]))
def test_nnx_layers_are_made_and_called_as_those_of_flax(name):
    ours, flax = getattr(jaxmup.nnx, name), getattr(nnx, name)
    positional = [
        a for a in arguments(flax.__init__) if a[1] == inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert arguments(ours.__init__)[: len(positional)] == positional
    assert arguments(ours.__call__) == arguments(flax.__call__)


@pytest.mark.parametrize("name", sorted(NAMES["linen"]))
def test_linen_layers_are_made_and_called_as_those_of_flax(name):
    ours, flax = getattr(jaxmup.linen, name), getattr(nn, name)
    theirs = [(field.name, field.default) for field in dataclasses.fields(flax)]
    assert [(f.name, f.default) for f in dataclasses.fields(ours)][: len(theirs) - 2] == theirs[:-2]
    assert arguments(ours.__call__) == arguments(flax.__call__)


def axes(words: str, k: int) -> tuple[Axis, ...]:
    """The axes of `"input8x output3"` at `k` times the base width."""

    def axis(word: str) -> Axis:
        kind = next(kind for kind in ("input", "output", "batch") if word.startswith(kind))
        base = int(word.removeprefix(kind).removesuffix("x"))
        return Axis(kind, base * k, base) if word.endswith("x") else Axis(kind, base)

    return tuple(axis(word) for word in words.split())


# Roles that no published table tells apart so well; a weight that grows by 4 has the multiplier and
# the initial gain 4^-a and 4^-b. (Outputs have a + b = ½, so attention logits stay as they are.)
APART = Parametrization.from_table(
    "apart",
    "adam",
    {"input": ABCD(-1, 1, 0, 0), "hidden": ABCD(1, -1, 0, 0), "output": ABCD(2, -1.5, 0, 0)},
)
MULTIPLIER = {"input": 4.0, "hidden": 0.25, "output": 1 / 16, "fixed": 1.0}
INIT_GAIN = {"input": 0.25, "hidden": 4.0, "output": 8.0, "fixed": 1.0}


def role(words: str) -> str:
    grows = {
        kind: any(w.startswith(kind) and w.endswith("x") for w in words.split())
        for kind in ("input", "output")
    }
    match grows["input"], grows["output"]:
        case True, True:
            return "hidden"
        case True, False:
            return "output"
        case False, True:
            return "input"
    return "fixed"


def ones(row: Row) -> dict[str, Any]:
    """Initial values 1 for every parameter; those of a QK norm have them anyway."""
    names = {name.split("/")[-1] for name in row.axes if "_ln/" not in name}
    names |= {"recurrent_kernel"} if any("Cell" in call[0] for call in row[:2] if call) else set()
    ones = jax.nn.initializers.ones
    arguments = {f"{name}_init": ones for name in names if not name.startswith("lora")}
    return arguments or {"a_initializer": ones, "b_initializer": ones}


@every_layer
def test_the_unit_gauge_stores_weights_of_variance_one(make, row):
    """Those whose initializer is Flax's own, also orthogonal ones."""
    layer = make(row, 4, True, parametrization=jaxmup.parametrization("mup", gauge="unit"))
    for name, w in layer.params.items():
        if name.split("/")[-1] in ("kernel", "embedding"):
            assert abs(np.sqrt(np.mean(np.square(w))) - 1) <= z_bound(w.size)


# Flax keeps the statistics of a batch norm in float32.
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")
@every_layer
def test_specs_and_effective_weights_away_from_base(make, row, x64):
    settings = {"param_dtype": np.float64, **ones(row)}
    ours = make(row, 4, True, parametrization=APART, **settings)
    flax = make(row, 4, False, **settings)
    roles = {name: role(words) for name, words in row.axes.items()}
    assert {name: spec.axes for name, spec in ours.specs.items()} == {
        name: axes(words, 4) for name, words in row.axes.items()
    }
    for name, w in ours.params.items():
        np.testing.assert_array_equal(w, INIT_GAIN[roles[name]])
    multipliers = {name: MULTIPLIER[own] for name, own in roles.items()}
    rng = np.random.default_rng(5)
    params = {name: rng.normal(size=w.shape) for name, w in ours.params.items()}
    weights = {name: multipliers[name] * w for name, w in params.items()}
    inputs = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, row.inputs(4))
    y, expected = jax.jit(
        lambda params, weights: (ours.apply(params, *inputs), flax.apply(weights, *inputs))
    )(params, weights)
    require_close(y, expected, "layer", "float64")
