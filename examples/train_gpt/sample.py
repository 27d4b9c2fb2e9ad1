"""Writes on from a text with what `train.py` trained: `python sample.py FOLDER TEXT`."""

import argparse
import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from program import AXES, Config, build, make_mesh
from train import checkpoints_of

import jaxmup


def load(folder: Path) -> tuple[Config, nnx.GraphDef, nnx.State]:
    """The last model of a run, on one device, as one that applies no multipliers."""
    kept = json.loads((folder / "config.json").read_text())
    entries = {field.name: kept[field.name] for field in dataclasses.fields(Config)}
    config = Config(**entries | {"mesh": dict.fromkeys(AXES, 1)})
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        trained = build(config, mesh)
        plain = build(dataclasses.replace(config, gauge="table3"), mesh)
    jaxmup.manifest.check(folder / "manifest.json", trained.specs, trained.parametrization)
    with checkpoints_of(folder) as checkpoints:
        only = ocp.args.Composite(model=ocp.args.StandardRestore(trained.like[0]))
        params = checkpoints.restore(checkpoints.latest_step(), args=only)["model"]
    scalings = jaxmup.resolve(trained.specs, trained.parametrization)
    model, _ = nnx.merge(plain.graph, plain.like)
    return config, nnx.graphdef(model), jaxmup.gauge.fold(params, scalings)


@functools.partial(jax.jit, static_argnames="graph")
def draw(
    graph: nnx.GraphDef, params: nnx.State, tokens: jax.Array, i: int, key: jax.Array
) -> jax.Array:
    """`tokens` with the one at place `i` drawn after those before it."""
    logits = nnx.merge(graph, params)(tokens[None])[0, i - 1]
    return tokens.at[i].set(jax.random.categorical(jax.random.fold_in(key, i), logits))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("text", help="what to go on from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config, graph, params = load(args.folder)
    start = np.frombuffer(args.text.encode(), np.uint8)[-config.context // 2 :]
    tokens = jnp.zeros(config.context, int).at[: len(start)].set(start)
    for i in range(len(start), config.context):
        tokens = draw(graph, params, tokens, i, jax.random.key(args.seed))
    print(bytes(tokens.astype(np.uint8)).decode(errors="replace"))


if __name__ == "__main__":
    main()
