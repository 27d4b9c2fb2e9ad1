"""Claim: empirical initialization in one pass is 30 times as fast as by runs of the whole model.

`jaxmup.empirical.calibrate` against `torch_ref.tune`, side by side in one process and one thread
each, for MLPs of tanh layers of width 128 and 32 or 256 of them, weights redrawn. The reference is
our own form of the PyTorch package's algorithm, with its five runs a module and stage and twenty
joint runs, 10 L + 20 whole-model runs against the package's 10 L + 22. It draws no new weights in
each run, which spares it work.

Three times are taken of ours: `calibrate` with all of JAX's caches cleared; the same again; and the
pass alone, as one compiled program.
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
from jaxmup.empirical._record import free
from jaxmup.empirical._subject import called, make_subject
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


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def ours(depth: int, repeats: int) -> dict[str, Any]:
    """Times of `calibrate`, and of its pass alone."""
    model = MLP(depth)
    inputs = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))

    def loss(outputs: jax.Array) -> jax.Array:
        return jnp.square(outputs - 1).mean()

    def run() -> Any:
        found.append(calibrate(model, inputs, loss))
        return found[-1].scales

    found: list[Any] = []
    run()  # loads what is loaded once in a process
    cold = []
    for _ in range(repeats):
        jax.clear_caches()
        cold.append(seconds(run))
    warm = min(seconds(run) for _ in range(repeats))
    subject, _ = make_subject(model, None, None, inputs, None, loss)
    seen = called(subject)
    scales = {name: free(one) for name, one in seen.items()}
    settings = Settings(BATCH, True, plain)

    @jax.jit
    def one_pass(arrays: Any, scales: Any) -> Any:
        return subject.with_arrays(arrays).run(settings, seen, scales, {})[:2]

    one_pass(subject.arrays, scales)
    alone = min(seconds(lambda: one_pass(subject.arrays, scales)) for _ in range(repeats))
    passes = found[-1].passes
    return {"cold": min(cold), "warm": warm, "pass": alone, "passes": passes}


def theirs(depth: int) -> dict[str, Any]:
    """The time of the reference, and how often it ran the model."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch_ref.EmpiricalScale(torch.nn.Linear(WIDTH, WIDTH)) for _ in range(depth)]
    for layer in layers:  # small enough for its first runs to stay finite
        torch.nn.init.normal_(layer.module.weight, std=WIDTH**-0.5, generator=generator)
        torch.nn.init.zeros_(layer.module.bias)
    model = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.Tanh())))
    runs = 0

    def loss() -> torch.Tensor:
        nonlocal runs
        runs += 1
        inputs = torch.randn(BATCH, WIDTH, generator=generator, requires_grad=True)
        return (model(inputs) - 1).square().mean()

    time = seconds(lambda: torch_ref.tune(model, loss))
    return {"seconds": time, "runs": runs}


def main() -> None:
    """Measures, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=list(CLAIMS))
    parser.add_argument("--repeats", type=int, default=3, help="samples of ours")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cases = []
    print(f"{'layers':>6}{'torch s':>9}{'runs':>6}{'cold s':>8}{'warm s':>8}{'pass s':>8}  ratios")
    for depth in args.depths:
        us, reference = ours(depth, args.repeats), theirs(depth)
        ratios = {name: reference["seconds"] / us[name] for name in ("cold", "warm", "pass")}
        cases.append({"layers": depth, "ours": us, "reference": reference, "ratios": ratios})
        print(
            f"{depth:>6}{reference['seconds']:>9.2f}{reference['runs']:>6}{us['cold']:>8.2f}"
            f"{us['warm']:>8.3f}{us['pass']:>8.4f}  "
            + "  ".join(f"{name} {ratio:.0f}" for name, ratio in ratios.items()),
            flush=True,
        )
    holds = all(
        case["ratios"]["cold"] >= CLAIMS.get(case["layers"], 0)
        and (case["layers"] != 32 or case["ratios"]["pass"] >= CLAIM_COMPILED)
        for case in cases
    )
    print("holds" if holds else "FAILS")
    claims = {"cold": CLAIMS, "pass at 32 layers": CLAIM_COMPILED}
    measured = {"width": WIDTH, "batch": BATCH, "claims": claims, "cases": cases}
    write_record(args.out, measured, "jax", "flax", "jaxmup", "torch")


if __name__ == "__main__":
    main()
