"""Claim: the compiled counter-example takes 5,000 times as many steps a second as eager PyTorch.

`run` of `notebooks/counterexample.py` for its full 10,000,000 steps against
`torch_ref.counterexample.run`, which steps a `torch.optim.Optimizer` in a Python loop, on one core
each. The sides take turns in one process; a ratio is the median of the ratios of neighbouring
samples.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _record import RESULTS, write_record

sys.path.insert(0, str(Path(__file__).parent.parent))  # neither is in the wheel
import torch_ref
from notebooks import counterexample

CLAIM = 5_000
OUT = RESULTS / "counterexample_speed.json"
RECORDED = (1_000, 10_000, 50_000, 100_000, 200_000, 10_000_000)


def steps_per_second(run: Callable[..., object], optimizer: str, steps: int) -> float:
    """How many of its steps a side takes in a second."""
    start = time.perf_counter()
    run(optimizer, steps)
    return steps / (time.perf_counter() - start)


def measure(optimizer: str, pairs: int, eager_steps: int) -> dict[str, object]:
    """Speeds of both sides in turn, and where the compiled one ends."""
    trajectory = counterexample.run(optimizer)  # compiles
    steps_per_second(torch_ref.counterexample.run, optimizer, eager_steps)  # warms up
    compiled, eager = [], []
    for _ in range(pairs):
        compiled.append(steps_per_second(counterexample.run, optimizer, counterexample.STEPS))
        eager.append(steps_per_second(torch_ref.counterexample.run, optimizer, eager_steps))
    ratios = [ours / theirs for ours, theirs in zip(compiled, eager, strict=True)]
    rows = zip(*(column.tolist() for column in trajectory), strict=True)
    return {
        "seconds": counterexample.STEPS / statistics.median(compiled),
        "compiled_steps_per_second": statistics.median(compiled),
        "eager_steps_per_second": statistics.median(eager),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "trajectory": [
            {"step": step, "x": x, "average_regret": regret}
            for step, x, regret in rows
            if step in RECORDED
        ],
    }


def main() -> None:
    """Measures, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="samples of each side")
    parser.add_argument("--eager-steps", type=int, default=3_000, help="eager steps a sample")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cases = {name: measure(name, args.pairs, args.eager_steps) for name in ("adam", "amsgrad")}
    print(f"{'':<9}{'s / 10^7':>9}{'us a step':>11}{'eager us':>10}{'ratio':>8}  claim: {CLAIM}")
    for name, case in cases.items():
        compiled, eager = case["compiled_steps_per_second"], case["eager_steps_per_second"]
        print(
            f"{name:<9}{case['seconds']:>9.2f}{1e6 / compiled:>11.4f}{1e6 / eager:>10.0f}"
            f"{case['ratio']:>8.0f}"
        )
    print("holds" if min(case["ratio"] for case in cases.values()) >= CLAIM else "FAILS")
    measured = {"pairs": args.pairs, "claim": CLAIM, "cases": cases}
    write_record(args.out, measured, "jax", "jaxmup", "torch")


if __name__ == "__main__":
    main()
