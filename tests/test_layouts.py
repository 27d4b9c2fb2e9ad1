"""Layouts over eight devices: the numbers of one device, and the collectives of flax + optax.

One process of eight devices trains every model under every layout; the tests judge what it prints.
"""

import json
import os
import subprocess
import sys

import pytest

LAYOUTS = ("data", "fsdp", "tensor", "fsdp x tensor")
EXACT = 1e-11  # float64, of sums in other orders

RUNS = '''
import collections, json, re, sys, tempfile
import jax, jax.numpy as jnp, numpy as np, optax
import orbax.checkpoint as ocp
from flax import linen as nn, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxmup

jax.config.update("jax_enable_x64", True)
VOCABULARY, WIDTH, BASE, HEADS, STEPS = 64, 32, 16, 8, 10
MUP = jaxmup.parametrization("mup", "adam", gauge="table3")
TABLE8 = jaxmup.parametrization("mup", "adam")
FSDP = {"batch": "data", "embed": "data"}
TENSOR = {"heads": "model", "mlp": "model", "vocab": "model"}
LAYOUTS = {
    "one device": ((1, 1), {}),
    "data": ((8, 1), {"batch": "data"}),
    "fsdp": ((8, 1), FSDP),
    "tensor": ((1, 8), TENSOR),
    "fsdp x tensor": ((2, 4), FSDP | TENSOR),
}
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (STEPS, 8, 9))


def mesh_of(shape):
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("data", "model"), (AxisType.Auto,) * 2, devices=devices)


def chain(tx, clip):
    return optax.chain(clip, tx)


def ours(specs, rule=MUP):
    scalings = jaxmup.resolve(specs, rule)
    clip = jaxmup.optim.clip_by_global_norm(0.1, scalings)
    return optax.chain(clip, jaxmup.optim.adamw(2**-6, scalings, weight_decay=0.1))


# --- Models: a function that makes parameters and one that applies them, for a layout's rules


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
        laid = {"sharding_rules": tuple(rules.items())}
        return jaxmup.models.GPT(VOCABULARY, **sizes, **options, **laid, rngs=nnx.Rngs(0))

    return make, jaxmup.nnx.specs(nnx.eval_shape(make)), rule


def plain(rules):
    tokens = jax.ShapeDtypeStruct((1, 4), int)
    specs = jaxmup.infer(lambda width, rngs: Plain(width, rngs), base=BASE, delta=24, target=WIDTH, inputs=tokens)
    factory = lambda width, rngs: Plain(width, rngs, rules)
    sizes = {"base": BASE, "target": WIDTH, "key": jax.random.key(0)}
    return lambda: jaxmup.rescale(factory, specs, MUP, **sizes), specs, MUP


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
        y = layers.RMSNorm(param_dtype=jnp.float64, base_num_features=BASE)(x)
        up = {"base_in_features": BASE, "base_features": 4 * BASE}
        y = layers.Dense(4 * WIDTH, kernel_init=over("embed", "mlp"), **up, **layer)(y)
        down = {"base_in_features": 4 * BASE, "base_features": BASE}
        y = layers.Dense(WIDTH, kernel_init=over("mlp", "embed"), **down, **layer)(nn.gelu(y))
        out = {"base_in_features": BASE, "kernel_init": over("embed", "vocab")}
        return layers.Dense(VOCABULARY, **out, **layer)(x + y)


# --- One step, the state laid out as its metadata say


def nnx_program(make, tx, mesh, rules):
    def create():
        model = make()
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    graph, shapes = nnx.split(nnx.eval_shape(create))
    shardings = nnx.get_named_sharding(shapes, mesh)

    def step(state, tokens):
        model, optimizer = nnx.merge(graph, state)
        loss, gradients = nnx.value_and_grad(lambda model: loss_of(model(tokens[:, :-1]), tokens))(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), loss

    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    init = jax.jit(lambda: nnx.state(create()), out_shardings=shardings)
    return init, jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)), like, graph


def linen_program(rules, mesh):
    model, example = Twin(rules), jnp.zeros((1, 4), int)
    tx = ours(jaxmup.linen.specs(model, example), TABLE8)

    def create():
        params = model.init(jax.random.key(0), example)["params"]
        return params, tx.init(params)

    specs = nn.get_partition_spec(jax.eval_shape(create))
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda x: isinstance(x, P))

    def step(state, tokens):
        params, opt_state = state
        loss_fn = lambda params: loss_of(model.apply({"params": params}, tokens[:, :-1]), tokens)
        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    init = jax.jit(create, out_shardings=shardings)
    return init, jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def loss_of(logits, tokens):
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def put(tokens, mesh, rules):
    return jax.device_put(tokens, NamedSharding(mesh, P(rules.get("batch"))))


def trained(init, step, mesh, rules, state=None, steps=range(STEPS)):
    state, losses = init() if state is None else state, []
    for i in steps:
        state, loss = step(state, put(TOKENS[i], mesh, rules))
        losses.append(float(loss))
    return state, losses


def values(state):
    return [np.asarray(x) for x in jax.tree.leaves(state)]


def apart(mine, theirs):
    """The largest difference of two runs, of losses and of every array over its largest entry."""
    (state, losses), (other, others) = mine, theirs
    relative = [np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30) for a, b in zip(state, other, strict=True)]
    return max(float(np.max(relative)), float(np.max(np.abs(np.subtract(losses, others)))))


def sharded(state):
    """The number of arrays of which a device holds a part."""
    return sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state))


report = {"layouts": {}, "collectives": {}}
for api in ("gpt", "plain", "linen"):
    for name, (shape, rules) in LAYOUTS.items():
        mesh = mesh_of(shape)
        with jax.set_mesh(mesh):
            if api == "linen":
                init, step = linen_program(rules, mesh)
            else:
                make, specs, rule = {"gpt": gpt, "plain": plain}[api](rules)
                init, step, *_ = nnx_program(make, ours(specs, rule), mesh, rules)
            state, losses = trained(init, step, mesh, rules)
        run = values(state), losses
        if name == "one device":
            alone = run
        else:
            report["layouts"][f"{api}, {name}"] = {
                "apart": apart(run, alone),
                "moved": losses[0] - losses[-1],
                "sharded": sharded(state),
                "programs": step._cache_size(),
            }
    if api == "gpt":
        gpt_alone = alone

# --- From eight devices to four, to one, the last part in another gauge

folder = tempfile.mkdtemp()
state, losses = None, []
parts = [((2, 4), TABLE8, range(4)), ((2, 2), TABLE8, range(4, 7)), ((1, 1), MUP, range(7, STEPS))]
for shape, rule, steps in parts:
    mesh, rules = mesh_of(shape), FSDP | TENSOR
    with jax.set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
        make, specs, _ = gpt(rules)
        init, step, like, graph = nnx_program(make, ours(specs, TABLE8), mesh, rules)
        if steps.start:
            state = checkpointer.restore(f"{folder}/{steps.start}", like)
        if rule is MUP:
            model, optimizer = nnx.merge(graph, state)
            run = jaxmup.gauge.regauge_run(model, optimizer.opt_state, TABLE8, MUP)
            optimizer.opt_state = run.opt_state
            values_of = jax.tree.leaves(nnx.state((run.params, optimizer)))
            make, specs, _ = gpt(rules, MUP)
            init, step, like, graph = nnx_program(make, ours(specs, MUP), mesh, rules)
            state = jax.tree.unflatten(jax.tree.structure(like), values_of)
        state, more = trained(init, step, mesh, rules, state, steps)
        losses += more
        checkpointer.save(f"{folder}/{steps.stop}", state)
report["moved on"] = float(np.max(np.abs(np.subtract(losses, gpt_alone[1]))))

# --- Collectives, by kind, beside those of optax

_KIND = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\\(")
DIMENSIONS = optax.contrib.MuonDimensionNumbers


def collectives(make, tx, mesh, rules):
    init, step, like, _ = nnx_program(make, tx, mesh, rules)
    tokens = jax.ShapeDtypeStruct(TOKENS[0].shape, int, sharding=NamedSharding(mesh, P(rules.get("batch"))))
    return collections.Counter(_KIND.findall(step.lower(like, tokens).compile().as_text()))


for name in ("fsdp", "fsdp x tensor"):
    shape, rules = LAYOUTS[name]
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        make, specs, _ = plain(rules)
        scalings = jaxmup.resolve(specs, MUP)
        for_muon = jaxmup.resolve(specs, jaxmup.parametrization("mup", "muon", gauge="table3"))
        dimensions = jax.tree.leaves(jaxmup.optim.muon_dimension_numbers(specs), is_leaf=lambda x: x is None or isinstance(x, DIMENSIONS))
        hidden = lambda params: jax.tree.unflatten(jax.tree.structure(params), dimensions)
        pairs = {
            "adamw": (optax.adamw(2**-6), jaxmup.optim.adamw(2**-6, scalings)),
            "clip": (
                optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(2**-6)),
                optax.chain(jaxmup.optim.clip_by_global_norm(0.1, scalings), jaxmup.optim.adamw(2**-6, scalings)),
            ),
            "muon": (
                optax.contrib.muon(2**-6, muon_weight_dimension_numbers=hidden),
                jaxmup.optim.muon(2**-6, for_muon, specs),
            ),
        }
        unscaled = lambda: Plain(WIDTH, nnx.Rngs(0), rules)
        for optimizer, (theirs, own) in pairs.items():
            report["collectives"][f"{optimizer}, {name}"] = [
                collectives(unscaled, theirs, mesh, rules),
                collectives(make, own, mesh, rules),
            ]
print(json.dumps(report))
'''
