"""Claim: a compiled learning-rate sweep is 3.5 to 20 times as fast as the eager PyTorch loop.

3.5 times at width 256, batch 128, and 20 times at width 32, batch 32, on two CPU cores.

16 learning rates x 200 Adam steps of an MLP with 3 hidden layers on the digits, the same batches
on both sides. Both sides do the whole sweep, compiled beforehand, in turn within one process
(PyTorch with one thread per core); the ratio is that of the medians. Needs torch. Writes
`sweep_throughput.json` to `benchmarks/results/`.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx

from jaxmup import parametrization
from jaxmup.data import batch_order, digits
from jaxmup.models import MLP
from jaxmup.transfer import log2_grid
from jaxmup.transfer._sweep import compiled, faster_together, initial_parameters, make_run

RESULTS = Path(__file__).parent / "results"
DEPTH, STEPS = 3, 200
RATES = log2_grid(-11, -3.5, 0.5)
# (width, batch size): how many times faster the sweep must be.
CLAIMS = {(32, 32): 20.0, (256, 128): 3.5}


def jax_sweep(width: int, batches: np.ndarray) -> Callable[[], list[float]]:
    """The sweep through `jaxmup.transfer`'s engine; returns the final losses."""
    rule = parametrization("mup", "adam")

    def make_model(rngs: nnx.Rngs) -> MLP:
        return MLP(
            64, 10, width=width, depth=DEPTH, base_width=width, parametrization=rule, rngs=rngs
        )

    program, _ = compiled(
        make_run(make_model, rule, "adam", STEPS), faster_together(batches.shape[1], width)
    )
    arguments = (
        np.array(RATES, np.float32),
        np.zeros(len(RATES), np.int32),
        initial_parameters(make_model, (0,)),
        batches[None],
        digits().inputs,
        digits().labels,
    )
    return lambda: np.asarray(program(*arguments)).tolist()


def torch_sweep(width: int, batches: np.ndarray) -> Callable[[], list[float]]:
    """The same sweep as everybody would write it in PyTorch; returns the final losses."""
    inputs = torch.from_numpy(digits().inputs.copy())
    labels = torch.from_numpy(digits().labels.astype(np.int64))
    indices = torch.from_numpy(batches.astype(np.int64))
    sizes = [64] + [width] * DEPTH

    def train(rate: float) -> float:
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


def measure(width: int, batch_size: int, repeats: int) -> dict[str, object]:
    """Times both sides in turn."""
    batches = batch_order(len(digits().labels), batch_size, STEPS, seed=0)
    sides = {"jaxmup": jax_sweep(width, batches), "torch": torch_sweep(width, batches)}
    best = {name: min(sweep()) for name, sweep in sides.items()}  # compiles and warms up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, sweep in sides.items():
            start = time.perf_counter()
            sweep()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "width": width,
        "batch_size": batch_size,
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": medians["torch"] / medians["jaxmup"],
        "claim": CLAIMS[width, batch_size],
        "best_loss": best,
    }


def main() -> None:
    """Runs both cases and says whether the claims hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    torch.set_num_threads(cores)

    cases = []
    for width, batch_size in CLAIMS:
        cases.append(case := measure(width, batch_size, args.repeats))
        medians = case["median_seconds"]
        print(
            f"width {case['width']}, batch {case['batch_size']}: jaxmup {medians['jaxmup']:.3f} s, "
            f"torch {medians['torch']:.3f} s, ratio {case['ratio']:.1f} (claim: {case['claim']})",
            flush=True,
        )
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    machine = {"cores": cores, "machine": platform.machine(), "load": os.getloadavg()[0]}
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"rates": len(RATES), "steps": STEPS, **versions, **machine, "cases": cases}
    (args.out / "sweep_throughput.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
