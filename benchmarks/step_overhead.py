"""Claim: a training step with jaxmup takes at most 1.02 times that of plain Flax and optax.

An MLP with 3 hidden layers and batches of 128, at widths 256 and 1024 over a base of 64, so that
multipliers and learning-rate factors are at work. Both sides are jitted with donation and take
turns in one process; the ratio is the median of the ratios of neighbouring samples.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optax
from _record import RESULTS, write_record
from _step import BASE_WIDTH, CLASSES, DEPTH, INPUTS, PlainMLP, compare, trainer
from flax import nnx

import jaxmup
from jaxmup.models import MLP

CLAIM = 1.02
OUT = RESULTS / "step_overhead.json"


def sides(width: int) -> dict[str, Callable[[int], None]]:
    """The two trainers by name."""
    sizes = {"width": width, "depth": DEPTH, "base_width": BASE_WIDTH}
    ours = MLP(INPUTS, CLASSES, **sizes, rngs=nnx.Rngs(0))
    rule = jaxmup.parametrization("mup", "adam")
    scalings = jaxmup.resolve(jaxmup.nnx.specs(ours), rule)
    return {
        "jaxmup": trainer(ours, jaxmup.optim.adam(1e-3, scalings)),
        "flax + optax": trainer(PlainMLP(width, nnx.Rngs(0)), optax.adam(1e-3)),
    }


def measure(width: int, pairs: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step of each side, and the ratio of the two."""
    return {"width": width, "claim": CLAIM, **compare(sides(width), pairs, steps)}


def main() -> None:
    """Measures every width, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--pairs", type=int, default=60, help="samples of each side")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    print(f"{'width':>6}{'jaxmup ms':>12}{'plain ms':>12}{'ratio':>8}  claim: at most {CLAIM}")
    cases = []
    for width in args.widths:
        case = measure(width, args.pairs, steps=max(2, 10_000 // width))
        ours, plain = case["milliseconds"].values()
        holds = "holds" if case["ratio"] <= CLAIM else "FAILS"
        print(f"{width:>6}{ours:>12.3f}{plain:>12.3f}{case['ratio']:>8.3f}  {holds}")
        cases.append(case)
    measured = {"pairs": args.pairs, "cases": cases}
    write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


if __name__ == "__main__":
    main()
