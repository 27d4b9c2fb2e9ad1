"""Training steps of a small MLP, compared side by side."""

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import take_turns, write_record
from flax import nnx

INPUTS, CLASSES, DEPTH, BASE_WIDTH, BATCH = 64, 10, 3, 64, 128


class PlainMLP(nnx.Module):
    """`jaxmup.models.MLP` of plain Flax layers."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        sizes = [INPUTS] + [width] * DEPTH
        self.hidden = nnx.List(
            nnx.Linear(n_in, n_out, rngs=rngs) for n_in, n_out in itertools.pairwise(sizes)
        )
        self.readout = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        for layer in self.hidden:
            inputs = jax.nn.relu(layer(inputs))
        return self.readout(inputs)


Sides = Mapping[str, Callable[[int], None]]  # what trains for a number of steps, by name


def trainer(model: nnx.Module, tx: optax.GradientTransformation) -> Callable[[int], None]:
    """A function that trains `model` for a number of steps."""
    graph, params = nnx.split(model, nnx.Param)
    state = tx.init(params)
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(BATCH, INPUTS)), jnp.float32)
    labels = jnp.asarray(rng.integers(CLASSES, size=BATCH))

    def loss(params: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))

    def train(steps: int) -> None:
        nonlocal params, state
        for _ in range(steps):
            params, state = compiled(params, state)
        jax.block_until_ready(params)

    return train


def compare(sides: Sides, pairs: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step of two sides, and the ratio of the first to the second."""
    milliseconds = take_turns(sides, pairs, steps)
    ratios = [first / second for first, second in zip(*milliseconds.values(), strict=True)]
    return {
        "steps": steps,
        "milliseconds": {name: statistics.median(times) for name, times in milliseconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def report_widths(
    description: str, sides_at: Callable[[int], Sides], claim: float, out: Path
) -> None:
    """Measures the sides at every width, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--pairs", type=int, default=60, help="samples of each side")
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()

    print(f"{'width':>6}{'jaxmup ms':>12}{'plain ms':>12}{'ratio':>8}  claim: at most {claim}")
    cases = []
    for width in args.widths:
        case = compare(sides_at(width), args.pairs, steps=max(2, 10_000 // width))
        ours, plain = case["milliseconds"].values()
        holds = "holds" if case["ratio"] <= claim else "FAILS"
        print(f"{width:>6}{ours:>12.3f}{plain:>12.3f}{case['ratio']:>8.3f}  {holds}", flush=True)
        cases.append({"width": width, "claim": claim, **case})
    measured = {"pairs": args.pairs, "cases": cases}
    write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")
