"""What single layers do besides: attention logits, tied readouts, state, blocks and depth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases, named, require_close, z_bound
from jax.nn import initializers
from test_layers import bits, draw
from test_layers_table import APART, LAYERS, ROWS, flat

import jaxmup
from jaxmup import Axis, Parametrization, _physics, parametrization
from jaxmup._readout import logits_factor, tied_readout_ratio

# ---- attention

# The factor on q · k / √d where d has grown by 4: muP's readouts shrink as 1/4, others as 1/2.
LOGITS = {
    "mup": ("mup adam", 0.5),
    "table3": ("mup sgd table3", 0.5),
    "unit": ("mup adam unit", 0.5),
    "mean_field": ("mean_field adam", 0.5),
    "cellarium": ("cellarium adam", 0.5),
    "standard": ("standard adam", 1.0),
    "ntk": ("ntk adam", 1.0),
}


@pytest.mark.parametrize(("rule", "factor"), cases(LOGITS))
def test_logits_factor(rule, factor):
    assert logits_factor(Axis("output", 16, 4), named(rule)) == factor
    assert logits_factor(Axis("output", 16), named(rule)) == 1.0


HEADS = {"base_head_dim": 4, "base_in_features": 8}


KEPT = {
    "attention": ("MultiHeadAttention", (2, 8), {"dropout_rate": 0.5, "normalize_qk": True}),
    "without keys": ("MultiHeadAttention", (2, 8), {"dropout_rate": 0.5, "keep_rngs": False}),
    "LSTM": ("LSTMCell", (4, 8), {}),
    "linear": ("Linear", (4, 8), {}),
}


@pytest.mark.parametrize("stream", ["default", "params"])
@pytest.mark.parametrize(("name", "sizes", "settings"), cases(KEPT))
def test_each_key_is_drawn_once(name, sizes, settings, stream):
    """In Flax's order, also those that the layer keeps, and the user's next one."""
    if name == "MultiHeadAttention":
        settings = settings | {"decode": False}

    def made(module: Any, key: Any) -> Any:
        rngs = nnx.Rngs(**{"dropout": jax.random.key(3), stream: key})
        return nnx.state(getattr(module, name)(*sizes, **settings, rngs=rngs)), rngs.params()

    key = jax.random.key(0)
    texts = [str(jax.make_jaxpr(lambda key, m=m: made(m, key))(key)) for m in (jaxmup.nnx, nnx)]
    assert texts[0].count("random_fold_in") == texts[1].count("random_fold_in") > 0
    (ours, our_next), (theirs, their_next) = (made(m, key) for m in (jaxmup.nnx, nnx))
    ours, theirs = (
        flat(nnx.to_pure_dict(nnx.filter_state(x, nnx.RngState))) for x in (ours, theirs)
    )
    assert bool(ours) == settings.get("keep_rngs", "dropout_rate" in settings)
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    ours, theirs = (bits(jax.tree.map(data, x)) for x in ((ours, our_next), (theirs, their_next)))
    assert ours == theirs


def attention_by_hand(params: Any, x: np.ndarray, scale: float) -> np.ndarray:
    params = {name: np.asarray(w) for name, w in params.items()}
    q, k, v = (
        np.einsum("td,dhe->the", x, params[f"{name}/kernel"]) + params[f"{name}/bias"]
        for name in ("query", "key", "value")
    )
    weights = np.asarray(jax.nn.softmax(scale * np.einsum("qhe,khe->hqk", q, k)))
    mixed = np.einsum("hqk,khe->qhe", weights, v)
    return np.einsum("qhe,hed->qd", mixed, params["out/kernel"]) + params["out/bias"]


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_attention_divides_by_the_size_of_a_head(api, x64):
    x = draw(5, 32, dtype=np.float64)
    if api == "nnx":
        layer = jaxmup.nnx.MultiHeadAttention(
            2, 32, decode=False, param_dtype=np.float64, **HEADS, rngs=nnx.Rngs(0)
        )
        params, y = flat(nnx.to_pure_dict(nnx.state(layer, nnx.Param))), layer(x)
    else:
        layer = jaxmup.linen.MultiHeadDotProductAttention(2, param_dtype=np.float64, **HEADS)
        y, variables = layer.init_with_output(jax.random.key(0), x)
        params = flat(variables["params"])
    dtype = "float32" if api == "nnx" else "float64"  # NNX takes its softmax in float32
    require_close(y, attention_by_hand(params, x, scale=4**0.5 / 16), "layer", dtype)


@pytest.mark.parametrize("zero", ["query", "out"])
def test_kernels_that_start_at_zero(zero):
    arguments = {f"zero_{zero}": True}
    layer = jaxmup.nnx.MultiHeadAttention(2, 8, decode=False, **arguments, rngs=nnx.Rngs(0))
    by_linen = jaxmup.linen.MultiHeadDotProductAttention(2, **arguments)
    params = by_linen.init(jax.random.key(0), draw(3, 8))["params"]
    for tree in (nnx.to_pure_dict(nnx.state(layer, nnx.Param)), params):
        kernels = {name: np.asarray(layer["kernel"]) for name, layer in tree.items()}
        assert {name for name, kernel in kernels.items() if not kernel.any()} == {zero}


def test_linen_attention_keeps_its_cache_its_mask_and_its_dropout():
    x, key = draw(2, 3, 8), jax.random.key(1)

    def run(module, **bases):
        layer = module(2, dropout_rate=0.5, decode=True, deterministic=False, **bases)
        variables = layer.init({"params": key, "dropout": key}, x)
        for t in range(2):
            step = {"rngs": {"dropout": jax.random.key(t)}, "mutable": ["cache", "intermediates"]}
            y, updated = layer.apply(variables, x[:, t : t + 1], sow_weights=True, **step)
            variables = {**variables, **updated}
        return bits((y, variables))

    ours = run(jaxmup.linen.MultiHeadDotProductAttention, base_in_features=8, base_head_dim=4)
    assert ours == run(nn.MultiHeadDotProductAttention)


# ---- tied embeddings

# Multipliers of lookup and logits where the features have grown by 4.
TIED = {
    "table8": ("mup adam", 1.0, 0.25),
    "table9": ("mup sgd table9", 2.0, 0.5),
    "tp4b": ("mup adam tp4b", 1.0, 0.25),
    "ntk": ("ntk adam", 1.0, 0.5),
    # Every gauge stores the embedding in its own way; the readout's share of it is muP's 1 / r.
    "table3": ("mup adam table3", 1.0, 0.25),
    "table3, sgd": ("mup sgd table3", 1.0, 0.25),
    "ntk of mup": ("mup sgd ntk", 1.0, 0.25),
    "mean field": ("mean_field adam", 1.0, 0.25),
    # Standard practice applies the tensor as it is.
    "standard": ("standard adam", 1.0, 1.0),
    "standard, sgd": ("standard sgd table8", 1.0, 1.0),
    "standard, table9": ("standard adafactor table9", 2.0, 2.0),
}
TOKENS = np.array([1, 3, 3])
MANY_TOKENS = np.tile(TOKENS, 3)  # more than there are embeddings


def embed_nnx(rule: Parametrization, size: int = 16, **kwargs: Any) -> Any:
    layer = jaxmup.nnx.Embed(
        5, size, base_features=4, parametrization=rule, rngs=nnx.Rngs(0), **kwargs
    )

    def apply(w, query, method):
        model = nnx.clone(layer)
        model.embedding.set_value(w)
        return getattr(model, method)(query)

    return layer.embedding[...], apply


def embed_linen(rule: Parametrization, size: int = 16, **kwargs: Any) -> Any:
    layer = jaxmup.linen.Embed(5, size, base_features=4, parametrization=rule, **kwargs)
    w = layer.init(jax.random.key(0), TOKENS)["params"]["embedding"]
    return w, lambda w, query, method: layer.apply(
        {"params": {"embedding": w}}, query, method=method
    )


each_embed = pytest.mark.parametrize("make", [embed_nnx, embed_linen], ids=["nnx", "linen"])


@each_embed
@pytest.mark.parametrize(("rule", "lookup", "logits"), cases(TIED))
def test_a_tied_embedding_has_one_gauge_and_learns_from_both_uses(make, rule, lookup, logits, x64):
    w, apply = make(named(rule), param_dtype=np.float64)

    def loss(read, attend, w):
        return jnp.sum(jnp.sin(attend(w, jnp.tanh(read(w)))))

    def ours(w, tokens):
        return loss(lambda w: apply(w, tokens, "__call__"), lambda w, h: apply(w, h, "attend"), w)

    def by_hand(w, tokens):
        return loss(lambda w: lookup * w[tokens], lambda w, h: h @ (logits * w).T, w)

    for tokens in (TOKENS, MANY_TOKENS):
        got, expected = (jax.value_and_grad(f)(w, tokens) for f in (ours, by_hand))
        require_close(got, expected, "layer", "float64")


@each_embed
def test_a_tied_embedding_refuses_a_rule_whose_eps_tells_its_uses_apart(make):
    # Of full alignment, steps want 1/r of the readout, gradients r^-1/2 of the embedding.
    w, apply = make(parametrization("standard", "adam", alignment="full"))
    apply(w, TOKENS, "__call__")
    with pytest.raises(ValueError, match=r"one eps .* exponents -0.5 and -1. Use"):
        apply(w, draw(2, 16), "attend")


def test_a_tied_readout_takes_the_gauge_of_its_embedding_in_every_gauge():
    spec = jaxmup.ParamSpec((jaxmup.Axis("input", 5), jaxmup.Axis("output", 16, base=4)))
    for name, ratio in (("mup", 0.25), ("mean_field", 0.25), ("standard", 1.0), ("ntk", 0.5)):
        for optimizer in ("sgd", "adam", "adafactor", "muon", "shampoo"):
            for gauge in _physics.GAUGES:
                rule = parametrization(name, optimizer, gauge=gauge)
                assert tied_readout_ratio(spec, rule) == pytest.approx(ratio, rel=1e-12), rule


def test_a_tied_readout_at_base_width_is_flax():
    query = draw(2, 4)
    for make, flax in ((embed_nnx, nnx), (embed_linen, nn)):
        w, apply = make(parametrization("mup"), 4)
        if flax is nnx:
            expected = nnx.Embed(5, 4, rngs=nnx.Rngs(0)).attend(query)
        else:
            expected = nn.Embed(5, 4).apply({"params": {"embedding": w}}, query, method="attend")
        assert bits(apply(w, query, "attend")) == bits(expected)


@each_embed
def test_the_std_of_an_embedding_is_that_of_the_base_model(make):
    w, _ = make(parametrization("mup"), 4096)
    assert abs(np.std(w) / 0.5 - 1) < 5 / np.sqrt(2 * w.size)  # 4^-1/2


# ---- state of a batch norm


def test_running_statistics_move_as_those_of_flax():
    x = draw(6, 8)
    ours, flax = (
        module.BatchNorm(8, **bases, rngs=nnx.Rngs(0))
        for module, bases in ((jaxmup.nnx, {"base_num_features": 8}), (nnx, {}))
    )
    ours(x), flax(x)
    assert bits((ours.mean[...], ours.var[...])) == bits((flax.mean[...], flax.var[...]))
    by_linen = []
    for layer in (jaxmup.linen.BatchNorm(False, base_features=8), nn.BatchNorm(False)):
        variables = layer.init(jax.random.key(0), x)
        by_linen.append(bits((variables, layer.apply(variables, x, mutable=["batch_stats"]))))
    assert by_linen[0] == by_linen[1]


# ---- every layer: transformations, gauges, low precision

ROWS_OF = {
    api: [pytest.param(row, id=name) for name, row in ROWS.items() if getattr(row, api) is not None]
    for api in ("nnx", "linen")
}


def stacked(specs: dict[str, Any]) -> dict[str, Any]:
    return {name: spec.with_batch_axis(0, 3) for name, spec in specs.items()}


@pytest.mark.parametrize("row", ROWS_OF["nnx"])
def test_nnx_specs_of_stacked_abstract_layers(row):
    name, sizes, bases = row.nnx
    args, kwargs = sizes(4)

    def make(rngs):
        return getattr(jaxmup.nnx, name)(*args, **kwargs, **bases, rngs=rngs)

    one, many = (
        flat(nnx.to_pure_dict(jaxmup.nnx.specs(nnx.eval_shape(made))))
        for made in (
            lambda: make(nnx.Rngs(0)),
            lambda: nnx.split_rngs(splits=3)(nnx.vmap(make))(nnx.Rngs(0)),
        )
    )
    assert many == stacked(one)


@pytest.mark.parametrize("row", ROWS_OF["linen"])
def test_linen_specs_and_multipliers_of_stacked_layers(row):
    name, sizes, bases = row.linen
    args, kwargs = sizes(4)
    layer = getattr(jaxmup.linen, name)
    lifted = {"params": 0, "multipliers": 0, "batch_stats": 0}
    many = nn.vmap(
        layer, variable_axes=lifted, split_rngs={"params": True}, in_axes=None, axis_size=3
    )(*args, **kwargs, **bases)
    one, inputs = layer(*args, **kwargs, **bases), row.inputs(4)
    specs = flat(jaxmup.linen.specs(one, *inputs))
    assert flat(jaxmup.linen.specs(many, *inputs)) == stacked(specs)
    factors = flat(jaxmup.linen.multipliers(many, *inputs))
    assert {name: (m.shape, float(m[0])) for name, m in factors.items()} == {
        name: ((3,), spec.applied.multiplier) for name, spec in specs.items()
    }


GAUGES = ("convolution", "embedding", "layer norm", "LoRA", "attention, larger heads, QK norm")


@pytest.mark.parametrize("name", GAUGES)
def test_regauged_layers_compute_the_same_bits_in_one_program(name):
    row = ROWS[name]
    kind, sizes, bases = row.nnx
    args, kwargs = sizes(4)
    layer = getattr(jaxmup.nnx, kind)(*args, **kwargs, **bases, rngs=nnx.Rngs(0))
    model = jaxmup.nnx.trace_multipliers(layer)
    graph, _ = nnx.split(model)

    @jax.jit
    def run(state, *inputs):
        return nnx.merge(graph, state)(*inputs)

    def state_of(model):
        return nnx.to_pure_dict(nnx.state(model))

    expected = bits(run(state_of(model), *row.inputs(4)))
    moved = jaxmup.nnx.regauged(model, parametrization("mup", gauge="table9"))
    assert bits(state_of(moved)) != bits(state_of(model))
    assert bits(run(state_of(moved), *row.inputs(4))) == expected
    jaxmup.resolve(jaxmup.nnx.specs(moved), parametrization("mup", gauge="table9"))
    assert run._cache_size() == 1


LOW = [param for param in LAYERS if param.id.startswith(("einsum", "emb", "layer", "LSTM"))]


@pytest.mark.parametrize(("make", "row"), LOW)
def test_multipliers_act_alike_in_bfloat16(make, row):
    ours = make(row, 4, True, parametrization=APART, dtype=jnp.bfloat16)
    flax = make(row, 4, False, dtype=jnp.bfloat16)
    weights = {  # powers of two, so exact
        name: w * ours.specs[name].applied.multiplier for name, w in ours.params.items()
    }
    y, expected = (
        jax.jit(layer.apply)(params, *row.inputs(4))
        for layer, params in ((ours, ours.params), (flax, weights))
    )
    assert bits(y) == bits(expected)


# ---- blocks

MLP = {"base_in_features": 4, "base_hidden_features": 8}


def block_params(block: Any, inputs: np.ndarray) -> tuple[Any, Any, Any]:
    """Parameters, output and specs of a block of either API."""
    if isinstance(block, nnx.Module):
        params = nnx.to_pure_dict(nnx.state(block, nnx.Param))
        return flat(params), block(inputs), flat(nnx.to_pure_dict(jaxmup.nnx.specs(block)))
    y, variables = block.init_with_output(jax.random.key(0), inputs)
    return flat(variables["params"]), y, flat(jaxmup.linen.specs(block, inputs))


SETTINGS = {"parametrization": "ntk", "param_dtype": np.float64}  # a multiplier on every kernel
each_api = pytest.mark.parametrize("api", ["nnx", "linen"])


@each_api
def test_gated_mlp(api, x64):
    x = draw(3, 16, dtype=np.float64)
    if api == "nnx":
        block = jaxmup.nnx.GatedMLP(16, 32, **MLP, **SETTINGS, rngs=nnx.Rngs(0))
    else:
        block = jaxmup.linen.GatedMLP(32, **MLP, **SETTINGS)
    params, y, specs = block_params(block, x)
    gate, up, down = (params[f"{name}/kernel"] / 2 for name in ("gate", "up", "down"))
    require_close(y, (jax.nn.silu(x @ gate) * (x @ up)) @ down, "layer", "float64")
    inner = (Axis("input", 16, 4), Axis("output", 32, 8))
    assert specs["gate/kernel"].axes == specs["up/kernel"].axes == inner
    assert specs["down/kernel"].axes == (Axis("input", 32, 8), Axis("output", 16, 4))


@each_api
def test_mixture_of_experts(api, x64):
    x = draw(2, 3, 16, dtype=np.float64)
    if api == "nnx":
        block = jaxmup.nnx.MixtureOfExperts(16, 32, 3, 2, **MLP, **SETTINGS, rngs=nnx.Rngs(0))
    else:
        block = jaxmup.linen.MixtureOfExperts(32, 3, 2, **MLP, **SETTINGS)
    params, y, specs = block_params(block, x)
    router, up, down = (np.asarray(params[f"{n}/kernel"]) / 2 for n in ("router", "up", "down"))
    expected = np.zeros_like(x)
    for i in np.ndindex(2, 3):
        logits = x[i] @ router
        chosen = np.argsort(logits)[-2:]
        gates = np.exp(logits[chosen]) / np.sum(np.exp(logits[chosen]))
        for gate, e in zip(gates, chosen, strict=True):
            expected[i] += gate * np.asarray(jax.nn.silu(x[i] @ up[e])) @ down[e]
    require_close(y, expected, "layer", "float64")
    assert specs["router/kernel"].axes == (Axis("input", 16, 4), Axis("output", 3))
    experts = (Axis("batch", 3), Axis("input", 16, 4), Axis("output", 32, 8))
    assert specs["up/kernel"].axes == experts
    assert abs(np.std(up) / 0.25 - 1) < z_bound(up.size)  # 4^-1/2 of the stored kernel, times 1/2


@each_api
def test_experts_of_variance_one(api):
    arguments = MLP | {"parametrization": parametrization("mup", gauge="unit")}
    if api == "nnx":
        block = jaxmup.nnx.MixtureOfExperts(16, 32, 3, 2, **arguments, rngs=nnx.Rngs(0))
    else:
        block = jaxmup.linen.MixtureOfExperts(32, 3, 2, **arguments)
    params, _, specs = block_params(block, draw(2, 3, 16))
    for w in params.values():
        assert abs(np.std(w) - 1) < z_bound(w.size)
    assert specs["up/kernel"].init_std == 0.5  # base width 4, whatever the number of experts


DEEP = parametrization("mup", depth_alpha=1.0)
DEPTH = {"parametrization": DEEP, "depth_ratio": 4.0}


def dense_nnx(rngs: nnx.Rngs) -> nnx.Module:
    linear = jaxmup.nnx.Linear(
        6, 6, use_bias=False, base_in_features=3, base_out_features=3, **DEPTH, rngs=rngs
    )
    return jaxmup.nnx.Residual(linear, **DEPTH)


class DenseLinen(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        sizes = {"base_in_features": 3, "base_features": 3}
        dense = jaxmup.linen.Dense(6, use_bias=False, **sizes, **DEPTH)
        return jaxmup.linen.Residual(dense, **DEPTH)(x), None


@pytest.mark.parametrize("zero_query", [False, True])
@pytest.mark.parametrize("linen", [False, True])
def test_attention_with_a_standard_deviation(linen, zero_query):
    """Stored with variance 1 at four times the base width: the multiplier is 0.02 / √4."""
    common = {
        "parametrization": jaxmup.parametrization("mup", gauge="unit"),
        "base_num_heads": 2,
        "base_in_features": 16,
        "init_std": 0.02,
        "zero_query": zero_query,
    }
    if linen:
        layer = jaxmup.linen.MultiHeadDotProductAttention(8, **common)
        params = layer.init(jax.random.key(0), jnp.ones((1, 2, 64)))["params"]
        specs = jaxmup.linen.specs(layer, jnp.ones((1, 2, 64)))
    else:
        layer = jaxmup.nnx.MultiHeadAttention(8, 64, decode=False, rngs=nnx.Rngs(0), **common)
        params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
        specs = jaxmup.nnx.specs(layer)
    for name in ("query", "key", "value", "out"):
        kernel = params[name]["kernel"]
        if zero_query and name == "query":
            assert not np.any(kernel)
            continue
        assert specs[name]["kernel"].applied.multiplier == pytest.approx(0.01)
        assert abs(np.std(kernel) - 1) < z_bound(kernel.size)


def by_hand(x: Any, kernels: Any) -> np.ndarray:
    for kernel in np.asarray(kernels):
        x = x + x @ kernel / 4  # depth_ratio^-1
    return x


def test_nnx_stacks_compute_the_same_scanned_and_unrolled():
    x = draw(2, 6)
    scanned, unrolled = (
        jaxmup.nnx.Stack(dense_nnx, 8, unroll=unroll, rngs=nnx.Rngs(0)) for unroll in (False, True)
    )
    (kernels,) = jax.tree.leaves(nnx.state(scanned, nnx.Param))
    assert bits(kernels) == bits(*jax.tree.leaves(nnx.state(unrolled, nnx.Param)))
    assert np.unique(kernels).size == kernels.size
    for stack in (scanned, unrolled, jaxmup.nnx.trace_multipliers(scanned)):
        require_close(stack(x), by_hand(x, kernels), "layer", "float32")
        assert jaxmup.nnx.specs(stack) == jaxmup.nnx.specs(scanned)
    spec = jaxmup.nnx.specs(scanned)["blocks"]["block"]["kernel"]
    assert (spec.shape, spec.depth_ratio, spec.r_in) == ((8, 6, 6), 4.0, 2.0)


def test_a_stack_is_a_sequence_of_its_blocks():
    x, stack = draw(2, 6), jaxmup.nnx.Stack(dense_nnx, 3, rngs=nnx.Rngs(0))
    (kernels,) = jax.tree.leaves(nnx.state(stack, nnx.Param))
    assert len(stack) == 3
    for i, block in enumerate(stack):
        assert isinstance(block, jaxmup.nnx.Residual)
        for same in (block, stack[i], stack[i - 3], stack[np.int64(i)]):
            assert bits(same.block.kernel[...]) == bits(kernels[i])
        require_close(block(x), by_hand(x, kernels[i : i + 1]), "layer", "float32")
        spec = jaxmup.nnx.specs(block)["block"]["kernel"]
        assert (spec.shape, spec.depth_ratio, spec.r_in) == ((6, 6), 4.0, 2.0)
    assert i == 2
    stack[1].block.kernel[...] = jnp.zeros((6, 6))
    assert bits(*jax.tree.leaves(nnx.state(stack, nnx.Param))) == bits(kernels)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", [None, "pipe"])
def test_nnx_stacks_name_their_axis_in_sharding_metadata(unroll, name):
    """Without a name for the axis of blocks, blocks would be sharded over "data"."""

    def block(rngs: nnx.Rngs) -> nnx.Module:
        metadata = {"out_sharding": ("data", "model")}
        return jaxmup.nnx.Linear(6, 6, use_bias=False, rngs=rngs, kernel_metadata=metadata)

    def blocks(rngs: nnx.Rngs) -> nnx.Module:
        return jaxmup.nnx.Stack(block, 2, unroll=unroll, rngs=rngs)

    for make, inner in ((block, ()), (blocks, (None,))):
        with nnx.use_eager_sharding(False):  # there is no mesh
            stack = jaxmup.nnx.Stack(make, 3, unroll=unroll, axis_name=name, rngs=nnx.Rngs(0))
            assert stack(draw(2, 6)).shape == (2, 6)
        (spec,) = jax.tree.leaves(nnx.get_partition_spec(nnx.state(stack)))
        assert tuple(spec) == (name, *inner, "data", "model")
        with nnx.use_eager_sharding(False):
            (spec,) = jax.tree.leaves(nnx.get_partition_spec(nnx.state(stack[0])))
        assert tuple(spec) == (*inner, "data", "model")


def test_linen_stacks_compute_the_same_scanned_and_unrolled():
    x = draw(2, 6)
    lifted = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    scanned = nn.scan(DenseLinen, length=8, **lifted)()
    (y, _), variables = scanned.init_with_output(jax.random.key(0), x, None)
    (kernels,) = jax.tree.leaves(variables)
    require_close(y, by_hand(x, kernels), "layer", "float32")
    z = x
    for i in range(8):
        z, _ = DenseLinen().apply(jax.tree.map(lambda leaf, i=i: leaf[i], variables), z)
    require_close(z, y, "layer", "float32")
    (spec,) = jax.tree.leaves(jaxmup.linen.specs(scanned, x, None))
    assert (spec.shape, spec.depth_ratio, spec.r_in) == ((8, 6, 6), 4.0, 2.0)


# ---- bad input


def linear_general(**kwargs: Any) -> Any:
    return jaxmup.nnx.LinearGeneral(8, (2, 4), **kwargs, rngs=nnx.Rngs(0))


def convolution(**kwargs: Any) -> Any:
    return jaxmup.nnx.Conv(8, 8, (3,), **kwargs, rngs=nnx.Rngs(0))


def einsum(equation: str, **kwargs: Any) -> Any:
    return jaxmup.nnx.Einsum(equation, (8, 4), **kwargs, rngs=nnx.Rngs(0))


def embed(**kwargs: Any) -> Any:
    return jaxmup.nnx.Embed(5, 4, **kwargs, rngs=nnx.Rngs(0))


BAD = {
    "one base for two axes": (
        lambda: linear_general(base_out_features=4),
        r"`base_out_features` must have one size for each axis of \(2, 4\). Got \(4,\)",
    ),
    "groups that do not divide": (
        lambda: convolution(feature_group_count=8, base_in_features=4),
        "4 channels in 8 groups. Give `base_feature_group_count`",
    ),
    "an equation without ->": (lambda: einsum("td,df"), "explicit .* Got 'td,df'"),
    "an equation of other axes": (lambda: einsum("td,edf->etf"), r"kernel's shape \(8, 4\)"),
    "a bias of other axes": (
        lambda: einsum("td,df->tf", bias_shape=(8,)),
        r"output's order: \(4,\). Got \(8,\)",
    ),
    "σ twice": (
        lambda: embed(init_std=0.1, embedding_init=initializers.ones),
        "`init_std` and `embedding_init` both",
    ),
    "σ NaN": (lambda: embed(init_std=np.nan), "`init_std` .* above 0. Got nan"),
    "dtype": (lambda: embed(param_dtype=int), "`param_dtype` .* floating-point"),
    "no expert": (
        lambda: jaxmup.nnx.MixtureOfExperts(4, 8, 2, 3, rngs=nnx.Rngs(0)),
        "between 1 and `num_experts`. Got top_k=3 of 2",
    ),
    "no block": (
        lambda: jaxmup.nnx.Stack(dense_nnx, 0, rngs=nnx.Rngs(0)),
        "`num_blocks` .* at least 1. Got 0",
    ),
    "no features": (
        lambda: jaxmup.linen.GatedMLP(4, 0).init(jax.random.key(0), jnp.ones((1, 4))),
        "at least 1. Got 0",
    ),
    "no keys in the base model": (
        lambda: jaxmup.linen.MultiHeadDotProductAttention(2, base_in_kv_features=0).init(
            jax.random.key(0), jnp.ones((1, 4))
        ),
        "at least 1. Got 0",
    ),
    "no expert of Linen": (
        lambda: jaxmup.linen.MixtureOfExperts(8, 2, 0).init(jax.random.key(0), jnp.ones((1, 4))),
        "`top_k` .* at least 1. Got 0",
    ),
    "depth without a rule": (
        lambda: jaxmup.nnx.Residual(jnp.tanh, depth_ratio=2.0),
        "depth",
    ),
    "a layer's depth without a rule": (lambda: embed(depth_ratio=2.0), "depth"),
    "depth 0": (
        lambda: jaxmup.nnx.Residual(jnp.tanh, depth_ratio=0.0),
        "`depth_ratio` .* above 0. Got 0.0",
    ),
}


@pytest.mark.parametrize(("make", "message"), cases(BAD))
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
