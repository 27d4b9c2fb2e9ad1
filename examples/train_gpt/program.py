"""What is trained and where: a config, and the compiled functions of its run on a mesh."""

import dataclasses
import math
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmup

AXES = ("data", "fsdp", "tensor")
# The axes of the mesh along which those of the model lie: FSDP, and Megatron's pairs of kernels.
SHARDING = (
    ("batch", ("data", "fsdp")),
    ("length", "tensor"),  # of the residual stream, between the layers
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
)
VOCABULARY = 256  # bytes


@dataclasses.dataclass(frozen=True)
class Config:
    """The entries of a TOML file, each of which must be there."""

    text: str  # a file; "" is Python's standard library
    context: int
    batch_size: int
    steps: int
    seed: int
    width: int
    base_width: int
    num_layers: int
    num_heads: int
    dtype: str  # of the computation; parameters and optimizer are float32
    remat: bool  # compute activations again in the backward pass
    gauge: str
    learning_rate: float
    warmup: int
    clip: float
    weight_decay: float
    save_every: int
    mesh: dict[str, int]  # devices along `data`, `fsdp` and `tensor`


def read_config(path: Path) -> Config:
    """The config of a TOML file; an error if an entry is missing, unknown or of another type."""
    entries = tomllib.loads(path.read_text())
    kinds = {field.name: field.type for field in dataclasses.fields(Config)} | {"mesh": dict}
    found = {name: type(value) for name, value in entries.items()}
    if found != kinds:
        wrong = {
            name: found.get(name) for name in kinds | found if kinds.get(name) != found.get(name)
        }
        raise ValueError(f"{path} must have the entries of `Config` and no others. Wrong: {wrong}.")
    if tuple(entries["mesh"]) != AXES:
        raise ValueError(f"{path}: `mesh` must have the axes {AXES}. Got {entries['mesh']}.")
    return Config(**entries)


def make_mesh(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config, of all devices of several processes, or of the first ones of one."""
    shape = tuple(config.mesh.values())
    count, devices = math.prod(shape), devices or jax.devices()
    if count > len(devices) or (count < len(devices) and jax.process_count() > 1):
        raise ValueError(f"There are {len(devices)} devices for the mesh {config.mesh} of {count}.")
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices[:count])


def make_model(config: Config, parametrization: jaxmup.Parametrization) -> jaxmup.models.GPT:
    """The model with its initial values."""
    return jaxmup.models.GPT(
        VOCABULARY,
        width=config.width,
        base_width=config.base_width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        parametrization=parametrization,
        stacked=True,
        sharding_rules=SHARDING,
        remat=jax.checkpoint_policies.nothing_saveable if config.remat else None,
        dtype=config.dtype,
        rngs=nnx.Rngs(config.seed),
    )


class Program(NamedTuple):
    """A run's functions, compiled when they are called first."""

    parametrization: jaxmup.Parametrization
    specs: Any  # `ParamSpec` of every parameter
    graph: nnx.GraphDef  # with a state: model and optimizer
    like: nnx.State  # shapes, dtypes and shardings of the state
    init: Callable[[], nnx.State]
    step: Callable[..., tuple[nnx.State, jax.Array]]  # of state, inputs and targets; also the loss
    batch: NamedSharding  # of inputs and targets


def build(config: Config, mesh: Mesh) -> Program:
    """The program of a config on a mesh, inside of which it is called.

    The mesh may be of devices that are not there, to compile for.
    """
    mup = jaxmup.parametrization("mup", "adamw", gauge=config.gauge)
    specs = jaxmup.nnx.specs(nnx.eval_shape(lambda: make_model(config, mup)))
    scalings = jaxmup.resolve(specs, mup)
    rate = optax.warmup_cosine_decay_schedule(0, config.learning_rate, config.warmup, config.steps)
    tx = optax.chain(
        jaxmup.optim.clip_by_global_norm(config.clip, scalings),
        jaxmup.optim.adamw(rate, scalings, weight_decay=config.weight_decay),
    )

    def create() -> tuple[nnx.Module, nnx.Optimizer]:
        model = make_model(config, mup)
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    graph, shapes = nnx.split(nnx.eval_shape(create))
    shardings = nnx.get_named_sharding(shapes, mesh)  # of the moments too, as of their parameters

    def step(
        state: nnx.State, inputs: jax.Array, targets: jax.Array
    ) -> tuple[nnx.State, jax.Array]:
        model, optimizer = nnx.merge(graph, state)

        def loss_fn(model: nnx.Module) -> jax.Array:
            logits = model(inputs).astype("float32")
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss, gradients = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), loss

    return Program(
        mup,
        specs,
        graph,
        jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        ),
        jax.jit(lambda: nnx.state(create()), out_shardings=shardings),
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, P()))),
        NamedSharding(mesh, P(("data", "fsdp"))),
    )


def put_batch(
    config: Config, text: np.ndarray, step: int, sharding: NamedSharding
) -> Sequence[jax.Array]:
    """Inputs and targets of a step: a function of config, text and step alone."""
    sizes = config.context, config.batch_size, config.seed, step
    pieces = jaxmup.data.sequences(text, *sizes)
    return [jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in pieces]
