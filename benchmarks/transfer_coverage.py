"""Claim: the 95 % intervals of a transfer analysis hold the truth at least 90 % of the time.

Made-up sweeps over four widths whose optimum moves by a known β: parabolas in log2 of the learning
rate, with a level of each seed, noise of each run, optima that differ by seed, and a wall where
training breaks down. Writes `transfer_coverage.json` to `benchmarks/results/`.
"""

import argparse
from pathlib import Path

import numpy as np
from _record import RESULTS, write_record

from jaxmup.transfer import Trial, analyze

BETA, FIRST = -0.3, -5.3
GRID = np.arange(-9, -1, 0.5)
# Noise of a run's loss, in nats; of a seed's optimum, in octaves; whether there is a wall.
WORLDS = {
    "little noise": (0.01, 0.0, False),
    "noise": (0.03, 0.0, False),
    "much noise": (0.1, 0.0, False),
    "optima differ by seed": (0.01, 0.3, False),
    "and a wall": (0.03, 0.2, True),
}


def sweep(rng: np.random.Generator, seeds: int, noise: float, shift: float, wall: bool) -> list:
    """The trials of one made-up sweep."""
    trials = []
    for doublings in range(4):
        for seed in range(seeds):
            x = GRID - (FIRST + BETA * doublings + shift * rng.standard_normal())
            losses = 1 + 0.06 * x**2 + 0.05 * rng.standard_normal()
            losses += noise * rng.standard_normal(len(x))
            losses = np.where(wall & (x > 1.7), losses + 2.3 + 2 * (x - 1.7), losses)
            trials += [
                Trial("made up", 64 * 2**doublings, 2.0**rate, seed, float(loss))
                for rate, loss in zip(GRID, losses, strict=True)
            ]
    return trials


def cover(world: tuple[float, float, bool], seeds: int, runs: int) -> dict[str, float]:
    """Shares of sweeps whose intervals hold the truth, and how wide that of β is."""
    rng = np.random.default_rng(seeds)
    found = [analyze(sweep(rng, seeds, *world)) for _ in range(runs)]
    optima = [(a.curves[0].interval, FIRST) for a in found]
    slopes = [(a.drift_per_doubling_interval, BETA) for a in found]
    return {
        "optimum": np.mean([i.low <= truth <= i.high for i, truth in optima if i]),
        "beta": np.mean([i.low <= truth <= i.high for i, truth in slopes if i]),
        "known": np.mean([i is not None for i, _ in slopes]),
        "median width for beta": float(np.median([i.high - i.low for i, _ in slopes if i])),
    }


def main() -> None:
    """Measures every world with 2 to 6 seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "transfer_coverage.json")
    args = parser.parse_args()
    rows = []
    for seeds in (2, 3, 4, 6):
        for name, world in WORLDS.items():
            numbers = {key: round(float(x), 3) for key, x in cover(world, seeds, args.runs).items()}
            rows.append({"seeds": seeds, "world": name, **numbers})
            print(rows[-1], flush=True)
    write_record(args.out, {"runs": args.runs, "rows": rows}, "jaxmup", "numpy", "scipy")


if __name__ == "__main__":
    main()
