"""Specs of unmodified models: which axes grow, what they do, and every way to get it wrong."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases
from layer_types import require_same
from plain_models import MODELS, TOKENS, Block, Scanned, ScannedBlock

import jaxmup
from jaxmup import Axis, ParamSpec
from jaxmup._spec import Applied
from jaxmup._tree import leaves_by_path

PLAIN = Applied(1.0, None)


def infer(make_model: Any, base: Any = 4, delta: Any = 8, target: Any = 16, **kwargs: Any) -> Any:
    return jaxmup.infer(make_model, base=base, delta=delta, target=target, **kwargs)


def axes(words: str) -> tuple[Axis, ...]:
    """The axes of `"batch 3, input 8, output 64/16"`, sizes at target and, where it grows, base."""

    def axis(word: str) -> Axis:
        kind, _, sizes = word.strip().partition(" ")
        return Axis(kind, *map(int, sizes.split("/")))  # type: ignore[arg-type]

    return tuple(axis(word) for word in words.split(",")) if words else ()


# ---- whole models


def roles_by_hand(roles: Any) -> dict[str, str]:
    """The role of each layer's weight by the name of the layer, and that of its bias."""
    by_layer = {layer: role for role, layers in roles.items() for layer in layers.split()}
    biases = {
        f"{layer}/bias": "fixed" if role in ("output", "fixed") else "input"
        for layer, role in by_layer.items()
    }
    return by_layer | biases


OF_NO_LAYER = {"positions"}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_roles_of_whole_models(model):
    specs = jaxmup.infer(model.model, base=16, delta=32, target=64)
    found = {
        re.sub("/(kernel|embedding|scale)$", "", name): spec.role
        for name, spec in leaves_by_path(specs).items()
    }
    expected = {name: role for name, role in roles_by_hand(model.roles).items() if name in found}
    assert found == expected
    base, target = (
        jax.eval_shape(lambda n=n: model.split(model.make(n, jax.random.key(0)), n)[0])
        for n in (16, 64)
    )
    for name, spec in leaves_by_path(specs).items():
        assert spec.shape == leaves_by_path(target)[name].shape
        assert spec.base_shape == leaves_by_path(base)[name].shape
        assert spec.applied == PLAIN
    if model.apply is None:
        own = sum(name in OF_NO_LAYER for name in found)
        assert require_same(model.model, specs, 64) == len(found) - own
    assert jax.tree.structure(specs) == jax.tree.structure(
        target if not isinstance(target, nnx.State) else jax.tree.map(lambda _: 0, specs)
    )


# ---- layers


def on(module: nn.Module, *shape: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A Linen module and the shape of what it is called with."""
    return module, shape


IMAGE = (1, 5, 5)
# NNX layer and Linen layer of width n, and the axes of their parameters from 4 to 16
LAYERS = {
    "Linear": (
        lambda n, **r: nnx.Linear(n, 2 * n, **r),
        lambda n: on(nn.Dense(2 * n), 1, n),
        {"kernel": "input 16/4, output 32/8", "bias": "output 32/8"},
    ),
    "only outputs": (
        lambda n, **r: nnx.Linear(3, n, use_bias=False, **r),
        lambda n: on(nn.Dense(n, use_bias=False), 1, 3),
        {"kernel": "input 3, output 16/4"},
    ),
    "LinearGeneral": (
        lambda n, **r: nnx.LinearGeneral((3, n), (n, 2), axis=(-2, -1), **r),
        lambda n: on(nn.DenseGeneral((n, 2), axis=(-2, -1)), 1, 3, n),
        {"kernel": "input 3, input 16/4, output 16/4, output 2", "bias": "output 16/4, output 2"},
    ),
    "LinearGeneral with batch axes": (
        lambda n, **r: nnx.LinearGeneral(n, 2 * n, batch_axis={0: 3}, **r),
        lambda n: on(nn.DenseGeneral(2 * n, batch_dims=(0,)), 3, n),
        {"kernel": "batch 3, input 16/4, output 32/8", "bias": "batch 3, output 32/8"},
    ),
    "Einsum with growing experts": (
        lambda n, **r: nnx.Einsum("bec,ecd->bed", (n // 2, n, 3 * n), (n // 2, 3 * n), **r),
        lambda n: on(nn.Einsum((n // 2, n, 3 * n), "bec,ecd->bed"), 1, n // 2, n),
        {"kernel": "batch 8/2, input 16/4, output 48/12", "bias": "batch 8/2, output 48/12"},
    ),
    "Einsum with its bias in the order of the result": (
        lambda n, **r: nnx.Einsum("bi,hio->boh", (2, 5, n), (n, 2), **r),
        lambda n: on(nn.Einsum((2, 5, n), "bi,hio->boh"), 1, 5),
        {"kernel": "output 2, input 5, output 16/4", "bias": "output 16/4, output 2"},
    ),
    "Conv": (
        lambda n, **r: nnx.Conv(n, 2 * n, (3, 2), **r),
        lambda n: on(nn.Conv(2 * n, (3, 2)), *IMAGE, n),
        {"kernel": "batch 3, batch 2, input 16/4, output 32/8", "bias": "output 32/8"},
    ),
    "grouped Conv": (
        lambda n, **r: nnx.Conv(n, n, (3,), feature_group_count=2, **r),
        lambda n: on(nn.Conv(n, (3,), feature_group_count=2), 1, 5, n),
        {"kernel": "batch 3, input 8/2, output 16/4", "bias": "output 16/4"},
    ),
    "depthwise Conv": (
        lambda n, **r: nnx.Conv(n, n, (3,), feature_group_count=n, **r),
        lambda n: on(nn.Conv(n, (3,), feature_group_count=n), 1, 5, n),
        {"kernel": "batch 3, input 1, output 16/4", "bias": "output 16/4"},
    ),
    "ConvTranspose": (
        lambda n, **r: nnx.ConvTranspose(3, n, (2,), **r),
        lambda n: on(nn.ConvTranspose(n, (2,)), 1, 5, 3),
        {"kernel": "batch 2, input 3, output 16/4", "bias": "output 16/4"},
    ),
    "ConvTranspose with a transposed kernel": (
        lambda n, **r: nnx.ConvTranspose(3, n, (2,), transpose_kernel=True, **r),
        lambda n: on(nn.ConvTranspose(n, (2,), transpose_kernel=True), 1, 5, 3),
        {"kernel": "batch 2, output 16/4, input 3", "bias": "output 16/4"},
    ),
    "ConvLocal": (
        None,
        lambda n: on(nn.ConvLocal(n, (2,), padding="VALID"), 1, 5, n),
        {"kernel": "batch 4, input 32/8, output 16/4", "bias": "batch 4, output 16/4"},
    ),
    "LayerNorm": (
        lambda n, **r: nnx.LayerNorm(n, **r),
        lambda n: on(nn.LayerNorm(), 1, n),
        {"scale": "output 16/4", "bias": "output 16/4"},
    ),
    "LayerNorm over two axes": (
        None,
        lambda n: on(nn.LayerNorm(reduction_axes=(1, 2), feature_axes=(1, 2)), 1, 3, n),
        {"scale": "output 3, output 16/4", "bias": "output 3, output 16/4"},
    ),
    "RMSNorm": (
        lambda n, **r: nnx.RMSNorm(n, **r),
        lambda n: on(nn.RMSNorm(), 1, n),
        {"scale": "output 16/4"},
    ),
    "GroupNorm": (
        lambda n, **r: nnx.GroupNorm(n, num_groups=2, **r),
        lambda n: on(nn.GroupNorm(2), 1, n),
        {"scale": "output 16/4", "bias": "output 16/4"},
    ),
    "InstanceNorm": (
        lambda n, **r: nnx.InstanceNorm(n, **r),
        lambda n: on(nn.InstanceNorm(), *IMAGE, n),
        {"scale": "output 16/4", "bias": "output 16/4"},
    ),
    "BatchNorm": (
        lambda n, **r: nnx.BatchNorm(n, **r),
        lambda n: on(nn.BatchNorm(False), 1, n),
        {"scale": "output 16/4", "bias": "output 16/4"},
    ),
    "LoRA": (
        lambda n, **r: nnx.LoRA(n, 2, 2 * n, **r),
        None,
        {"lora_a": "input 16/4, output 2", "lora_b": "input 2, output 32/8"},
    ),
    "LoRALinear with a growing rank": (
        lambda n, **r: nnx.LoRALinear(3, n, lora_rank=n // 2, **r),
        None,
        {
            "kernel": "input 3, output 16/4",
            "bias": "output 16/4",
            "lora/lora_a": "input 3, output 8/2",
            "lora/lora_b": "input 8/2, output 16/4",
        },
    ),
    "GRUCell": (
        lambda n, **r: nnx.GRUCell(3, n, **r),
        None,
        {
            "dense_i/kernel": "input 3, output 48/12",
            "dense_i/bias": "output 48/12",
            "dense_h/kernel": "input 16/4, output 48/12",
        },
    ),
    "PReLU": (
        lambda n, **r: nnx.Sequential(nnx.Linear(n, n, use_bias=False, **r), nnx.PReLU()),
        None,
        {"layers/0/kernel": "input 16/4, output 16/4", "layers/1/negative_slope": ""},
    ),
}


def by_hand(expected: dict[str, str]) -> dict[str, ParamSpec]:
    return {name: ParamSpec(axes(words), applied=PLAIN) for name, words in expected.items()}


IN_NNX = {name: (layer, expected) for name, (layer, _, expected) in LAYERS.items() if layer}
IN_LINEN = {name: (layer, expected) for name, (_, layer, expected) in LAYERS.items() if layer}


SHAPES = {
    "LoRA": lambda n: (1, n),
    "LoRALinear with a growing rank": lambda n: (1, 3),
    "GRUCell": lambda n: (1, 3),
    "PReLU": lambda n: (1, n),
}


def apply_cell(cell: nnx.Module, x: Any) -> Any:
    return cell(cell.initialize_carry(x.shape, nnx.Rngs(0)), x)


@pytest.mark.parametrize("name", IN_NNX)
def test_nnx_layers(name):
    layer, linen, expected = LAYERS[name]
    shape = SHAPES[name] if linen is None else lambda n: linen(n)[1]
    model = jaxmup.Model(
        lambda n, rngs: layer(n, rngs=rngs),
        inputs=lambda n: zeros(*shape(n)),
        apply=apply_cell if name == "GRUCell" else None,
    )
    specs = infer(model)
    assert leaves_by_path(specs) == by_hand(expected)
    assert require_same(model, specs, 16) == len(expected)


@pytest.mark.parametrize(("layer", "expected"), cases(IN_LINEN))
def test_linen_layers(layer, expected):
    model = jaxmup.Model(lambda n: layer(n)[0], inputs=lambda n: zeros(*layer(n)[1]))
    specs = infer(model)
    assert leaves_by_path(specs) == by_hand(expected)
    assert require_same(model, specs, 16) == len(expected)


def zeros(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def test_linen_recurrent_cells():
    class Recurrent(nn.Module):
        n: int

        @nn.compact
        def __call__(self, x):
            outputs = []
            for cell in (nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.MGUCell, nn.SimpleCell):
                outputs.append(nn.RNN(cell(self.n, name=cell.__name__))(x))
            return outputs

    specs = infer(Recurrent, inputs=zeros(1, 2, 3))
    gates = {"LSTMCell": 4, "OptimizedLSTMCell": 4, "GRUCell": 3, "MGUCell": 2, "SimpleCell": 1}
    assert set(specs) == set(gates)
    for cell, count in gates.items():
        kernels = [layer["kernel"] for layer in specs[cell].values()]
        assert [k.role for k in kernels].count("hidden") == count
        assert [k.role for k in kernels].count("input") == count


# ---- which axes grow


@pytest.mark.parametrize("target", [2, 4, 8, 16, 80_000])
def test_growth_comes_from_base_and_delta(target):
    """And nothing is allocated: 80,000² would be 25 GB."""
    inputs = lambda n: zeros(1, n)  # noqa: E731
    specs = infer(lambda n, rngs: nnx.Linear(n, n, rngs=rngs), target=target, inputs=inputs)
    assert specs["kernel"].axes == (Axis("input", target, 4), Axis("output", target, 4))
    assert specs["kernel"].r_in == target / 4


def language_model(width: int, vocabulary: int, rngs: nnx.Rngs) -> nnx.Module:
    embed, readout = (
        nnx.Embed(vocabulary, width, rngs=rngs),
        nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs),
    )
    return nnx.Sequential(embed, readout)


VOCABULARIES = {  # vocabulary of base, delta and target; axes of embedding and readout
    "grows with the width": (10, 20, 30, "batch 30/10, output 16/4", "input 16/4, output 30/10"),
    "same": (10, 10, 10, "batch 10, output 16/4", "input 16/4, output 10"),
    "other at the target": (10, 10, 50, "batch 50, output 16/4", "input 16/4, output 50"),
}


@pytest.mark.parametrize(("base", "delta", "target", "embed", "readout"), cases(VOCABULARIES))
def test_width_and_vocabulary_apart(base, delta, target, embed, readout):
    base, delta, target = (
        {"width": width, "vocabulary": size}
        for width, size in ((4, base), (8, delta), (16, target))
    )
    specs = infer(language_model, base, delta, target, inputs=TOKENS)
    found = leaves_by_path(specs)
    assert found == by_hand({"layers/0/embedding": embed, "layers/1/kernel": readout})
    assert found["layers/0/embedding"].role == "input"  # a lookup sums over no vocabulary


# ---- attention: √(d0 / d) on the queries, or on the norm after them

HEADS = {  # (heads, head size) of base, delta and target; the gain
    "size grows": ((2, 4), (2, 8), (2, 64), 0.25),
    "size shrinks": ((2, 8), (2, 16), (2, 2), 2.0),
    "number grows": ((2, 4), (4, 4), (16, 4), 1.0),
    "both grow": ((2, 4), (4, 8), (6, 16), 0.5),
}


@pytest.mark.parametrize("normalize_qk", [False, True])
@pytest.mark.parametrize("api", ["nnx", "linen"])
@pytest.mark.parametrize(("base", "delta", "target", "gain"), cases(HEADS))
def test_the_factor_of_attention(base, delta, target, gain, api, normalize_qk):
    sizes = [{"heads": heads, "size": size} for heads, size in (base, delta, target)]

    def in_nnx(heads, size, rngs):
        return nnx.MultiHeadAttention(
            heads, heads * size, decode=False, normalize_qk=normalize_qk, rngs=rngs
        )

    def in_linen(heads, size):
        return nn.MultiHeadDotProductAttention(heads, normalize_qk=normalize_qk)

    inputs = lambda heads, size: zeros(1, 3, heads * size)  # noqa: E731
    make = in_nnx if api == "nnx" else in_linen
    specs = leaves_by_path(infer(make, *sizes, inputs=inputs))
    with_gain = {"query_ln/scale"} if normalize_qk else {"query/kernel", "query/bias"}
    assert {name for name, spec in specs.items() if spec.forward_gain != 1} == (
        with_gain if gain != 1 else set()
    )
    assert all(specs[name].forward_gain == gain for name in with_gain)
    grown = target[0] * target[1] / (base[0] * base[1])
    for name in ("query", "key", "value", "out"):
        kernel = specs[f"{name}/kernel"]
        assert (kernel.role, kernel.r_in, kernel.r_out) == ("hidden", grown, grown)


def custom(*args: Any, **kwargs: Any) -> Any:
    return nnx.dot_product_attention(*args, **kwargs)


class OwnAttention(nnx.MultiHeadAttention):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class OwnLinenAttention(nn.MultiHeadDotProductAttention):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention.__call__(self, x)


OWN = {
    "attention_fn": ({"attention_fn": custom}, nnx.MultiHeadAttention, False),
    "subclass": ({}, OwnAttention, False),
    "Linen attention_fn": ({"attention_fn": custom}, nn.MultiHeadDotProductAttention, True),
    "Linen subclass": ({}, OwnLinenAttention, True),
}


@pytest.mark.parametrize(("options", "module", "linen"), cases(OWN))
def test_attention_of_ones_own_is_read(options, module, linen):
    def in_nnx(heads, size, rngs):
        return module(heads, heads * size, decode=False, **options, rngs=rngs)

    def in_linen(heads, size):
        return module(heads, **options)

    def gains(*sizes):
        sizes = [{"heads": heads, "size": size} for heads, size in sizes]
        inputs = {"inputs": lambda heads, size: zeros(1, 3, heads * size)}
        specs = leaves_by_path(infer(in_linen if linen else in_nnx, *sizes, **inputs))
        return {name.partition("query/")[2]: s.forward_gain for name, s in specs.items()
                if s.forward_gain != 1}  # fmt: skip

    assert gains((2, 4), (2, 8), (2, 64)) == {"kernel": 0.25, "bias": 0.25}
    assert gains((2, 4), (4, 4), (8, 4)) == {}


# ---- depth


class Stack(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs, depth: int = 2, last: int | None = None):
        self.blocks = nnx.List([Block(width, True, False, rngs) for _ in range(depth)])
        self.layers = nnx.List(
            [nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)]
        )
        if last is not None:
            self.layers.append(nnx.Linear(3, last, rngs=rngs))

    def __call__(self, x):
        for layer in (*self.blocks, *self.layers):
            x = layer(x)
        return x


def sizes_of(depth: int, **more: int) -> list[dict[str, int]]:
    return [{"width": 4}, {"width": 8}, {"width": 16, "depth": depth, **more}]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_target_may_have_another_depth(depth):
    specs = infer(Stack, *sizes_of(depth), inputs=lambda width, **_: zeros(1, 3, width))
    assert list(specs["blocks"]) == list(range(depth))
    assert all(specs["blocks"][i] == specs["blocks"][0] for i in range(depth))
    scanned = infer(Scanned, *sizes_of(depth), inputs=TOKENS)["blocks"]
    first = specs["blocks"][0]["attention"]["query"]["kernel"]
    expected = axes(f"batch {depth}, input 16/4, output 2, output 8/2")
    assert scanned["attention"]["query"]["kernel"].axes == expected
    assert first.axes == expected[1:]
    assert scanned["attention"]["query"]["kernel"].forward_gain == first.forward_gain == 0.5


def test_layers_of_another_number_must_be_alike():
    with pytest.raises(ValueError, match=r"Those of layers/\* are not(.|\n)* 2 in `base` and 3"):
        infer(Stack, *sizes_of(2, last=7))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [3, 4, 16])  # as large as base and target too
def test_stacked_axes_are_batch_axes(axis, length):
    class Stacked(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            add = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}}
            block = nn.scan(ScannedBlock, length=length, **add)
            return block(self.width, name="block")(x, None)

    kernel = infer(Stacked, inputs=lambda n: zeros(1, 3, n))["block"]["up"]["kernel"]
    words = ["input 16/4", "output 32/8"]
    words.insert(axis, f"batch {length}")
    assert kernel.axes == axes(", ".join(words))


def test_nnx_modules_under_vmap():
    def stacked(width, rngs):
        make = nnx.vmap(lambda rngs: nnx.Linear(width, width, rngs=rngs))
        return nnx.split_rngs(splits=4)(make)(rngs)

    def side_by_side(layers, x):
        return nnx.vmap(lambda layer, x: layer(x))(layers, x)

    model = jaxmup.Model(stacked, inputs=lambda n: zeros(4, 1, n), apply=side_by_side)
    specs = infer(model)
    expected = {"kernel": "batch 4, input 16/4, output 16/4", "bias": "batch 4, output 16/4"}
    assert leaves_by_path(specs) == by_hand(expected)
    assert require_same(model, specs, 16) == 2


class Member(nnx.Module):
    """One of several models side by side, all of which are called with the same inputs."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(5, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.second(self.norm(self.first(x)))))


OF_A_MEMBER = {
    "first/kernel": "input 5, output 16/4",
    "first/bias": "output 16/4",
    "norm/scale": "output 16/4",
    "norm/bias": "output 16/4",
    "second/kernel": "input 16/4, output 16/4",
    "second/bias": "output 16/4",
    "last/kernel": "input 16/4, output 3",
    "last/bias": "output 3",
}


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_members_of_a_vmap_stand_on_any_axis(axis, mean):
    def members(width, rngs):
        make = nnx.vmap(lambda rngs: Member(width, rngs), out_axes=axis)
        return nnx.split_rngs(splits=7)(make)(rngs)

    def apply(members, x):
        y = nnx.vmap(lambda member, x: member(x), in_axes=(axis, None))(members, x)
        return y.mean(0) if mean else y

    def with_members(words):
        listed = words.split(", ")
        return ", ".join([*listed[:axis], "batch 7", *listed[axis:]])

    specs = infer(members, inputs=zeros(8, 5), apply=apply)
    expected = {name: with_members(words) for name, words in OF_A_MEMBER.items()}
    assert leaves_by_path(specs) == by_hand(expected)


def test_members_may_be_more_at_the_target():
    """Their norms multiply the scale by a number of each element of the batch first, as Flax's."""

    def make_params(width, members):
        shapes = {"first": (5, width), "scale": (width,), "last": (width, 3)}
        return {name: jnp.zeros((members, *shape)) for name, shape in shapes.items()}

    def member(params, x):
        h = x @ params["first"]
        h = h * (jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-6) * params["scale"][None])
        return jnp.tanh(h) @ params["last"]

    def apply(params, x):
        return jax.vmap(member, (0, None))(params, x)

    sizes = [{"width": n, "members": m} for n, m in ((4, 2), (8, 4), (16, 6))]
    specs = infer(make_params, *sizes, inputs=zeros(8, 5), apply=apply)
    assert leaves_by_path(specs) == by_hand(
        {
            "first": "batch 6/2, input 5, output 16/4",
            "scale": "batch 6/2, output 16/4",
            "last": "batch 6/2, input 16/4, output 3",
        }
    )


# ---- what users say: rules and axis names


class Own(nnx.Module):
    """With a layer of its own, whose axes may have names."""

    def __init__(self, width: int, rngs: nnx.Rngs, names: Any = None, where: str = "mup_axes"):
        metadata = {} if names is None else {where: names, "eager_sharding": False}
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.mix = nnx.Param(jnp.zeros((2, width, width)), **metadata)
        self.shift = nnx.Param(jnp.zeros(width))


class OwnLinen(nn.Module):
    width: int
    names: tuple[str | None, ...] | None = None

    @nn.compact
    def __call__(self, x):
        outputs = nn.Dense(self.width, name="first")(x)
        init = nn.initializers.normal()
        if self.names is not None:
            init = nn.with_logical_partitioning(init, self.names)
        self.param("mix", init, (2, self.width, self.width))
        self.param("shift", nn.initializers.zeros, (self.width,))
        return outputs


DENSE = {"first/kernel": ("input", "output"), "first/bias": ("output",)}


def own(api: str, names: Any, rules: Any) -> Any:
    sizes = [{"width": n, "names": names} for n in (4, 8, 16)]
    if api == "nnx":  # which nobody calls
        return infer(Own, *sizes, rules=DENSE | rules)
    return infer(OwnLinen, *sizes, inputs=zeros(1, 3), rules=rules)


MIX = ("batch", "input", "output")
GIVEN = {
    "path": (None, {"mix": MIX}),
    "pattern": (None, {"m*": MIX}),
    "names that are kinds": (MIX, {}),
    "no name for a batch axis": ((None, "input", "output"), {}),
    "rule for names": (("layers", "embed", "mlp"), {("layers", "embed", "mlp"): MIX}),
}


@pytest.mark.parametrize("api", ["nnx", "linen"])
@pytest.mark.parametrize(("names", "rules"), cases(GIVEN))
def test_axes_given_by_the_user(names, rules, api):
    specs = own(api, names, rules={"shift": ("output",), **rules})
    assert specs["mix"].axes == axes("batch 2, input 16/4, output 16/4")
    assert specs["shift"].axes == axes("output 16/4")
    assert specs["first"]["kernel"].axes == axes("input 3, output 16/4")


def test_axis_names_that_shard_a_parameter():
    sizes = [
        {"width": n, "names": ("layers", "embed", "mlp"), "where": "out_sharding"}
        for n in (4, 8, 16)
    ]
    rules = {**DENSE, "shift": ("output",), ("layers", "embed", "mlp"): MIX}
    assert infer(Own, *sizes, rules=rules)["mix"].axes == axes("batch 2, input 16/4, output 16/4")


def lines(error: Any) -> list[str]:
    return re.findall(r"^  (.*)$", str(error.value), re.MULTILINE)


def test_without_inputs_everything_that_grows_must_be_given():
    with pytest.raises(ValueError, match=r"^Give `inputs`(.|\n)*axes of 2 parameters") as error:
        own("nnx", ("a", "b", "c"), {})
    assert lines(error) == [
        "mix: base (2, 4, 4), delta (2, 8, 8), target (2, 16, 16), axis names ('a', 'b', 'c')",
        "shift: base (4,), delta (8,), target (16,)",
    ]
    assert 'rules={"mix": (..., ..., ...,)}' in str(error.value)
    with pytest.raises(ValueError, match=r"^Give `inputs`[^.]* and `apply`"):
        infer(lambda n: {"w": jnp.zeros(n)})


def test_with_inputs_everything_that_grows_must_be_used():
    with pytest.raises(
        ValueError, match=r"must depend on each(.|\n)*__call__ \(test_infer"
    ) as error:
        own("linen", None, {})
    assert lines(error) == [
        "mix: base (2, 4, 4), delta (2, 8, 8), target (2, 16, 16)",
        "shift: base (4,), delta (8,), target (16,)",
    ]


def matrix_and_vector(n: int) -> Any:
    return {"a": {"w": jnp.zeros((n, n)), "b": jnp.zeros(n)}, "c": {"w": jnp.zeros((n, 3))}}


def test_a_rule_is_for_what_has_as_many_axes():
    rules = {"a/*": ("input", "output"), "*": ("output",), "*/w": ("input", "output")}
    specs = leaves_by_path(infer(matrix_and_vector, rules=rules))
    assert specs == by_hand(
        {"a/b": "output 16/4", "a/w": "input 16/4, output 16/4", "c/w": "input 16/4, output 3"}
    )


def test_a_rule_that_the_program_contradicts_wins_with_a_warning():
    def apply(params, x):
        return x @ params["a"]["w"] @ params["c"]["w"] + x @ params["a"]["b"]

    called = {"inputs": lambda n: zeros(n), "apply": apply}
    rules = {"a/w": ("output", "input"), "c/w": ("input", "batch")}
    with pytest.warns(UserWarning, match=r"than the rules for `a/w`; `jaxmup.lint") as warned:
        specs = leaves_by_path(infer(matrix_and_vector, rules=rules, **called))
    assert (len(warned), warned[0].filename) == (1, __file__)
    assert "c/w" not in str(warned[0].message)  # an axis that does not grow changes nothing
    assert specs["a/w"].axes == axes("output 16/4, input 16/4")


def test_lint_shows_what_the_program_says_against_a_rule():
    def apply(params, x):
        hidden = jnp.tanh(x @ params["a"]["w"] + params["a"]["b"])  # sums over the rows
        return hidden @ params["c"]["w"]

    rules = {"a/w": ("output", "input"), "c/w": ("batch", "output")}
    with pytest.warns(UserWarning, match=r"for `a/w`, `c/w`;"):
        specs = infer(matrix_and_vector, rules=rules, inputs=lambda n: zeros(n), apply=apply)
    shapes = "base (4, 4), delta (8, 8), target (16, 16)"
    line = apply.__code__.co_firstlineno + 1
    found = {
        (f.where, f.what.split(" is ")[0]): f
        for f in jaxmup.lint(specs)
        if f.check == "rule-contradicted"
    }
    assert set(found) == {(("a/w",), "Axis 0"), (("a/w",), "Axis 1"), (("c/w",), "Axis 0")}
    assert found[("a/w",), "Axis 0"].what == (
        "Axis 0 is given as 'output', but the program has it as 'input': multiplied at "
        f"test_infer.py:{line}, {shapes}."
    )
    assert found[("a/w",), "Axis 1"].what.startswith(
        "Axis 1 is given as 'input', but the program has it as 'output'"
    )
    assert found[("c/w",), "Axis 0"].why == (
        "The rule wins, so that it starts and learns as one with a batch axis there."
    )
    assert found[("a/w",), "Axis 0"].mend.startswith("Leave the rule or the axis name out")


class Scaled(nnx.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class ScaledLinen(nn.Dense):
    @nn.compact
    def __call__(self, x):
        return 2 * nn.Dense.__call__(self, x)


def normalized(wrapper: Any) -> Any:
    return lambda n, rngs: wrapper(nnx.Linear(n, n, rngs=rngs), rngs=rngs)


class NormalizedLinen(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(nn.Dense(self.width))(x)


FOREIGN = {
    "subclass": (lambda n, rngs: Scaled(n, n, rngs=rngs), None),
    "Linen subclass": (ScaledLinen, None),
    "WeightNorm": (normalized(nnx.WeightNorm), None),
    "SpectralNorm": (normalized(nnx.SpectralNorm), None),
    "Linen WeightNorm": (NormalizedLinen, None),
    "tree": (lambda n: {"a": {"kernel": jnp.zeros((n, n))}}, lambda p, x: x @ p["a"]["kernel"]),
}


@pytest.mark.parametrize(("make", "apply"), cases(FOREIGN))
def test_a_layer_that_computes_in_its_own_way(make, apply):
    specs = leaves_by_path(infer(make, inputs=lambda n: zeros(1, n), apply=apply))
    kernels = [spec for name, spec in specs.items() if name.endswith("kernel")]
    assert kernels
    assert all(k.axes == axes("input 16/4, output 16/4") for k in kernels)


def test_jaxmup_layers_keep_their_specs():
    def mixed(width, rngs):
        ours = jaxmup.nnx.Linear(
            width, width, base_in_features=4, base_out_features=4, init_std=0.3, rngs=rngs
        )
        return nnx.Sequential(nnx.Linear(3, width, rngs=rngs), ours)

    class Mixed(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(self.width)(x)
            sizes = {"base_in_features": 4, "base_features": 4}
            return jaxmup.linen.Dense(self.width, init_std=0.3, **sizes)(x)

    ours = jaxmup.nnx.specs(mixed(16, nnx.Rngs(0)).layers[1])["kernel"]
    assert ours.applied != PLAIN
    plain = by_hand({"kernel": "input 3, output 16/4"})["kernel"]
    in_nnx = infer(mixed, inputs=zeros(1, 3))["layers"]
    assert (in_nnx[0]["kernel"], in_nnx[1]["kernel"]) == (plain, ours)
    in_linen = infer(Mixed, inputs=zeros(1, 3))
    assert (in_linen["Dense_0"]["kernel"], in_linen["Dense_1"]["kernel"]) == (plain, ours)


# ---- tied embeddings


class Tied(nn.Module):
    width: int
    tied: bool = True
    readout: bool = True

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, self.width, name="embed")
        x = embed(tokens)
        values = [nn.Dense(3, name="value")(x)] if self.readout else []
        return [*values, embed.attend(x) if self.tied else x]


LOOKUP = {"rules": {"embed/embedding": ("batch", "output")}}


TIED = {  # a model; the gains of what carries its 1/r at r = 4
    # Logits and the stream that the second head reads: E · E needs 1/r, E alone none.
    "attend": (lambda n: Tied(n), {"embed/embedding": 0.5, "value/kernel": 2.0}),
    "attend, no other readout": (lambda n: Tied(n, readout=False), {"embed/embedding": 0.5}),
    "readout": (lambda n: Tied(n, tied=False), {}),
}


@pytest.mark.parametrize("rules", [{}, LOOKUP], ids=["", "rule"])
@pytest.mark.parametrize(("make", "gains"), cases(TIED))
def test_a_tied_embedding_gets_its_factor(make, gains, rules):
    specs = leaves_by_path(infer(make, inputs=TOKENS, **rules))
    assert specs["embed/embedding"].axes == axes("batch 11, output 16/4")
    assert {n: s.forward_gain for n, s in specs.items() if s.forward_gain != 1} == gains


# ---- sizes that are not proportional

OFFSETS = {  # the inner size at widths 4, 8 and 16; what is said of it
    "plus 1": ((17, 33, 65), r"4 \* width \+ 1"),
    "minus 2": ((10, 22, 46), r"3 \* width - 2"),
    "half and 3": ((5, 7, 11), r"1/2 \* width \+ 3"),
}


@pytest.mark.parametrize(("inner", "line"), cases(OFFSETS))
def test_a_size_with_an_offset_is_a_warning_with_its_line(inner, line):
    sizes = [{"width": 4 * 2**i, "inner": lambda m=m: m} for i, m in enumerate(inner)]

    def make(width, inner, rngs):
        return linear(width, rngs, inner())

    inputs = lambda width, inner: zeros(1, width)  # noqa: E731
    shapes = ", ".join(
        rf"{at} \({n}, {m}\)"
        for at, n, m in zip(("base", "delta", "target"), (4, 8, 16), inner, strict=True)
    )
    with pytest.warns(UserWarning, match=rf"layers/0/kernel, axis 1, {shapes}: {line}\n") as warned:
        infer(make, *sizes, inputs=inputs)
    assert warned[0].filename == __file__


PROPORTIONAL = {  # the inner size at each width
    "rounded down": ((100, 200, 300), (266, 533, 800)),
    "rounded up to steps of 8": ((10, 20, 30), (32, 56, 80)),
    "squared": ((4, 8, 16), (16, 64, 256)),
    "of no size of the model's": ((4, 8, 16), (5, 15, 25)),
    "at the base": ((4, 8, 4), (17, 33, 17)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("widths", "inner"), cases(PROPORTIONAL))
def test_other_sizes_are_no_finding(widths, inner):
    sizes = [{"width": n, "inner": lambda m=m: m} for n, m in zip(widths, inner, strict=True)]
    make = lambda width, inner, rngs: linear(width, rngs, inner())  # noqa: E731
    infer(make, *sizes, inputs=lambda width, inner: zeros(1, width))


# ---- bad input


def linear(width: int, rngs: nnx.Rngs, inner: int = 6, bias: bool = True) -> nnx.Module:
    up = nnx.Linear(width, inner, use_bias=bias, rngs=rngs)
    return nnx.Sequential(up, nnx.Linear(inner, width, use_bias=False, rngs=rngs))


def through_layers(params: Any, x: Any) -> Any:
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])
    return x @ params["v"]


def grown(**target: Any) -> list[dict[str, Any]]:
    return [{"width": 4}, {"width": 8}, {"width": 16, **target}]


UP = "layers/0/kernel"
CALLED = {"inputs": lambda n=None, width=None, **_: zeros(1, n or width)}
BAD = {
    "delta of another structure": (
        linear,
        [{"width": 4}, {"width": 8, "bias": False}, {"width": 16}],
        {},
        r"same parameters.*\n  layers/0/bias: \(6,\) in `base`, missing in `delta`",
    ),
    "target of another structure": (
        linear,
        grown(bias=False),
        {},
        r"same parameters(.|\n)*\n  layers/0/",
    ),
    "an axis more": (
        lambda n, rngs: nnx.LinearGeneral(n, (3,) * (1 if n < 8 else 2), rngs=rngs),
        [4, 8, 16],
        {},
        r"`delta` must have(.|\n)*kernel: \(4, 3\) in `base`, \(8, 3, 3\) in `delta`",
    ),
    "another layer": (
        lambda n, rngs: nnx.Sequential((nnx.Linear if n < 8 else Scaled)(n, n, rngs=rngs)),
        [4, 8, 16],
        CALLED,
        r"must do the same at all sizes",
    ),
    "nothing grows": (
        linear,
        [{"width": 4}, {"width": 4}, {"width": 16}],
        {},
        "nothing would grow",
    ),
    "some shrink": (
        linear,
        [{"width": 4}, {"width": 8, "inner": 5}, {"width": 16}],
        {},
        r"(?s)Some grow:.*base \(4, 6\), delta \(8, 5\).*shrink:.*layers/0/bias: base \(6,\)",
    ),
    "d_ff forgotten in delta": (
        linear,
        grown(inner=24),
        CALLED,
        r"(?s)is summed over.*\n  layers/1/kernel: base \(6, 4\), delta \(6, 8\), target",
    ),
    "heads forgotten in delta": (
        lambda heads, size, rngs: nnx.MultiHeadAttention(
            heads, size * heads, decode=False, rngs=rngs
        ),
        [{"heads": 2, "size": 4}, {"heads": 2, "size": 8}, {"heads": 4, "size": 16}],
        {"inputs": lambda heads, size: zeros(1, 3, heads * size)},
        r"(?s)is summed over.*\n  out/kernel: base \(2, 4, 8\)",
    ),
    "stack grows": (
        lambda n: {"w": jnp.zeros((n, 3, 3)), "v": jnp.zeros((3, n))},
        [4, 8, 16],
        {"inputs": zeros(1, 3), "apply": through_layers},
        r"as many iterations in `base`(.|\n)*\n  test_infer.py:\d+: 4 in `base`, 8 in `delta`",
    ),
    "rule for nothing": (
        linear,
        grown(),
        {"rules": {"layer/*": ("output",)}},
        r"(?s)match none:\n  'layer/\*'\n.*layers/0/kernel \(16, 6\)",
    ),
    "two rules for one": (
        linear,
        grown(),
        {"rules": {"*0/kernel": ("input", "output"), UP: ("input", "batch")}},
        r"\n  layers/0/kernel \(16, 6\): rules that match it say different things, "
        r"'\*0/kernel' \('input', 'output'\) and 'layers/0/kernel' \('input', 'batch'\)",
    ),
    "rule for other axes": (linear, grown(), {"rules": {UP: ("output",)}}, "has 1 axes"),
    "rule for a jaxmup layer": (
        lambda n, rngs: jaxmup.nnx.Linear(n, n, base_in_features=4, rngs=rngs),
        [4, 8, 16],
        {"rules": {"kernel": ("input", "output")}},
        "for a jaxmup layer",
    ),
    "no kind": (
        linear,
        grown(),
        {"rules": {UP: ("in", "out")}},
        "what each axis does. Got 'layers",
    ),
    "no rule": (
        linear,
        grown(),
        {"rules": {3: ("input",)}},
        "path or a tuple of axis names. Got 3",
    ),
    "an axis named twice": (
        linear,
        grown(),
        {"rules": {("embed", "embed"): ("input", "output")}},
        r"must differ. Got embed twice",
    ),
    "no parameters": (lambda n: {}, [4, 8, 16], {}, "a model with parameters.*`base`"),
    "no model": (lambda n: n, [4, 8, 16], {}, "a model with parameters"),
    "empty": (
        lambda n: {"w": jnp.zeros((n, 0))},
        [4, 8, 16],
        {"rules": {"w": ("input", "output")}},
        r"at least one element(.|\n)*\n  w \(4, 0\)",
    ),
    "size 0": (linear, grown(width=0), {}, "(must build|In) `target`"),
    "size -4": (linear, grown(width=-4), {}, "must build `target` = {'width': -4}. It raised"),
    "too large": (linear, grown(width=2**62), {}, r"int64 counts. In `target`(.|\n)*\(4611686"),
    "unknown option": (linear, grown(depth=3), {}, "must build `target`.*'depth'"),
    "no inputs": (lambda n: nn.Dense(n), [4, 8, 16], {}, "must be given for a Linen module"),
    "a failing function of inputs": (
        lambda n: nn.Dense(n),
        [4, 8, 16],
        {"inputs": lambda n: [][n]},
        "`inputs` must be made for `base` = 4. It raised IndexError",
    ),
    "inputs that the module refuses": (
        lambda n: nn.Dense(n),
        [4, 8, 16],
        {"inputs": (zeros(1, 4), 2)},
        "The model of `base` = 4 must be called with its `inputs`. It raised TypeError",
    ),
    "no function": (4, [4, 8, 16], {}, "must be a function"),
}


@pytest.mark.parametrize(("make", "sizes", "kwargs", "message"), cases(BAD))
def test_bad_input(make, sizes, kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        infer(make, *sizes, **kwargs)
