"""Claim: jaxmup's Adam update takes at most 0.9 of optax's time.

The update alone: 8.5 million float32 parameters in 8 leaves, jitted with donation, with
`jaxmup.optim.adam` at 4 times the base width against `optax.adam`, and beside them torch's fused
Adam where torch is installed. The sides take turns in one process; a ratio is the median of the
ratios of neighbouring samples.
"""

import argparse
import importlib.util
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import RESULTS, take_turns, write_record

import jaxmup

CLAIM = 0.9
OUT = RESULTS / "adam_update.json"
SHAPE, LEAVES = (1250, 850), 8
OURS, STOCK, TORCH = "jaxmup.optim.adam", "optax.adam", "torch.optim.Adam(fused=True)"


def values(seed: int) -> dict[str, np.ndarray]:
    """A tree of 8.5 million numbers of the size of gradients."""
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.normal(size=SHAPE).astype(np.float32) for i in range(LEAVES)}


def jax_updates(tx: optax.GradientTransformation) -> Callable[[int], None]:
    """A function that updates the parameters a number of times."""
    params, gradients = (jax.tree.map(jnp.asarray, values(seed)) for seed in (0, 1))
    state = tx.init(params)

    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))

    def run(steps: int) -> None:
        nonlocal params, state
        for _ in range(steps):
            params, state = compiled(params, state, gradients)
        jax.block_until_ready(params)

    return run


def torch_updates() -> Callable[[int], None]:
    """The same with torch, on as many threads as there are cores."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    params = [torch.tensor(x, requires_grad=True) for x in values(0).values()]
    for param, gradient in zip(params, values(1).values(), strict=True):
        param.grad = torch.tensor(gradient)
    optimizer = torch.optim.Adam(params, lr=1e-3, fused=True)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.step()

    return run


def sides() -> dict[str, Callable[[int], None]]:
    """What is measured, by name."""
    axes = (jaxmup.Axis("input", 1250, base=625), jaxmup.Axis("output", 850, base=425))
    specs = dict.fromkeys(values(0), jaxmup.ParamSpec(axes))
    scalings = jaxmup.resolve(specs, jaxmup.parametrization("mup", "adam"))
    found = {
        OURS: jax_updates(jaxmup.optim.adam(1e-3, scalings)),
        STOCK: jax_updates(optax.adam(1e-3)),
    }
    return found | ({TORCH: torch_updates()} if importlib.util.find_spec("torch") else {})


def main() -> None:
    """Measures, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=80, help="samples of each side")
    parser.add_argument("--steps", type=int, default=5, help="updates a sample")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    samples = take_turns(sides(), args.pairs, args.steps)
    cases = {}
    print(f"{'':<30}{'ms':>8}{'of optax':>10}  claim: {OURS} at most {CLAIM}")
    for name, times in samples.items():
        ratios = [own / stock for own, stock in zip(times, samples[STOCK], strict=True)]
        cases[name] = {
            "milliseconds": statistics.median(times),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        }
        print(f"{name:<30}{cases[name]['milliseconds']:>8.2f}{cases[name]['ratio']:>10.3f}")
    print("holds" if cases[OURS]["ratio"] <= CLAIM else "FAILS")
    measured = {"pairs": args.pairs, "claim": CLAIM, "cases": cases}
    write_record(args.out, measured, "jax", "optax", "jaxmup", "torch")


if __name__ == "__main__":
    main()
