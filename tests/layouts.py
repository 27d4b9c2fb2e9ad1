"""Trains models under every layout over eight devices, and prints what it found as JSON.

`test_layouts.py` runs it in a process of its own, which has the devices, and judges what it prints.
"""

import collections
import json
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmup

jax.config.update("jax_enable_x64", True)
VOCABULARY, WIDTH, BASE, HEADS, STEPS = 64, 32, 16, 8, 10
MUP = jaxmup.parametrization("mup", "adam", gauge="table3")
TABLE8 = jaxmup.parametrization("mup", "adam")
FSDP = {"batch": "data", "embed": "data"}
TENSOR = {"heads": "model", "mlp": "model", "vocab": "model"}
LAYOUTS = {
    "data": ((8, 1), {"batch": "data"}),
    "fsdp": ((8, 1), FSDP),
    "tensor": ((1, 8), TENSOR),
    "fsdp x tensor": ((2, 4), FSDP | TENSOR),
}
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 8, 9))


def mesh_of(shape):
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("data", "model"), (AxisType.Auto,) * 2, devices=devices)


def ours(specs, rule=MUP):
    scalings = jaxmup.resolve(specs, rule)
    clip = jaxmup.optim.clip_by_global_norm(0.1, scalings)
    return optax.chain(clip, jaxmup.optim.adamw(2**-5, scalings, weight_decay=0.1))


# --- Models: each by the axes of the mesh for the names of its own axes


class Plain(nnx.Module):
    """Flax's layers, which know nothing of muP."""

    def __init__(self, width, rngs, rules=None):
        def over(*names):
            axes = tuple((rules or {}).get(name) for name in names)
            init = nnx.initializers.lecun_normal()
            return nnx.with_partitioning(init, axes) if rules is not None else init

        layer = {"use_bias": False, "param_dtype": jnp.float64, "rngs": rngs}
        embed = {"embedding_init": over("vocab", "embed")}
        self.embed = nnx.Embed(VOCABULARY, width, param_dtype=jnp.float64, rngs=rngs, **embed)
        self.norm = nnx.RMSNorm(width, param_dtype=jnp.float64, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, kernel_init=over("embed", "mlp"), **layer)
        self.down = nnx.Linear(4 * width, width, kernel_init=over("mlp", "embed"), **layer)
        self.readout = nnx.Linear(width, VOCABULARY, kernel_init=over("embed", "vocab"), **layer)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.down(nnx.gelu(self.up(self.norm(x))))
        return self.readout(x)


def gpt(rules, rule=TABLE8):
    def make():
        sizes = {"width": WIDTH, "base_width": BASE, "num_layers": 2, "num_heads": HEADS}
        options = {"stacked": True, "param_dtype": jnp.float64, "parametrization": rule}
        options["sharding_rules"] = tuple(rules.items())
        return jaxmup.models.GPT(VOCABULARY, **sizes, **options, rngs=nnx.Rngs(0))

    return make, jaxmup.nnx.specs(nnx.eval_shape(make)), rule


def plain(rules):
    tokens = jax.ShapeDtypeStruct((1, 4), int)

    def laid_out(width, rngs):
        return Plain(width, rngs, rules)

    def unlaid(width, rngs):
        return Plain(width, rngs)

    specs = jaxmup.infer(unlaid, base=BASE, delta=24, target=WIDTH, inputs=tokens)
    sizes = {"base": BASE, "target": WIDTH, "key": jax.random.key(0)}
    return lambda: jaxmup.rescale(laid_out, specs, MUP, **sizes), specs, MUP


class Twin(nn.Module):
    """`Plain` of jaxmup's layers for Linen."""

    rules: dict

    @nn.compact
    def __call__(self, tokens):
        def over(*names):
            axes = tuple(self.rules.get(name) for name in names)
            return nn.with_partitioning(nn.initializers.lecun_normal(), axes)

        layers = jaxmup.linen
        layer = {"use_bias": False, "param_dtype": jnp.float64}
        wide = {"base_features": BASE, "param_dtype": jnp.float64}
        x = layers.Embed(VOCABULARY, WIDTH, embedding_init=over("vocab", "embed"), **wide)(tokens)
        y = layers.RMSNorm(base_features=BASE, param_dtype=jnp.float64)(x)
        up = {"base_in_features": BASE, "base_features": 4 * BASE}
        y = layers.Dense(4 * WIDTH, kernel_init=over("embed", "mlp"), **up, **layer)(y)
        down = {"base_in_features": 4 * BASE, "base_features": BASE}
        y = layers.Dense(WIDTH, kernel_init=over("mlp", "embed"), **down, **layer)(nn.gelu(y))
        out = {"base_in_features": BASE, "kernel_init": over("embed", "vocab")}
        return layers.Dense(VOCABULARY, **out, **layer)(x + y)


# --- One step, the state laid out as its metadata say


def nnx_program(make, tx, mesh):
    def create():
        model = make()
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    graph, shapes = nnx.split(nnx.eval_shape(create))
    shardings = nnx.get_named_sharding(shapes, mesh)

    def step(state, tokens):
        model, optimizer = nnx.merge(graph, state)

        def loss_fn(model):
            return loss_of(model(tokens[:, :-1]), tokens)

        loss, gradients = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), loss

    init = jax.jit(lambda: nnx.state(create()), out_shardings=shardings)
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    return init, step, laid(shapes, shardings), graph


def linen_program(rules, mesh):
    model, example = Twin(rules), jnp.zeros((1, 4), int)
    tx = ours(jaxmup.linen.specs(model, example), TABLE8)

    def create():
        params = model.init(jax.random.key(0), example)["params"]
        return params, tx.init(params)

    specs = nn.get_partition_spec(jax.eval_shape(create))
    shardings = jax.tree.map(
        lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda x: isinstance(x, P)
    )

    def step(state, tokens):
        params, opt_state = state

        def loss_fn(params):
            return loss_of(model.apply({"params": params}, tokens[:, :-1]), tokens)

        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    init = jax.jit(create, out_shardings=shardings)
    return init, jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def laid(shapes, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def loss_of(logits, tokens):
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def trained(step, state, mesh, rules, steps=range(STEPS)):
    losses = []
    for i in steps:
        tokens = jax.device_put(TOKENS[i % 2], NamedSharding(mesh, P(rules.get("batch"))))
        state, loss = step(state, tokens)
        losses.append(float(loss))
    return state, losses


# --- Every model under every layout


def run(api, mesh, rules):
    """Values and losses of ten steps, the number of arrays that are sharded and of programs."""
    with jax.set_mesh(mesh):
        if api == "linen":
            init, step = linen_program(rules, mesh)
        else:
            make, specs, rule = {"gpt": gpt, "plain": plain}[api](rules)
            init, step, *_ = nnx_program(make, ours(specs, rule), mesh)
        state, losses = trained(step, init(), mesh, rules)
    leaves = jax.tree.leaves(state)
    sharded = sum(not x.sharding.is_fully_replicated for x in leaves)
    return [np.asarray(x) for x in leaves], losses, sharded, step._cache_size()


def largest(a, b):
    """The largest difference, over the largest entry of the second."""
    return float(np.max(np.abs(np.subtract(a, b))) / max(np.max(np.abs(b)), 1e-30))


def layouts(api):
    values, losses, *_ = run(api, mesh_of((1, 1)), {})
    for name, (shape, rules) in LAYOUTS.items():
        theirs, others, sharded, programs = run(api, mesh_of(shape), rules)
        apart = [largest(a, b) for a, b in zip(theirs, values, strict=True)]
        found = {"apart": max([*apart, largest(others, losses)]), "moved": losses[0] - losses[-2]}
        yield f"{api}, {name}", found | {"sharded": sharded, "programs": programs}


# --- From eight devices to four, to one, and there in another gauge


def moved_on():
    """The largest difference of a loss from those of one device."""
    *_, losses = run("gpt", mesh_of((1, 1)), {})[:2]
    rules, found, folder = FSDP | TENSOR, [], tempfile.mkdtemp()
    for shape, steps in (((2, 4), range(4)), ((2, 2), range(4, 7)), ((1, 1), range(7, STEPS))):
        mesh = mesh_of(shape)
        with jax.set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
            make, specs, _ = gpt(rules)
            init, step, like, graph = nnx_program(make, ours(specs, TABLE8), mesh)
            state = checkpointer.restore(f"{folder}/{steps.start}", like) if found else init()
            if shape == (1, 1):
                step, state = in_table3(graph, state, mesh, rules)
            state, more = trained(step, state, mesh, rules, steps)
            found += more
            checkpointer.save(f"{folder}/{steps.stop}", state)
    return largest(found, losses)


def in_table3(graph, state, mesh, rules):
    model, optimizer = nnx.merge(graph, state)
    moved = jaxmup.gauge.regauge_run(model, optimizer.opt_state, TABLE8, MUP)
    optimizer.opt_state = moved.opt_state
    make, specs, _ = gpt(rules, MUP)
    _, step, like, _ = nnx_program(make, ours(specs, MUP), mesh)
    leaves = jax.tree.leaves(nnx.state((moved.params, optimizer)))
    return step, jax.tree.unflatten(jax.tree.structure(like), leaves)


# --- Collectives, by kind, beside those of flax + optax

_KIND = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def collectives(make, tx, mesh, rules):
    graph, params = nnx.split(nnx.eval_shape(make), nnx.Param)
    shardings = nnx.get_named_sharding(params, mesh)
    params = laid(params, shardings)
    of_state = jaxmup.optim.state_shardings(tx, params)
    state = laid(jax.eval_shape(tx.init, params), of_state)
    tokens = jax.ShapeDtypeStruct(TOKENS[0].shape, int)
    tokens = laid(tokens, NamedSharding(mesh, P(rules.get("batch"))))

    def step(params, state, tokens):
        def loss_fn(params):
            return loss_of(nnx.merge(graph, params)(tokens[:, :-1]), tokens)

        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, out_shardings=(shardings, of_state)).lower(params, state, tokens)
    return collections.Counter(_KIND.findall(lowered.compile().as_text()))


def optimizers(specs):
    """Optax's and jaxmup's, by name."""
    scalings = jaxmup.resolve(specs, MUP)
    for_muon = jaxmup.resolve(specs, jaxmup.parametrization("mup", "muon", gauge="table3"))
    theirs, own = optax.adamw(2**-6), jaxmup.optim.adamw(2**-6, scalings)
    clip = jaxmup.optim.clip_by_global_norm(0.1, scalings)
    muon = optax.contrib.muon(2**-6, muon_weight_dimension_numbers=matrices(specs))
    return {
        "adamw": (theirs, own),
        "clip": (optax.chain(optax.clip_by_global_norm(0.1), theirs), optax.chain(clip, own)),
        "muon": (muon, jaxmup.optim.muon(2**-6, for_muon, specs)),
    }


def matrices(specs):
    """The hidden matrices for optax, which asks with trees of which it has taken leaves away."""

    def name_of(path):
        return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")

    def of(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: known[name_of(path)], params)

    numbers = jaxmup.optim.muon_dimension_numbers(specs)
    leaves = jax.tree_util.tree_leaves_with_path(numbers, is_leaf=lambda x: x is None or is_one(x))
    known = {name_of(path): one for path, one in leaves}
    return of


def is_one(x):
    return isinstance(x, optax.contrib.MuonDimensionNumbers)


def communication(layout):
    shape, rules = LAYOUTS[layout]
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        make, specs, _ = plain(rules)
        for name, (theirs, own) in optimizers(specs).items():
            by_optax = collectives(lambda: Plain(WIDTH, nnx.Rngs(0), rules), theirs, mesh, rules)
            yield f"{name}, {layout}", [by_optax, collectives(make, own, mesh, rules)]


if __name__ == "__main__":
    report = {
        "layouts": dict(pair for api in ("gpt", "plain", "linen") for pair in layouts(api)),
        "moved on": moved_on(),
        "collectives": dict(
            pair for name in ("fsdp", "fsdp x tensor") for pair in communication(name)
        ),
    }
    print(json.dumps(report))
