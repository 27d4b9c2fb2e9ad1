"""Models over a mesh of devices: what their kernels and activations, states and memory do."""

import ast
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core.spmd import logical_axis_rules
from jax.sharding import PartitionSpec as P

import jaxmup

RULES = (
    ("batch", "data"),
    ("embed", "data"),
    ("heads", "model"),
    ("mlp", "model"),
    ("vocab", "model"),
)
SIZES = {"width": 16, "num_layers": 2, "num_heads": 4, "base_width": 8}


def shardings(module):
    """The mesh axes of each parameter that names some."""
    with nnx.use_eager_sharding(False):
        state = nnx.to_flat_state(nnx.state(nnx.eval_shape(module), nnx.Param))
        return {
            "/".join(map(str, path)): nnx.get_partition_spec(param).get_value()
            for path, param in state
            if param.get_metadata().get("out_sharding")
        }


def gpt(rngs=None, **settings):
    rngs = nnx.Rngs(0) if rngs is None else rngs
    return jaxmup.models.GPT(16, **SIZES, rngs=rngs, **settings)


# FSDP over "data" and tensor-parallel over "model", as Flax's guide to sharding lays a transformer
# out: the kernels into heads and hidden layers by columns, those out of them by rows.
BLOCK = {
    "attention/key/kernel": P("data", "model", None),
    "attention/out/kernel": P("model", None, "data"),
    "attention/query/kernel": P("data", "model", None),
    "attention/value/kernel": P("data", "model", None),
    "feed_forward/down/kernel": P("model", "data"),
    "feed_forward/gate/kernel": P("data", "model"),
    "feed_forward/up/kernel": P("data", "model"),
}
ENDS = {"embed/embedding": P("model", "data"), "readout/kernel": P("data", "model")}


def test_each_kernel_of_a_gpt_has_its_layout():
    in_list = {f"blocks/{i}/{name}": spec for i in range(2) for name, spec in BLOCK.items()}
    assert shardings(lambda: gpt(sharding_rules=RULES)) == ENDS | in_list
    stacked = {f"blocks/blocks/{name}": P(None, *spec) for name, spec in BLOCK.items()}
    assert shardings(lambda: gpt(sharding_rules=RULES, stacked=True)) == ENDS | stacked
    in_pipeline = (*RULES, ("layers", "stage"))
    staged = {name: P("stage", *spec[1:]) for name, spec in stacked.items()}
    assert shardings(lambda: gpt(sharding_rules=in_pipeline, stacked=True)) == ENDS | staged
    assert shardings(gpt) == {}


def test_the_rules_of_flax_are_those_of_a_gpt():
    with logical_axis_rules(RULES):
        in_context = shardings(gpt)
        assert in_context == shardings(lambda: gpt(sharding_rules=RULES[:2]))
        with pytest.raises(ValueError, match="Inconsistent logical axis annotations for mlp"):
            gpt(sharding_rules=[("mlp", "data")])
    assert in_context == shardings(lambda: gpt(sharding_rules=dict(RULES)))


def test_biases_and_positions_have_theirs():
    settings = {"positions": "learned", "context": 8, "feed_forward": "plain", "use_bias": True}
    found = shardings(lambda: gpt(sharding_rules=RULES, **settings))
    names = {
        "positions/embedding": P(None, "data"),
        "blocks/0/attention/query/bias": P("model", None),
        "blocks/0/attention/out/bias": P(None),
        "blocks/0/feed_forward/up/bias": P("model"),
        "blocks/0/feed_forward/down/bias": P(None),
        "blocks/0/feed_forward/down/kernel": P("model", "data"),
    }
    assert {name: found[name] for name in names} == names


@pytest.mark.parametrize(
    ("rules", "error", "text"),
    [
        (
            (("width", "model"),),
            ValueError,
            "`sharding_rules` must be one of .*embed.* Got 'width'",
        ),
        ("batch", TypeError, r"`sharding_rules` must be pairs .* Got 'batch'"),
        (3, TypeError, r"`sharding_rules` must be pairs .* Got 3"),
    ],
)
def test_rules_that_are_none_are_refused(rules, error, text):
    with pytest.raises(error, match=text):
        gpt(sharding_rules=rules)


def test_a_mesh_that_does_not_divide_the_model_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 3), ("data", "model"))
    rules = {"embed": "data", "heads": "model", "mlp": ("data", "model"), "vocab": "tensor"}
    refused = pytest.raises(ValueError, match="must fit the model and the mesh")
    rngs = nnx.Rngs(0)  # nothing can be computed on a mesh without devices
    with jax.sharding.use_abstract_mesh(mesh), refused as error:
        gpt(sharding_rules=rules, rngs=rngs)
    text = str(error.value)
    assert "heads of 4 over 'model' of 3 devices" in text
    assert "mlp of 64 over 'data' and 'model' of 6 devices" in text
    assert "vocab over 'tensor', which the mesh lacks" in text
    assert "embed" not in text


def test_down_lies_the_other_way_round():
    def gated(**settings):
        return lambda: jaxmup.nnx.GatedMLP(8, 16, use_bias=True, rngs=nnx.Rngs(0), **settings)

    into, onto = P("embed", "mlp"), P("mlp", "embed")
    kernels = {"kernel_metadata": {"out_sharding": ("embed", "mlp")}}
    expected = {"down/kernel": onto, "gate/kernel": into, "up/kernel": into}
    assert shardings(gated(**kernels)) == expected
    biases = {"bias_metadata": {"out_sharding": ("mlp",)}}
    of_bias = {"gate/bias": P("mlp"), "up/bias": P("mlp")}
    assert shardings(gated(**kernels, **biases)) == expected | of_bias
    own = gated(**kernels, down_kernel_metadata={"out_sharding": (None, "embed")})
    assert shardings(own) == expected | {"down/kernel": P(None, "embed")}


def test_kernels_of_a_mixture_lie_by_experts():
    def mixture(**settings):
        return lambda: jaxmup.nnx.MixtureOfExperts(8, 16, 4, 2, rngs=nnx.Rngs(0), **settings)

    experts = {"kernel_metadata": {"out_sharding": ("expert", "embed", "mlp")}}
    expected = {
        "up/kernel": P("expert", "embed", "mlp"),
        "down/kernel": P("expert", "mlp", "embed"),
    }
    assert shardings(mixture(**experts)) == expected
    router = {"router_kernel_metadata": {"out_sharding": ("embed", None)}}
    assert shardings(mixture(**experts, **router)) == expected | {"router/kernel": P("embed", None)}


def test_blocks_of_linen_have_an_initializer_for_each_kernel():
    init = nn.initializers.lecun_normal()

    def over(*names):
        return nn.with_partitioning(init, names)

    gated = jaxmup.linen.GatedMLP(
        16, kernel_init=over("embed", "mlp"), down_kernel_init=over("mlp", "embed")
    )
    mixture = jaxmup.linen.MixtureOfExperts(
        *(16, 4, 2),
        kernel_init=over("expert", "embed", "mlp"),
        down_kernel_init=over("expert", "mlp", "embed"),
        router_kernel_init=over("embed", None),
    )
    specs = [
        nn.get_partition_spec(jax.eval_shape(block.init, jax.random.key(0), jnp.ones((1, 8))))
        for block in (gated, mixture)
    ]
    assert {name: x["kernel"] for name, x in specs[0]["params"].items()} == {
        "gate": P("embed", "mlp"),
        "up": P("embed", "mlp"),
        "down": P("mlp", "embed"),
    }
    assert {name: x["kernel"] for name, x in specs[1]["params"].items()} == {
        "router": P("embed", None),
        "up": P("expert", "embed", "mlp"),
        "down": P("expert", "mlp", "embed"),
    }


@pytest.mark.parametrize("stacked", [False, True])
def test_blocks_are_computed_again_by_the_policy(stacked):
    tokens = jnp.zeros((1, 4), jnp.int32)

    def kept(remat):
        graph, params = nnx.split(gpt(stacked=stacked, remat=remat), nnx.Param)

        def loss(params):
            return nnx.merge(graph, params)(tokens).sum()

        _, backward = jax.eval_shape(lambda params: jax.vjp(loss, params), params)
        return sum(x.size for x in jax.tree.leaves(backward))

    policies = jax.checkpoint_policies
    everything, nothing = kept(None), kept(policies.nothing_saveable)
    assert nothing < kept(policies.dots_saveable) < everything
    with pytest.raises(TypeError, match="`remat` must be"):
        gpt(stacked=stacked, remat=True)(tokens)


# ---- on eight devices

HEAD = """
import sys
sys.path[:0] = {path}
import jax, jax.numpy as jnp, optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxmup
from jaxmup import fused, optim
def mesh_of(kind):
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType[kind],) * 2)
def far(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(jax.device_get(x) - jax.device_get(y)).max()) for x, y in pairs)
"""


def on_eight_devices(code):
    """What a program prints, a literal of Python, where JAX sees eight devices of the host."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", HEAD.format(path=[p for p in sys.path if p]) + code],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


EXPLICIT = """
jax.config.update("jax_enable_x64", True)
SIZES = dict(width=16, num_layers=1, num_heads=4, base_width=8, stacked=True,
             param_dtype=jnp.float64)
TENSORS = dict(mlp="model", heads="model", vocab="model")
LAYOUTS = dict(
    none=None,
    sequence=dict(batch="data", embed="data", length="model", **TENSORS))
tokens = jax.random.randint(jax.random.key(1), (8, 8), 0, 16)
def gradients(tokens, rules):
    model = jaxmup.models.GPT(16, **SIZES, sharding_rules=rules, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    def loss(params, tokens):
        logits = nnx.merge(graph, params)(tokens)
        return optax.softmax_cross_entropy(logits, jax.nn.one_hot(tokens, 16)).mean()
    return nnx.as_pure(jax.jit(jax.value_and_grad(loss))(params, tokens))
x = jax.random.normal(jax.random.key(0), (8, 4, 16))
alone, found = gradients(tokens, None), {}
with jax.set_mesh(mesh_of("Explicit")):
    for name, rules in LAYOUTS.items():
        there = gradients(jax.device_put(tokens, P("data")), rules)
        found[name] = far(there, alone)
    down = there[1]["blocks"]["blocks"]["feed_forward"]["down"]["kernel"]
    found["spec"] = tuple(down.sharding.spec)
    layer = lambda: jaxmup.nnx.MixtureOfExperts(
        16, 32, 4, 2, base_in_features=8, param_dtype=jnp.float64, rngs=nnx.Rngs(0),
        kernel_metadata={"out_sharding": ("model", "data", None)})
    graph, params = nnx.split(layer())
    def mix(params, x):
        y = nnx.merge(graph, params)(x, P("data"), P("model", "data", None))
        return (y**2).mean()
    there = jax.jit(jax.value_and_grad(mix))(params, jax.device_put(x, P("data")))
with nnx.use_eager_sharding(False):
    graph, params = nnx.split(layer())
alone = jax.jit(jax.value_and_grad(lambda p, x: (nnx.merge(graph, p)(x)**2).mean()))(params, x)
found["experts"] = far(there, alone)
print(found)
"""


def test_a_gpt_in_a_mesh_of_explicit_axes():
    """Loss and gradients are those of one device, whatever the layout."""
    found = on_eight_devices(EXPLICIT)
    assert found.pop("spec") == (None, "model", "data")
    assert set(found) == {"none", "sequence", "experts"}
    assert max(found.values()) < 1e-13


STATES = """
model = lambda: jaxmup.models.GPT(
    16, width=16, num_layers=2, num_heads=4, base_width=8, stacked=True, rngs=nnx.Rngs(0),
    sharding_rules=dict(embed="data", mlp="model", heads="model", vocab="model"))
named = lambda family: jaxmup.parametrization("mup", family)
found, mesh = {}, mesh_of("Auto")
with jax.set_mesh(mesh):
    made = model()
params, specs = nnx.state(made, nnx.Param), jaxmup.nnx.specs(made)
adam, of_muon = (jaxmup.resolve(specs, named(x)) for x in ("adam", "muon"))
rate = optax.warmup_cosine_decay_schedule(0, 1e-2, 2, 10)
txs = {
    "adamw": optim.adamw(1e-2, adam),
    "clip": optax.chain(optim.clip_by_global_norm(1.0, adam), optim.adamw(rate, adam)),
    "muon": optim.muon(rate, of_muon, specs),
    "lamb": optim.in_reference_gauge(optax.lamb(1e-2), adam),
    "masked": optax.masked(optax.adam(1e-2), lambda p: jax.tree.map(lambda x: x.ndim > 2, p)),
}
of_params = {
    jaxmup._tree.path_name(path): tuple(x.sharding.spec)
    for path, x in jax.tree_util.tree_leaves_with_path(params)}
for name, tx in txs.items():
    types = jax.tree_util.tree_leaves_with_path(jax.eval_shape(tx.init, params))
    shardings = jax.tree.leaves(optim.state_shardings(tx, params))
    moments, wrong = 0, []
    for (path, x), sharding in zip(types, shardings, strict=True):
        path = jaxmup._tree.path_name(path)
        owner = next((n for n in of_params if path.endswith("/" + n)), None)
        spec = of_params.get(owner, ())
        padded = [tuple(s) + (None,) * (x.ndim - len(s)) for s in (sharding.spec, spec)]
        moments += owner is not None
        if padded[0] != padded[1] or sharding.mesh != mesh:
            wrong.append((path, sharding.spec, spec))
    found[name] = moments, wrong
print(found)
"""


def test_the_state_of_an_optimizer_lies_as_its_parameters_do():
    """Twelve parameters: Adam has two moments of each, Muon one of seven and two of five.

    The mask leaves the seven kernels of the stack to Adam.
    """
    found = on_eight_devices(STATES)
    expected = {"adamw": 24, "clip": 24, "lamb": 24, "muon": 17, "masked": 14}
    assert found == {name: (moments, []) for name, moments in expected.items()}


@pytest.mark.parametrize(
    "shardings",
    [[None, None], ["data", "other"]],
    ids=["no mesh", "two meshes"],
)
def test_a_state_needs_one_mesh(shardings):
    def leaf(name):
        if name is None:
            return jax.ShapeDtypeStruct((4,), jnp.float32)
        mesh = jax.make_mesh((1,), (name,), axis_types=(jax.sharding.AxisType.Auto,))
        return jax.ShapeDtypeStruct(
            (4,), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P(name))
        )

    params = dict(zip("ab", map(leaf, shardings), strict=True))
    with pytest.raises(ValueError, match="`params` must be laid out over"):
        jaxmup.optim.state_shardings(optax.adam(0.1), params)


MEMORY = """
L, d, f, B = 8, 16, 64, 128
types = {"up": (L, d, f), "down": (L, f, d)}
def loss(params, x):
    block = lambda x, w: (x + jnp.tanh(x @ w["up"]) @ w["down"], None)
    return jnp.mean(jax.lax.scan(block, x, params)[0] ** 2)
tx = optax.adam(1e-3)
step = fused.value_and_update(loss, tx)
found = {}
def report(name, mesh, up, down, batch):
    of = lambda shape, spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=None if mesh is None else NamedSharding(mesh, spec))
    params = {"up": of(types["up"], up), "down": of(types["down"], down)}
    forms = fused.memory_report(
        step, params, jax.eval_shape(tx.init, params), of((B, d), batch), forms=("plain",)).forms
    found[name] = forms["plain"]._asdict()
report("one", None, None, None, None)
eight = jax.make_mesh((8,), "data", axis_types=(AxisType.Auto,))
report("data", eight, P(None, "data"), P(None, None, "data"), P("data"))
both = mesh_of("Auto")
report("2 x 4", both, P(None, "data", "model"), P(None, "model", "data"), P("data"))
print(found)
"""


def test_a_report_of_memory_counts_one_device():
    """Parameters, moments and activations by hand: 8 layers of 2 x 16 x 64 numbers, 128 tokens."""
    found = on_eight_devices(MEMORY)
    whole = 4 * 8 * 2 * 16 * 64
    for name in ("data", "2 x 4"):
        report, alone = found[name], found["one"]
        assert report["parameters"] == whole // 8
        assert report["state"] == 2 * whole // 8 + 4
        assert whole // 8 <= report["gradients"] < alone["gradients"] // 2
        assert report["peak"] < alone["peak"] / 2
    # each layer keeps at least the tokens, over "data", and tanh, over both axes
    assert found["data"]["activations"] * 8 == found["one"]["activations"]
    least = 4 * 8 * 128 * (16 // 2 + 64 // 8)
    assert least <= found["2 x 4"]["activations"] < found["one"]["activations"] // 2
