"""Writes on from a text with what `train.py` trained: `python sample.py FOLDER TEXT`."""

import argparse
import dataclasses
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


def load(folder: Path) -> tuple[Config, nnx.Module]:
    """The last model of a run, on one device, as one that applies no multipliers."""
    kept = json.loads((folder / "config.json").read_text())
    entries = {field.name: kept[field.name] for field in dataclasses.fields(Config)}
    config = Config(**entries | {"mesh": dict.fromkeys(AXES, 1)})
    trained, plain = (
        build(each, make_mesh(config))
        for each in (config, dataclasses.replace(config, gauge="table3"))
    )
    jaxmup.manifest.check(folder / "manifest.json", trained.specs, trained.parametrization)
    with checkpoints_of(folder) as checkpoints:
        only = ocp.args.Composite(model=ocp.args.StandardRestore(trained.like[0]))
        params = checkpoints.restore(checkpoints.latest_step(), args=only)["model"]
    scalings = jaxmup.resolve(trained.specs, trained.parametrization)
    model, _ = nnx.merge(plain.graph, plain.like)
    nnx.update(model, jaxmup.gauge.fold(params, scalings))
    return config, model


@nnx.jit
def write_on(model: nnx.Module, tokens: jax.Array, start: int, key: jax.Array) -> jax.Array:
    """`tokens`, of which those from `start` on are drawn."""

    def draw(i: int, tokens: jax.Array) -> jax.Array:
        token = jax.random.categorical(jax.random.fold_in(key, i), model(tokens[None])[0, i - 1])
        return tokens.at[i].set(token)

    return jax.lax.fori_loop(start, len(tokens), draw, tokens)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("text", help="what to go on from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config, model = load(args.folder)
    start = np.frombuffer(args.text.encode(), np.uint8)[-config.context // 2 :]
    tokens = jnp.zeros(config.context, int).at[: len(start)].set(start)
    written = write_on(model, tokens, len(start), jax.random.key(args.seed))
    print(bytes(written.astype(np.uint8)).decode(errors="replace"))


if __name__ == "__main__":
    main()
