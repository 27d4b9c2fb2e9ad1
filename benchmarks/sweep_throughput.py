"""Claim: a compiled learning-rate sweep is 3.5 to 20 times as fast as the eager PyTorch loop.

3.5 times at width 256, batch 128, and 20 times at width 32, batch 32, on two CPU cores.

16 learning rates x 200 Adam steps of an MLP with 3 hidden layers on the digits, the same batches
on both sides. Both do the whole sweep, compiled beforehand, in turn within one process; the ratio
is that of the medians. PyTorch has one thread or one per core, whichever is faster in a trial:
where the products are small, threads wait for each other. Needs torch.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from _record import RESULTS, write_record

from jaxmup import transfer
from jaxmup.data import batch_order, digits
from jaxmup.transfer import log2_grid
from jaxmup.transfer._network import network
from jaxmup.transfer._search import Cell
from jaxmup.transfer._sweep import group_of, keys_of, trainer

OUT = RESULTS / "sweep_throughput.json"
DEPTH, STEPS = 3, 200
RATES = log2_grid(-11, -3.5, 0.5)
# (width, batch size): how many times faster the sweep must be.
CLAIMS = {(32, 32): 20.0, (256, 128): 3.5}


def jax_sweep(width: int, batch_size: int) -> Callable[[], list[float | None]]:
    """The sweep through `jaxmup.transfer`'s engine, in groups; returns the final losses."""
    config = transfer.Config(
        widths=(width, 2 * width),
        base_width=width,
        learning_rates=RATES,
        seeds=(0,),
        depth=DEPTH,
        batch_size=batch_size,
        steps=STEPS,
    )
    task, cell = transfer.task_of(config), Cell("mup", width)
    keys = keys_of(config, [cell])
    size, train = trainer(task, config, cell, network(task, config, cell), len(keys))
    groups = [group_of(config, keys[i : i + size]) for i in range(0, len(keys), size)]
    return lambda: [trial.loss for group in groups for trial in train(group)]


def torch_sweep(width: int, batches: np.ndarray, threads: int) -> Callable[[], list[float]]:
    """The same sweep as everybody would write it in PyTorch; returns the final losses."""
    inputs = torch.from_numpy(digits().inputs.copy())
    labels = torch.from_numpy(digits().labels.astype(np.int64))
    indices = torch.from_numpy(batches.astype(np.int64))
    sizes = [64] + [width] * DEPTH

    def train(rate: float) -> float:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        hidden = [
            layer
            for i in range(DEPTH)
            for layer in (torch.nn.Linear(sizes[i], sizes[i + 1]), torch.nn.ReLU())
        ]
        model = torch.nn.Sequential(*hidden, torch.nn.Linear(width, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for step, batch in enumerate(indices):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / STEPS)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(model(inputs), labels).item()

    return lambda: [train(rate) for rate in RATES]


def faster_threads(width: int, batches: np.ndarray) -> int:
    """With how many threads PyTorch does a short sweep faster: one, or one per core."""
    trials = {n: torch_sweep(width, batches, n) for n in (1, os.cpu_count() or 1)}
    return min(trials, key=lambda n: seconds_of(trials[n]))


def seconds_of(sweep: Callable[[], object]) -> float:
    """How long a sweep takes."""
    start = time.perf_counter()
    sweep()
    return time.perf_counter() - start


def measure(width: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Times the sides in turn."""
    batches = batch_order(len(digits().labels), batch_size, STEPS, seed=0)
    threads = faster_threads(width, batches[:5])
    sides = {
        "jaxmup": jax_sweep(width, batch_size),
        "torch": torch_sweep(width, batches, threads),
    }
    best = {name: min(sweep()) for name, sweep in sides.items()}  # compiles and warms up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, sweep in sides.items():
            seconds[name].append(seconds_of(sweep))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "width": width,
        "batch_size": batch_size,
        "seconds": seconds,
        "median_seconds": medians,
        "torch_threads": threads,
        "ratio": medians["torch"] / medians["jaxmup"],
        "claim": CLAIMS[width, batch_size],
        "best_loss": best,
    }


def main() -> None:
    """Runs both cases and says whether the claims hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)

    cases = []
    for width, batch_size in CLAIMS:
        cases.append(case := measure(width, batch_size, args.repeats))
        times = ", ".join(f"{name} {t:.3f} s" for name, t in case["median_seconds"].items())
        outcome = f"ratio {case['ratio']:.1f} (claim: {case['claim']})"
        print(f"width {width}, batch {batch_size}: {times}, {outcome}", flush=True)
    measured = {"rates": len(RATES), "steps": STEPS, "cases": cases}
    write_record(args.out, measured, "jax", "jaxmup", "torch")


if __name__ == "__main__":
    main()
