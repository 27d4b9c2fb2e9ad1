"""The bridge's plans and weights: which tensor becomes which leaf, and what is refused."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen, nnx
from helpers import cases

import jaxmup
from jaxmup import bridge
from jaxmup.models.gpt import GPT

RNGS = nnx.Rngs(0)


def state(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random tensors of float32; `__` in a name stands for a dot."""
    rng = np.random.default_rng(0)
    return {
        name.replace("__", "."): np.asarray(rng.standard_normal(shape), np.float32)
        for name, shape in shapes.items()
    }


def tree(**shapes: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """An abstract tree of float32; `__` in a name stands for a slash."""
    return {
        name.replace("__", "/"): jax.ShapeDtypeStruct(shape, np.float32)
        for name, shape in shapes.items()
    }


def matched(source, target, pairs=None) -> dict[str, str]:
    """From the tensors of a plan to their leaves."""
    return {row[0]: row[1] for row in bridge.plan(source, target, pairs).rows()}


MATCHED = {
    "one shape each": (
        state(a__weight=(3, 2), b__weight=(5, 3)),
        tree(x__kernel=(2, 3), y__kernel=(3, 5)),
        {"a.weight": "x/kernel", "b.weight": "y/kernel"},
    ),
    "equal names": (
        state(right__weight=(2, 2), left__weight=(2, 2)),
        tree(left__kernel=(2, 2), right__kernel=(2, 2)),
        {"left.weight": "left/kernel", "right.weight": "right/kernel"},
    ),
    "synonyms": (
        state(q_proj__weight=(2, 2), k_proj__weight=(2, 2), o_proj__weight=(2, 2)),
        tree(out__kernel=(2, 2), key__kernel=(2, 2), query__kernel=(2, 2)),
        {
            "q_proj.weight": "query/kernel",
            "k_proj.weight": "key/kernel",
            "o_proj.weight": "out/kernel",
        },
    ),
    "a name that is left": (
        state(fc__weight=(2, 2), other__weight=(2, 2)),
        tree(fc__kernel=(2, 2), thing__kernel=(2, 2)),
        {"fc.weight": "fc/kernel", "other.weight": "thing/kernel"},
    ),
    "numbers with gaps, and ten after nine": (
        state(net__10__weight=(2, 2), net__9__weight=(2, 2), net__0__weight=(2, 2)),
        tree(Dense_0__kernel=(2, 2), Dense_1__kernel=(2, 2), Dense_2__kernel=(2, 2)),
        {
            "net.0.weight": "Dense_0/kernel",
            "net.9.weight": "Dense_1/kernel",
            "net.10.weight": "Dense_2/kernel",
        },
    ),
    "numbers within words, of lists in lists": (
        state(**{f"layer{i}__conv{j}__weight": (2, 2) for i in (1, 2) for j in (1, 2)}),
        tree(**{f"stages__{i}__conv{j}__kernel": (2, 2) for i in (0, 1) for j in (1, 2)}),
        {
            "layer1.conv1.weight": "stages/0/conv1/kernel",
            "layer1.conv2.weight": "stages/0/conv2/kernel",
            "layer2.conv1.weight": "stages/1/conv1/kernel",
            "layer2.conv2.weight": "stages/1/conv2/kernel",
        },
    ),
    "a stack of layers": (
        state(h__0__fc__weight=(3, 2), h__1__fc__weight=(3, 2)),
        tree(blocks__fc__kernel=(2, 2, 3)),
        {"h.0.fc.weight": "blocks/fc/kernel[0]", "h.1.fc.weight": "blocks/fc/kernel[1]"},
    ),
    "heads": (
        state(q__weight=(6, 4), q__bias=(6,)),
        tree(query__kernel=(4, 3, 2), query__bias=(3, 2)),
        {"q.weight": "query/kernel", "q.bias": "query/bias"},
    ),
    "arrays on their own": (
        state(cls_token=(1, 4), scale=()),
        tree(cls=(1, 4), temperature=()),
        {"cls_token": "cls", "scale": "temperature"},
    ),
    "collections of Linen": (
        state(bn__weight=(3,), bn__bias=(3,), bn__running_mean=(3,), bn__running_var=(3,)),
        {
            "params": {"BatchNorm_0": tree(scale=(3,), bias=(3,))},
            "batch_stats": {"BatchNorm_0": tree(mean=(3,), var=(3,))},
        },
        {
            "bn.weight": "params/BatchNorm_0/scale",
            "bn.bias": "params/BatchNorm_0/bias",
            "bn.running_mean": "batch_stats/BatchNorm_0/mean",
            "bn.running_var": "batch_stats/BatchNorm_0/var",
        },
    ),
}


@pytest.mark.parametrize(("source", "target", "expected"), cases(MATCHED))
def test_shapes_names_and_numbers_match(source, target, expected):
    assert matched(source, target) == expected


@pytest.mark.parametrize(
    ("source", "target", "pairs", "words"),
    cases(
        {
            "nothing tells": (
                state(a__weight=(2, 2), b__weight=(2, 2)),
                tree(x__kernel=(2, 2), y__kernel=(2, 2)),
                None,
                ["which of equal shapes", "a.weight", "b.weight", "x/kernel", "y/kernel", "pairs"],
            ),
            "numbers on one side only": (
                state(fc1__weight=(2, 2), fc2__weight=(2, 2)),
                tree(up__kernel=(2, 2), down__kernel=(2, 2)),
                None,
                ["which of equal shapes", "fc1.weight", "down/kernel"],
            ),
            "a word that both share and that says something else": (
                state(input_norm__weight=(2,), post_attention_norm__weight=(2,)),
                tree(attention_norm__scale=(2,), feed_forward_norm__scale=(2,)),
                None,
                ["which of equal shapes", "post_attention_norm.weight", "attention_norm/scale"],
            ),
            "a word that only two share": (
                state(first__weight=(2,), post_attention__weight=(2,)),
                tree(attention__scale=(2,), last__scale=(2,)),
                None,
                ["which of equal shapes", "post_attention.weight"],
            ),
            "lists nested the other way": (
                state(**{f"layer{i}__conv{j}__weight": (2, 2) for i in (0, 1) for j in (0, 1)}),
                tree(**{f"conv{j}__layer{i}__kernel": (2, 2) for i in (0, 1) for j in (0, 1)}),
                None,
                ["which of equal shapes"],
            ),
            "left over on both sides": (
                state(a__weight=(3, 2), b__weight=(4, 2)),
                tree(x__kernel=(2, 3), y__kernel=(2, 5)),
                None,
                ["Of PyTorch these fit no leaf", "b.weight (4, 2)", "fit no tensor", "y/kernel"],
            ),
            "a bias too many": (
                state(a__weight=(3, 2), a__bias=(3,)),
                tree(x__kernel=(2, 3)),
                None,
                ["a.weight (3, 2), a.bias (3)", "x/kernel (2, 3)"],
            ),
            "more of one side": (
                state(a__weight=(2, 2), b__weight=(2, 2)),
                tree(x__kernel=(2, 2)),
                None,
                ["2 of PyTorch", "1 of Flax", "tied"],
            ),
            "a square convolution without types": (
                state(a__weight=(2, 2, 3, 3)),
                tree(x__kernel=(3, 3, 2, 2)),
                None,
                ["a.weight", "window first or window first and reversed", '"conv_transpose"'],
            ),
            "matrices of both kinds": (
                state(a__weight=(2, 3), b__weight=(5, 2), c__weight=(2, 2)),
                tree(a__kernel=(2, 3), b__kernel=(2, 5), c__kernel=(2, 2)),
                None,
                ["c.weight", "transposed or as it is (Conv1D)"],
            ),
            "integers for floats": (
                {"a.weight": np.ones((3, 2), np.int32)},
                tree(x__kernel=(2, 3)),
                None,
                ["a.weight is of int32, x/kernel of float32"],
            ),
            "a pair about nothing": (
                state(a__weight=(3, 2)),
                tree(x__kernel=(2, 3)),
                {"b.*": "x"},
                ["Each pair must be about a tensor", "'b.*': 'x'"],
            ),
            "a pair to nothing": (
                state(a__weight=(3, 2)),
                tree(x__kernel=(2, 3)),
                {"a": "y"},
                ["must lead to a layer", "leads from a to y"],
            ),
            "a pair with too many stars": (
                state(a__weight=(3, 2)),
                tree(x__kernel=(2, 3)),
                {"a": "x/*"},
                ["no more `*`"],
            ),
            "an unknown layout": (
                state(a__weight=(3, 2)),
                tree(x__kernel=(2, 3)),
                {"a": ("x", "diagonal")},
                ["must be one of", "diagonal"],
            ),
        }
    ),
)
def test_what_is_open_is_an_error(source, target, pairs, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        bridge.plan(source, target, pairs)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("pairs", [["a"], {"a": 1}, {1: "a"}, {"a": ("x", None)}])
def test_pairs_are_a_mapping_of_names(pairs):
    with pytest.raises(TypeError, match="pair"):
        bridge.plan(state(a__weight=(3, 2)), tree(x__kernel=(2, 3)), pairs)


def test_pairs_decide():
    source = state(a__weight=(2, 2), b__weight=(2, 2), c__weight=(2, 2))
    target = tree(x__kernel=(2, 2), y__kernel=(2, 2))
    found = matched(source, target, {"a": "y/kernel", "b": None})
    assert found == {"a.weight": "y/kernel", "b.weight": "(none)", "c.weight": "x/kernel"}
    tied = bridge.plan(source, target, {"a": "y", "b": "y"}).entries
    assert [[s.name for s in entry.sources] for entry in tied] == [
        ["a.weight", "b.weight"],
        ["c.weight"],
    ]
    made = bridge.from_torch(
        source, target, {"a": ("x", "conv1d"), "b": ("y", "linear"), "c": None}
    )
    np.testing.assert_array_equal(made["x/kernel"], source["a.weight"])
    np.testing.assert_array_equal(made["y/kernel"], source["b.weight"].T)


def gpt2(blocks: int = 3, width: int = 8) -> dict[str, np.ndarray]:
    """GPT-2's names and shapes in Hugging Face's code, whose `Conv1D` is not transposed."""
    d = width
    shapes = {"wte.weight": (11, d), "wpe.weight": (5, d), "ln_f.weight": (d,), "ln_f.bias": (d,)}
    block = {"ln_1.weight": (d,), "ln_1.bias": (d,), "ln_2.weight": (d,), "ln_2.bias": (d,)}
    block |= {"attn.c_attn.weight": (d, 3 * d), "attn.c_attn.bias": (3 * d,)}
    block |= {"attn.c_proj.weight": (d, d), "attn.c_proj.bias": (d,)}
    block |= {"mlp.c_fc.weight": (d, 4 * d), "mlp.c_fc.bias": (4 * d,)}
    block |= {"mlp.c_proj.weight": (4 * d, d), "mlp.c_proj.bias": (d,)}
    shapes |= {f"h.{i}.{name}": shape for i in range(blocks) for name, shape in block.items()}
    return {f"transformer.{n}": a for n, a in state(**shapes).items()}


def gpt(*, stacked: bool, tied: bool = True) -> GPT:
    kinds = {"positions": "learned", "norm": "layer", "feed_forward": "plain", "use_bias": True}
    sizes = {"width": 8, "num_layers": 3, "num_heads": 2, "base_width": 8, "context": 5}
    return nnx.eval_shape(
        lambda: GPT(11, **sizes, **kinds, tied=tied, stacked=stacked, rngs=nnx.Rngs(0))
    )


def norms_of(blocks: str) -> dict[str, str]:
    names = {"ln_1": "attention_norm", "ln_2": "feed_forward_norm"}
    return {f"transformer.h.*.{name}": f"{blocks}/{norm}" for name, norm in names.items()}


def test_gpt2_becomes_a_list_or_a_stack_of_blocks_and_comes_back():
    source = gpt2()
    listed = bridge.from_torch(source, gpt(stacked=False), norms_of("blocks/*"))
    stacked = bridge.from_torch(source, gpt(stacked=True), norms_of("blocks/blocks"))
    packed = source["transformer.h.1.attn.c_attn.weight"]
    key = packed[:, 8:16].reshape(8, 2, 4)  # the middle third, in two heads
    np.testing.assert_array_equal(listed.blocks[1].attention.key.kernel[...], key)
    np.testing.assert_array_equal(stacked.blocks.blocks.attention.key.kernel[...][1], key)
    square = source["transformer.h.2.attn.c_proj.weight"].reshape(2, 4, 8)  # as mlp.c_proj
    np.testing.assert_array_equal(listed.blocks[2].attention.out.kernel[...], square)
    back = bridge.to_torch(stacked, source, norms_of("blocks/blocks"))
    assert back.keys() == source.keys()
    for name, tensor in source.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_tied_tensors():
    source = gpt2()
    pairs = norms_of("blocks/*")
    one = source | {"lm_head.weight": source["transformer.wte.weight"]}
    plan = bridge.plan(one, gpt(stacked=False), pairs)
    assert "transformer.wte.weight, lm_head.weight" in str(plan)
    copied = source | {"lm_head.weight": source["transformer.wte.weight"].copy()}
    tied = pairs | {"lm_head": "embed", "transformer.wte": "embed"}
    model = bridge.from_torch(copied, gpt(stacked=False), tied)
    back = bridge.to_torch(model, copied, tied)
    np.testing.assert_array_equal(back["lm_head.weight"], source["transformer.wte.weight"])
    copied["lm_head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match=r"transformer.wte.weight, lm_head.weight: tied"):
        bridge.from_torch(copied, gpt(stacked=False), tied)
    untied = matched(copied, gpt(stacked=False, tied=False), pairs)
    assert untied["lm_head.weight"] == "readout/kernel"


def test_tied_scalars_come_back_as_scalars():
    source = {"scale": np.float32(3), "gain": np.float32(3)}
    pairs = {"scale": "temperature", "gain": "temperature"}
    made = bridge.from_torch(source, tree(temperature=()), pairs)
    back = bridge.to_torch(made, source, pairs)
    assert {name: tensor.shape for name, tensor in back.items()} == {"scale": (), "gain": ()}


def test_convolutions_by_hand():
    weight = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)  # out, in, window
    conv = bridge.from_torch({"weight": weight}, nnx.Conv(3, 2, (2,), use_bias=False, rngs=RNGS))
    assert conv.kernel[...].tolist() == [[[0, 6], [2, 8], [4, 10]], [[1, 7], [3, 9], [5, 11]]]
    transposed = nnx.ConvTranspose(2, 3, (2,), use_bias=False, rngs=RNGS)  # in 2, out 3
    kernel = bridge.from_torch({"weight": weight}, transposed).kernel[...]
    assert kernel.tolist() == [[[1, 3, 5], [7, 9, 11]], [[0, 2, 4], [6, 8, 10]]]  # reversed


def test_recurrent_biases_by_hand():
    hidden = {"hr": (1, 1), "hz": (1, 1), "hn": (1, 1), "ir": (2, 1), "iz": (2, 1), "in": (2, 1)}
    shapes = {f"cell/{name}/kernel": shape for name, shape in hidden.items()}
    shapes |= {f"cell/{name}/bias": (1,) for name in ("ir", "iz", "in", "hn")}
    source = state(weight_ih_l0=(3, 2), weight_hh_l0=(3, 1))
    source |= {"bias_ih_l0": np.float32([1, 2, 3]), "bias_hh_l0": np.float32([10, 20, 30])}
    made = bridge.from_torch(source, tree(**shapes))
    biases = {name: float(made[f"cell/{name}/bias"][0]) for name in ("ir", "iz", "in", "hn")}
    assert biases == {"ir": 11, "iz": 22, "in": 3, "hn": 30}
    back = bridge.to_torch(made, source)
    assert back["bias_ih_l0"].tolist() == [11, 22, 3]
    assert back["bias_hh_l0"].tolist() == [0, 0, 30]
    with pytest.raises(ValueError, match=r"bias_ih_l0, bias_hh_l0: flax.nnx.GRUCell has no bias"):
        bridge.from_torch(source, nnx.eval_shape(lambda: nnx.GRUCell(2, 1, rngs=nnx.Rngs(0))))


def test_two_layers_and_both_directions_of_an_lstm():
    target = {
        f"{way}/{layer}": {
            "dense_i": tree(kernel=(2, 8)),
            "dense_h": tree(kernel=(2, 8), bias=(8,)),
        }
        for way in ("forward", "backward")
        for layer in (0, 1)
    }
    tensors = {"weight_ih": (8, 2), "weight_hh": (8, 2), "bias_ih": (8,), "bias_hh": (8,)}
    source = state(
        **{
            f"lstm__{name}_l{i}{way}": shape
            for name, shape in tensors.items()
            for i in (0, 1)
            for way in ("", "_reverse")
        }
    )
    found = matched(source, target)
    assert found["lstm.weight_hh_l1_reverse"] == "backward/1/dense_h/kernel"
    assert found["lstm.bias_ih_l0, lstm.bias_hh_l0"] == "forward/0/dense_h/bias"


def test_multipliers_keep_the_effective_weight():
    layer = jaxmup.nnx.Linear(8, 2, base_in_features=4, rngs=RNGS)  # y = 0.5 kernel x + bias
    source = state(weight=(2, 8), bias=(2,))
    made = bridge.from_torch(source, layer)
    np.testing.assert_array_equal(made.kernel[...], 2 * source["weight"].T)
    np.testing.assert_array_equal(made.bias[...], source["bias"])
    np.testing.assert_array_equal(bridge.to_torch(made, source)["weight"], source["weight"])
    leaves = bridge.plan(source, layer).forward(source.__getitem__)
    np.testing.assert_array_equal(leaves["kernel"], 2 * source["weight"].T)
    stored = bridge.from_torch(source, layer, multipliers={"weight": 0.5})
    np.testing.assert_array_equal(stored.kernel[...], source["weight"].T)


def test_linen_with_specs_keeps_the_effective_weight():
    module = jaxmup.linen.Dense(2, base_in_features=4)
    x = jnp.ones((1, 8))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    source = state(weight=(2, 8), bias=(2,))
    specs = jaxmup.linen.specs(module, x)
    made = bridge.from_torch(source, variables, specs=specs)
    np.testing.assert_array_equal(made["params"]["kernel"], 2 * source["weight"].T)


def test_specs_of_another_model_are_refused():
    tree = {"kernel": np.zeros((8, 2), np.float32), "bias": np.zeros(2, np.float32)}
    source = state(weight=(2, 8), bias=(2,))
    layer = jaxmup.nnx.Linear(16, 2, base_in_features=4, rngs=RNGS)
    specs = dict(jaxmup.nnx.specs(layer))
    with pytest.raises(ValueError, match=r"kernel has shape \(8, 2\), its spec \(16, 2\)"):
        bridge.from_torch(source, tree, specs=specs)
    with pytest.raises(ValueError, match=r"must be of a parameter\. scale is of none"):
        bridge.from_torch(source, tree, specs={"scale": specs["bias"]})
    with pytest.raises(TypeError, match="ParamSpec"):
        bridge.from_torch(source, tree, specs={"bias": 1.0})


@pytest.mark.parametrize("multiplier", [0.0, -1.0, np.nan, np.float32(np.inf), None, True])
def test_multipliers_are_positive_numbers(multiplier):
    source, layer = state(weight=(3, 2), bias=(3,)), nnx.Linear(2, 3, rngs=RNGS)
    with pytest.raises((TypeError, ValueError), match=r"multipliers\['weight'\]` must be"):
        bridge.from_torch(source, layer, multipliers={"weight": multiplier})


@dataclasses.dataclass
class Affine:
    """A layer of another framework, whose leaves are not all arrays."""

    kernel: jax.Array
    bias: jax.Array
    activation: Callable[..., jax.Array]
    depth: int
    trains: bool
    slope: float
    key: jax.Array
    rest: None = None


jax.tree_util.register_dataclass(Affine)


@pytest.mark.parametrize("abstract", [False, True])
def test_leaves_that_are_no_arrays_are_carried_along(abstract):
    key = jax.random.key(3)
    arrays = [jnp.zeros((2, 3)), jnp.zeros(3)]
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    layer = Affine(*(shapes if abstract else arrays), jnp.tanh, 2, True, 0.5, key)
    source = state(fc__weight=(3, 2), fc__bias=(3,))
    made = bridge.from_torch(source, {"fc": layer, "name": "net"})
    np.testing.assert_array_equal(made["fc"].kernel, source["fc.weight"].T)
    assert made["name"] == "net"
    kept = made["fc"]
    assert (kept.activation, kept.depth, kept.trains, kept.slope) == (jnp.tanh, 2, True, 0.5)
    assert kept.key is key
    assert kept.rest is None
    back = bridge.to_torch(made, source)
    assert back.keys() == source.keys()
    for name, tensor in source.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_two_leaves_of_one_name_are_refused():
    zeros = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"a/b: tree\['a'\]\['b'\](.|\n)*a/b: tree\['a/b'\]"):
        bridge.from_torch(state(x=(2,), y=(2,)), {"a": {"b": zeros}, "a/b": zeros})


def test_dtypes_are_kept():
    layer = nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    source = state(weight=(3, 2), bias=(3,))
    source["weight"] = source["weight"].astype(ml_dtypes.bfloat16)
    made = bridge.from_torch(source, layer)
    assert (made.kernel[...].dtype, made.bias[...].dtype) == (jnp.bfloat16, jnp.float32)
    assert bridge.to_torch(made, source)["weight"].dtype == ml_dtypes.bfloat16
    source["weight"] = source["weight"].astype(np.float64)
    with pytest.raises(ValueError, match="JAX has no float64"):
        bridge.from_torch(source, layer)
    with jax.enable_x64(True):
        assert bridge.from_torch(source, layer).kernel[...].dtype == jnp.float64


def test_the_model_does_not_share_the_memory_of_the_tensors():
    memory = np.zeros(1 << 14, np.float32)  # large, and aligned as JAX would share it
    start = -memory.ctypes.data % 64 // 4
    source = {"weight": memory[start:][:4096].reshape(64, 64)}
    layer = nnx.Embed(64, 64, rngs=RNGS)
    long = jax.jit(lambda x: x @ x @ x @ x)
    big = long(jnp.ones((600, 600)))
    for _ in range(4):
        big = long(big)  # the device has other things to do before it copies
    made = bridge.from_torch(source, layer)
    source["weight"] += 1
    assert not np.any(made.embedding[...])


def test_the_model_is_left_as_it_is_and_nan_is_reported():
    layer = nnx.Linear(2, 3, rngs=RNGS)
    before = np.asarray(layer.kernel[...])
    source = state(weight=(3, 2), bias=(3,))
    bridge.from_torch(source, layer)
    np.testing.assert_array_equal(layer.kernel[...], before)
    source["bias"][1] = np.nan
    with pytest.raises(ValueError, match=r"must not be NaN(.|\n)*bias: 1 of 3"):
        bridge.from_torch(source, layer)
    made = bridge.from_torch(source, layer, allow_nan=True)
    with pytest.raises(ValueError, match=r"must not be NaN(.|\n)*bias: 1 of 3"):
        bridge.to_torch(made, source)


def test_what_no_checkpoint_holds_must_be_in_the_model():
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.fc = nnx.Linear(2, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    source = state(fc__weight=(3, 2), fc__bias=(3,))
    assert bridge.from_torch(source, Dropped(nnx.Rngs(0))).dropout.rngs is not None
    with pytest.raises(ValueError, match="What no checkpoint holds"):
        bridge.from_torch(source, nnx.eval_shape(lambda: Dropped(nnx.Rngs(0))))
    with pytest.raises(ValueError, match="must have values"):
        bridge.to_torch(nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0))), source)


@pytest.mark.parametrize(
    ("source", "target", "error", "words"),
    cases(
        {
            "no state dict": (3, {"a": np.ones(2)}, TypeError, "mapping or a file"),
            "a whole checkpoint": (
                {"model": {}, "step": 3},
                {"a": np.ones(2)},
                ValueError,
                "'model': dict, 'step': int",
            ),
            "no model": (state(a=(2,)), {"a": "b"}, TypeError, "a: str"),
            "an empty model": (state(a=(2,)), {}, TypeError, "an empty tree"),
        }
    ),
)
def test_arguments_of_other_kinds_are_refused(source, target, error, words):
    with pytest.raises(error, match=words):
        bridge.plan(source, target)


def test_a_linen_network_computes_what_its_tensors_say():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.relu(linen.Dense(2)(x)))

    variables = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((1, 2)))
    source = {
        "0.weight": np.float32([[1, 2], [3, -4]]),
        "0.bias": np.float32([0, 1]),
        "2.weight": np.float32([[5, 7]]),
        "2.bias": np.float32([-1]),
    }
    made = bridge.from_torch(source, variables)
    # relu([1 + 2, 3 - 4 + 1]) = [3, 0], and 5 · 3 + 7 · 0 - 1 = 14
    assert float(Net().apply(made, jnp.ones((1, 2)))[0, 0]) == 14.0
