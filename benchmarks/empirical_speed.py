"""Claim: empirical initialization in one pass is 30 times as fast as by runs of the whole model.

`jaxmup.empirical.calibrate` against `torch_ref.tune`, in turns in one process and one thread each,
for MLPs of tanh layers of width 128 and 32 or 256 of them, weights redrawn. The reference is our
own form of the PyTorch package's algorithm, with its five runs a module and stage and twenty joint
runs: 10 L + 20 whole-model runs, against the package's 10 L + 22. Like the package, it draws new
weights and inputs in each run; what it takes without the draws of weights is measured beside.

Two times are taken of ours: `calibrate` with all of JAX's caches cleared, so that everything is
traced and compiled; and its compiled program alone. Ratios are of seconds of CPU, which other work
on the machine disturbs less than wall time, recorded too.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from _record import RESULTS, write_record
from flax import nnx

from jaxmup.empirical import calibrate
from jaxmup.empirical._measurable import compiled
from jaxmup.empirical._models import called, held, measurable
from jaxmup.empirical._tally import free
from jaxmup.empirical._use import Settings, plain

sys.path.insert(0, str(Path(__file__).parent.parent))  # torch_ref is not in the wheel
import torch_ref

WIDTH, BATCH = 128, 64
CLAIMS = {32: 5.0, 256: 30.0}
CLAIM_COMPILED = 100.0  # at 32 layers
OUT = RESULTS / "empirical_speed.json"


class MLP(nnx.Module):
    """Square tanh layers."""

    def __init__(self, depth: int):
        self.layers = nnx.List(nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(i)) for i in range(depth))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def seconds(run: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def ours(depth: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What runs `calibrate` cold, and its compiled program alone."""
    model = MLP(depth)
    inputs = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))

    def loss(outputs: jax.Array) -> jax.Array:
        return jnp.square(outputs - 1).mean()

    def cold() -> Any:
        found = calibrate(model, inputs, loss)
        if found.passes != 1:
            raise AssertionError(f"one pass must do. It took {found.passes}.")
        return found.scales

    measured, _ = measurable(held(model, None, inputs, None), None, loss)
    seen = called(measured)
    scales = {name: free(one) for name, one in seen.items()}
    pass_ = compiled(measured, Settings(BATCH, True, plain), seen)
    return cold, lambda: pass_(measured.arrays, scales, {})


def theirs(depth: int, redraw: bool) -> tuple[Callable[[], Any], list[None]]:
    """What runs the reference, and a list that grows with every run of the model."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch_ref.EmpiricalScale(torch.nn.Linear(WIDTH, WIDTH)) for _ in range(depth)]
    model = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.Tanh())))
    runs: list[None] = []

    def draw() -> None:
        for layer in layers:  # small enough for the first runs to stay finite
            torch.nn.init.normal_(layer.module.weight, std=WIDTH**-0.5, generator=generator)
            torch.nn.init.zeros_(layer.module.bias)

    def loss() -> torch.Tensor:
        runs.append(None)
        if redraw:
            draw()
        inputs = torch.randn(BATCH, WIDTH, generator=generator, requires_grad=True)
        return (model(inputs) - 1).square().mean()

    def run() -> None:
        draw()
        for layer in layers:
            for scale in (layer.s_y, layer.s_gx, layer.s_gy):
                scale.fill_(1.0)
        runs.clear()
        torch_ref.tune(model, loss)

    return run, runs


def compare(depth: int, repeats: int) -> dict[str, Any]:
    """Both sides in turns; of each the sample that took least."""
    cold, program = ours(depth)
    reference, runs = theirs(depth, redraw=True)
    without_draws, _ = theirs(depth, redraw=False)
    sides = {"cold": cold, "reference": reference, "reference without draws": without_draws}
    cold()  # loads what is loaded once in a process
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            jax.clear_caches()
            samples[name].append(seconds(run))
    jax.block_until_ready(program())
    samples["program"] = [seconds(program) for _ in range(10)]
    least = {name: min(of, key=lambda one: one["cpu"]) for name, of in samples.items()}
    ratios = {
        f"{against} / {name}": least[against]["cpu"] / least[name]["cpu"]
        for name in ("cold", "program")
        for against in ("reference", "reference without draws")
    }
    return {"layers": depth, "runs": len(runs), "seconds": least, "ratios": ratios}


def main() -> None:
    """Measures, prints the cases and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=list(CLAIMS))
    parser.add_argument("--repeats", type=int, default=3, help="samples of each side at 32 layers")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cases = []
    for depth in args.depths:
        case = compare(depth, args.repeats if depth <= 32 else 1)
        cases.append(case)
        print(f"{depth} layers, {case['runs']} runs of the reference")
        for name, time_ in case["seconds"].items():
            print(f"  {name:<24}{time_['cpu']:>9.3f} s of CPU{time_['wall']:>9.3f} s")
        for name, ratio in case["ratios"].items():
            print(f"  {name:<36}{ratio:>7.1f}", flush=True)
    holds = all(
        case["ratios"]["reference / cold"] >= CLAIMS.get(case["layers"], 0)
        and (case["layers"] != 32 or case["ratios"]["reference / program"] >= CLAIM_COMPILED)
        for case in cases
    )
    print("holds" if holds else "FAILS")
    claims = {"cold": CLAIMS, "program at 32 layers": CLAIM_COMPILED}
    measured = {"width": WIDTH, "batch": BATCH, "claims": claims, "cases": cases}
    write_record(args.out, measured, "jax", "flax", "jaxmup", "torch")


if __name__ == "__main__":
    main()
