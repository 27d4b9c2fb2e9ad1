"""Several layers in one tensor of PyTorch: every published order, and what is refused.

Each order is written here as the model's own code takes the product apart; what a Flax layer makes
of the same inputs must be equal.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from jaxmup import bridge

INPUTS, SIZE = 6, 2
TOKENS = np.random.default_rng(0).normal(size=(5, INPUTS)).astype("f4")


class Attention(nnx.Module):
    """Projections of `heads` queries and `groups` keys and values."""

    def __init__(self, heads: int, groups: int, use_bias: bool = True):
        keys = {"use_bias": use_bias, "rngs": nnx.Rngs(0)}
        self.query = nnx.LinearGeneral(INPUTS, (heads, SIZE), **keys)
        self.key = nnx.LinearGeneral(INPUTS, (groups, SIZE), **keys)
        self.value = nnx.LinearGeneral(INPUTS, (groups, SIZE), **keys)
        self.out = nnx.LinearGeneral(
            (heads, SIZE), INPUTS, axis=(-2, -1), use_bias=False, rngs=nnx.Rngs(0)
        )


class Order(NamedTuple):
    """A published order.

    Args:
      name: Name of the packed module.
      words: Words of the pair.
      heads: Number of queries.
      groups: Number of keys.
      apart: Function that takes the product apart into query, key and value.
      input_first: Whether the weight is stored as (inputs, outputs).
    """

    name: str
    words: str | None
    heads: int
    groups: int
    apart: Any
    input_first: bool = False


def one_after_another(heads: int, groups: int):
    """`split([heads * d, groups * d, groups * d])`: GPT-2, Phi-3, MPT, Qwen, Falcon 7B."""
    ends = heads * SIZE, (heads + groups) * SIZE
    return lambda y: np.split(y, ends, axis=-1)


def by_head(y):
    """`view(*, heads, 3 * d).chunk(3, -1)`: GPT-NeoX."""
    return np.split(y.reshape(len(y), 4, 3 * SIZE), 3, axis=-1)


def bloom(y):
    y = y.reshape(len(y), 4, 3, SIZE)
    return y[..., 0, :], y[..., 1, :], y[..., 2, :]


def by_group(y):
    """`view(*, groups, heads / groups + 2, d)`: Falcon 40B and InternLM2."""
    y = y.reshape(len(y), 2, 4, SIZE)
    return y[:, :, :-2], y[:, :, -2], y[:, :, -1]


def codegen(y):
    """`reshape(*, 4, -1)`, then query, value, key of each block."""
    query, value, key = np.split(y.reshape(len(y), 4, -1), 3, axis=-1)
    return query, key, value


ORDERS = {
    "GPT-2": Order("attn.c_attn", None, 4, 4, one_after_another(4, 4), input_first=True),
    "torch.nn.MultiheadAttention": Order(
        "attn.in_proj_weight", None, 4, 4, one_after_another(4, 4)
    ),
    "MPT": Order("attn.Wqkv", None, 4, 4, one_after_another(4, 4)),
    "Baichuan": Order("attn.W_pack", None, 4, 4, one_after_another(4, 4)),
    "Qwen": Order("attn.c_attn", "q|k|v", 4, 4, one_after_another(4, 4)),
    "ViT of timm": Order("attn.qkv", "q|k|v", 4, 4, one_after_another(4, 4)),
    "Phi-3": Order("attn.qkv_proj", "q|k|v", 4, 2, one_after_another(4, 2)),
    "Falcon 7B": Order("attn.query_key_value", "q|k|v", 4, 1, one_after_another(4, 1)),
    "GPT-BigCode": Order("attn.c_attn", "heads q|k|v", 4, 4, by_head),
    "GPT-NeoX": Order("attn.query_key_value", "heads q|k|v", 4, 4, by_head),
    "BLOOM": Order("attn.query_key_value", "heads query|key|value", 4, 4, bloom),
    "Falcon 40B": Order("attn.query_key_value", "heads q|k|v", 4, 2, by_group),
    "InternLM2": Order("attn.wqkv", "2 q|k|v", 4, 2, by_group),
    "CodeGen": Order("attn.qkv_proj", "4 q|v|k", 4, 4, codegen),
}


def checkpoint(order: Order) -> dict[str, np.ndarray]:
    """The packed projection, and the one behind it."""
    rng = np.random.default_rng(1)
    rows = (order.heads + 2 * order.groups) * SIZE
    shape = (INPUTS, rows) if order.input_first else (rows, INPUTS)
    weight, bias = order.name, f"{order.name}.bias"
    if order.name.endswith("in_proj_weight"):
        bias = weight.replace("weight", "bias")
    else:
        weight = f"{order.name}.weight"
    return {
        weight: rng.normal(size=shape).astype("f4"),
        bias: rng.normal(size=rows).astype("f4"),
        "attn.dense.weight": rng.normal(size=(INPUTS, order.heads * SIZE)).astype("f4"),
    }


def pairs_of(order: Order) -> dict[str, Any]:
    said = {} if order.words is None else {order.name: ("attention", order.words)}
    return {**said, "attn.dense": "attention/out"}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_published_order(order):
    model = {"attention": nnx.state(Attention(order.heads, order.groups), nnx.Param)}
    state, pairs = checkpoint(order), pairs_of(order)
    made = bridge.from_torch(state, model, pairs)["attention"]
    weight, bias = list(state.values())[:2]
    product = TOKENS @ (weight if order.input_first else weight.T) + bias
    for name, part in zip(("query", "key", "value"), order.apart(product), strict=True):
        layer = made[name]
        got = np.tensordot(TOKENS, layer["kernel"][...], 1) + np.asarray(layer["bias"][...])
        np.testing.assert_allclose(got.reshape(5, -1), part.reshape(5, -1), rtol=1e-5, atol=1e-6)
    back = bridge.to_torch({"attention": made}, state, pairs)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


@pytest.mark.parametrize(
    "name", ["Qwen", "ViT of timm", "Phi-3", "Falcon 7B", "GPT-NeoX", "CodeGen"]
)
def test_a_name_does_not_tell_the_order(name):
    order = ORDERS[name]
    model = {"attention": nnx.state(Attention(order.heads, order.groups), nnx.Param)}
    with pytest.raises(
        ValueError, match=r"(?s)may hold.*'q\|k\|v'.*'heads q\|k\|v'.*CodeGen"
    ) as error:
        bridge.plan(checkpoint(order), model, {"attn.dense": "attention/out"})
    assert f'{{"{order.name}": ("attention", "q|k|v")}}' in str(error.value)


def test_gate_and_up_of_phi_3():
    rng = np.random.default_rng(0)
    state = {
        "mlp.gate_up_proj.weight": rng.normal(size=(16, INPUTS)).astype("f4"),
        "mlp.down_proj.weight": rng.normal(size=(INPUTS, 8)).astype("f4"),
    }
    kernels = {"gate": (INPUTS, 8), "up": (INPUTS, 8), "down": (8, INPUTS)}
    model = {"mlp": {n: {"kernel": jax.ShapeDtypeStruct(s, "f4")} for n, s in kernels.items()}}
    made = bridge.from_torch(state, model, {"mlp.gate_up_proj": ("mlp", "gate|up")})["mlp"]
    np.testing.assert_array_equal(made["gate"]["kernel"], state["mlp.gate_up_proj.weight"][:8].T)
    np.testing.assert_array_equal(made["up"]["kernel"], state["mlp.gate_up_proj.weight"][8:].T)
    with pytest.raises(ValueError, match=r"may hold gate and up of mlp"):
        bridge.plan(state, model)


def test_layers_of_a_stack():
    rng = np.random.default_rng(0)
    state = {f"h.{i}.attn.wqkv.weight": rng.normal(size=(12, INPUTS)).astype("f4") for i in (0, 1)}
    model = {
        "blocks": {
            n: {"kernel": jax.ShapeDtypeStruct((2, INPUTS, 2, 2), "f4")} for n in ("q", "k", "v")
        }
    }
    made = bridge.from_torch(state, model, {"h.*.attn.wqkv": ("blocks", "heads q|k|v")})["blocks"]
    rows = state["h.1.attn.wqkv.weight"].reshape(2, 3, 2, INPUTS)  # heads, parts, size
    for i, name in enumerate(("q", "k", "v")):
        got = made[name]["kernel"][1]
        np.testing.assert_array_equal(got, rows[:, i].transpose(2, 0, 1))


def test_heads_of_a_packed_weight_are_no_stack():
    """No weight has the size of one of them, and no bias says what the first axis is."""
    rng = np.random.default_rng(0)
    state = {"attn.qkv.weight": rng.normal(size=(10, INPUTS)).astype("f4")}
    shapes = {"query": (INPUTS, 3, 2), "key": (INPUTS, 1, 2), "value": (INPUTS, 1, 2)}
    model = {"attn": {n: {"kernel": jax.ShapeDtypeStruct(s, "f4")} for n, s in shapes.items()}}
    made = bridge.from_torch(state, model, {"attn.qkv": ("attn", "q|k|v")})["attn"]
    np.testing.assert_array_equal(
        made["query"]["kernel"].reshape(INPUTS, -1), state["attn.qkv.weight"][:6].T
    )


def test_moments_follow_their_weights():
    """A moment is a multiple of its tensor here, so it is that multiple of what that becomes."""
    order = ORDERS["CodeGen"]
    state, pairs = checkpoint(order), pairs_of(order)
    model = {"attention": nnx.state(Attention(4, 4), nnx.Param)}
    plan, weights = bridge.plan(state, model, pairs), bridge.from_torch(state, model, pairs)
    moved = plan.forward(lambda name: 3 * state[name])
    np.testing.assert_array_equal(
        moved["attention/key/kernel"], 3 * weights["attention"]["key"]["kernel"][...]
    )


REFUSED = {
    "3 q|k|v": "3 groups of the 8 outputs of attention/query/kernel",
    "q|k": "Every tensor must have its leaf",
    "q|k|w": "'w' is 0 of those of attention: key, out, query, value",
    "heads": "must be one of",
    "q|k|v heads": "must be one of",
    "0 q|k|v": "must be one of",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=REFUSED)
def test_orders_that_do_not_divide_or_name_nothing(words, message):
    order = ORDERS["InternLM2"]
    model = {"attention": nnx.state(Attention(4, 2), nnx.Param)}
    with pytest.raises(ValueError, match=message):
        bridge.plan(checkpoint(order), model, {"attn.wqkv": ("attention", words)})


def test_heads_that_a_matrix_does_not_have():
    state = {"wqkv.weight": np.zeros((12, INPUTS), "f4")}
    model = {
        n: {"kernel": jax.ShapeDtypeStruct((INPUTS, 4), "f4")} for n in ("query", "key", "value")
    }
    with pytest.raises(ValueError, match=r"no axis of heads.*'8 q\|k\|v'"):
        bridge.plan(state, model, {"wqkv": ("", "heads q|k|v")})
    made = bridge.from_torch(state, model, {"wqkv": ("", "2 q|k|v")})
    assert made["query"]["kernel"].shape == (INPUTS, 4)


# ------------------------------------------------------------------------------- flattened maps


def flat(kernel: tuple[int, ...]) -> dict[str, Any]:
    shapes = {"conv": (3, 3, 2, 4), "fc": kernel}
    return {n: {"kernel": jax.ShapeDtypeStruct(s, "f4")} for n, s in shapes.items()}


@pytest.mark.parametrize("kernel", [(24, 5), (2, 3, 4, 5)], ids=["flat", "general"])
def test_inputs_of_a_flattened_map(kernel):
    """PyTorch flattens (C, H, W) = (4, 2, 3), Flax (H, W, C): the same sum over all of them."""
    rng = np.random.default_rng(0)
    state = {
        "conv.weight": rng.normal(size=(4, 2, 3, 3)).astype("f4"),
        "fc.weight": rng.normal(size=(5, 24)).astype("f4"),
    }
    pairs = {"fc": ("fc", "flatten 4,2,3")}
    made = bridge.from_torch(state, flat(kernel), pairs)
    maps = rng.normal(size=(4, 2, 3)).astype("f4")
    want = state["fc.weight"] @ maps.ravel()
    got = maps.transpose(1, 2, 0).ravel() @ made["fc"]["kernel"].reshape(24, 5)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    back = bridge.to_torch(made, state, pairs)
    np.testing.assert_array_equal(back["fc.weight"], state["fc.weight"])


def test_a_flattened_map_is_noticed():
    state = {"conv.weight": np.zeros((4, 2, 3, 3), "f4"), "fc.weight": np.zeros((5, 24), "f4")}
    with pytest.warns(UserWarning, match=r"(?s)fc.weight.*6 positions of 4 channels.*flatten 4,"):
        bridge.from_torch(state, flat((24, 5)))
    assert "flatten 4," in bridge.plan(state, flat((24, 5))).notes[0]
    assert not bridge.plan(state, flat((24, 5)), {"fc": ("fc", "linear")}).notes
    assert not bridge.plan(state, flat((24, 5)), {"fc": ("fc", "flatten 4,2,3")}).notes


def test_a_wide_layer_behind_a_layer_as_wide_is_no_flattened_map():
    """ConvNeXt: a depthwise convolution of 4 channels, 4 to 16, and 16 to 4."""
    state = {
        "dwconv.weight": np.zeros((4, 1, 7, 7), "f4"),
        "norm.weight": np.zeros(4, "f4"),
        "pwconv1.weight": np.zeros((16, 4), "f4"),
        "pwconv2.weight": np.zeros((4, 16), "f4"),
    }
    shapes = {"dwconv": (7, 7, 1, 4), "pwconv1": (4, 16), "pwconv2": (16, 4)}
    model: dict[str, Any] = {
        n: {"kernel": jax.ShapeDtypeStruct(s, "f4")} for n, s in shapes.items()
    }
    model["norm"] = {"scale": jax.ShapeDtypeStruct((4,), "f4")}
    assert not bridge.plan(state, model).notes


@pytest.mark.parametrize("words", ["flatten 4,2,4", "flatten", "flatten 24", "flatten 4, 2, 3"])
def test_sizes_of_another_map(words):
    state = {"conv.weight": np.zeros((4, 2, 3, 3), "f4"), "fc.weight": np.zeros((5, 24), "f4")}
    with pytest.raises(ValueError, match=r"fc.weight has 24|must be one of"):
        bridge.plan(state, flat((24, 5)), {"fc": ("fc", words)})


# --------------------------------------------------------- separate in PyTorch, one layer in Flax


def separate(rows: dict[str, int], *, use_bias: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    state = {f"h.{i}.attn.{n}.weight": (size, INPUTS) for i in (0, 1) for n, size in rows.items()}
    if use_bias:
        state |= {f"h.{i}.attn.{n}.bias": (size,) for i in (0, 1) for n, size in rows.items()}
    state |= {f"h.{i}.attn.o.weight": (INPUTS, INPUTS) for i in (0, 1)}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in state.items()}


def joined(outputs: tuple[int, ...], *, stacked: bool = False) -> dict[str, Any]:
    """Blocks whose queries, keys and values are one layer."""
    rows = (2,) if stacked else ()
    shapes = {"qkv": (INPUTS, *outputs), "out": (INPUTS, INPUTS)}
    block: dict[str, Any] = {
        n: {"kernel": jax.ShapeDtypeStruct(rows + s, "f4")} for n, s in shapes.items()
    }
    block["qkv"]["bias"] = jax.ShapeDtypeStruct(rows + outputs, "f4")
    return {"blocks": block if stacked else [block, block]}


EQUAL, GROUPED = {"q": 6, "k": 6, "v": 6}, {"q": 8, "k": 4, "v": 4}
# As the code that uses the kernel would take its product (tokens, *outputs) apart.
JOINED = {
    "one after another": (EQUAL, (18,), None, lambda y: np.split(y, 3, -1)),
    "an axis of three": (
        EQUAL,
        (3, 3, 2),
        None,
        lambda y: [y[:, i].reshape(5, -1) for i in range(3)],
    ),
    "more queries": (GROUPED, (16,), None, lambda y: np.split(y, (8, 12), -1)),
    "head by head": (
        EQUAL,
        (3, 6),
        "heads",
        lambda y: [y[:, :, 2 * i : 2 * i + 2].reshape(5, -1) for i in range(3)],
    ),
    "group by group": (
        GROUPED,
        (16,),
        "2 groups",
        lambda y: [p.reshape(5, -1) for p in np.split(y.reshape(5, 2, 8), (4, 6), -1)],
    ),
}


@pytest.mark.parametrize("stacked", [False, True], ids=["list", "stack"])
@pytest.mark.parametrize("case", JOINED.values(), ids=JOINED)
def test_separate_modules_in_one_layer(case, stacked):
    rows, outputs, words, apart = case
    state, model = separate(rows), joined(outputs, stacked=stacked)
    path = "blocks/qkv" if stacked else "blocks/*/qkv"
    pairs = {"h.*.attn.q|k|v": path if words is None else (path, words)}
    made = bridge.from_torch(state, model, pairs)
    for i in (0, 1):
        block = jax.tree.map(lambda x, i=i: x[i], made["blocks"]) if stacked else made["blocks"][i]
        product = np.tensordot(TOKENS, block["qkv"]["kernel"], 1) + np.asarray(block["qkv"]["bias"])
        for name, part in zip("qkv", apart(product), strict=True):
            want = TOKENS @ state[f"h.{i}.attn.{name}.weight"].T + state[f"h.{i}.attn.{name}.bias"]
            np.testing.assert_allclose(part, want, rtol=1e-5, atol=1e-6)
    back = bridge.to_torch(made, state, pairs)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_files_of_joined_layers(tmp_path):
    state, pairs = separate(GROUPED), {"h.*.attn.q|k|v": ("blocks/qkv", "2 groups")}
    model = joined((16,), stacked=True)
    source, leaves, back = (tmp_path / f"{n}.safetensors" for n in ("torch", "flax", "back"))
    bridge.save(source, state)
    bridge.conversion(source, model, to="flax", pairs=pairs).write(leaves)
    made = bridge.from_torch(state, model, pairs)["blocks"]
    np.testing.assert_array_equal(bridge.load(leaves)["blocks/qkv/kernel"], made["qkv"]["kernel"])
    bridge.conversion(leaves, model, to="torch", like=source, pairs=pairs).write(back)
    for name, tensor in bridge.load(back).items():
        np.testing.assert_array_equal(tensor, state[name])


def test_moments_of_joined_layers():
    """Momentum of q, k and v becomes that of their columns, and comes back."""
    state = {n: x for n, x in separate(EQUAL, use_bias=False).items() if n.startswith("h.0.")}
    kernels = {"qkv": (INPUTS, 18), "out": (INPUTS, INPUTS)}
    params = {n: {"kernel": np.zeros(shape, "f4")} for n, shape in kernels.items()}
    plan = bridge.plan(state, params, {"h.*.attn.q|k|v": "qkv"})
    sgd = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
    torch_state = {
        "state": {i: {"momentum_buffer": 2 * x} for i, x in enumerate(state.values())},
        "param_groups": [{**sgd, "params": [0, 1, 2, 3]}],
    }
    tx, names = optax.sgd(0.1, momentum=0.9), list(state)
    moved = bridge.optimizer_from_torch(torch_state, plan, tx, params, names=names)
    want = np.concatenate([2 * state[f"h.0.attn.{n}.weight"].T for n in "qkv"], axis=1)
    np.testing.assert_array_equal(moved[0].trace["qkv"]["kernel"], want)
    back = bridge.optimizer_to_torch(moved, plan, tx, params, torch_state, names=names)
    for i, held in torch_state["state"].items():
        np.testing.assert_array_equal(back["state"][i]["momentum_buffer"], held["momentum_buffer"])


JOINTS_REFUSED = {
    "a module that is not there": ("h.*.attn.q|k|w", "blocks/*/qkv", "there is no w"),
    "another size": ("h.*.attn.q|k", "blocks/*/qkv", "they have 72: q 48, k 24"),
    "no kernel": ("h.*.attn.q|k|v", "blocks/*", "blocks/0, blocks/1 is none"),
    "groups that do not divide": (
        "h.*.attn.q|k|v",
        ("blocks/*/qkv", "3 groups"),
        "3 groups do not share the 8 outputs of q",
    ),
    "heads of a matrix": ("h.*.attn.q|k|v", ("blocks/*/qkv", "heads"), "no axis of heads"),
    "no order": ("h.*.attn.q|k|v", ("blocks/*/qkv", "q|k|v"), "be 'heads' or one such as"),
    "a module twice": ("h.*.attn.q|q|v", "blocks/*/qkv", "named once each"),
}


@pytest.mark.parametrize("case", JOINTS_REFUSED.values(), ids=JOINTS_REFUSED)
def test_joints_that_do_not_fit(case):
    pattern, value, message = case
    with pytest.raises(ValueError, match=message):
        bridge.plan(separate(GROUPED), joined((16,)), {pattern: value})
