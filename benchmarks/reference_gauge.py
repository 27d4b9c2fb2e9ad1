"""Claim: `in_reference_gauge` makes a training step at width 1024 at most 1.02 times as long.

An MLP with 3 hidden layers and batches of 128, 16 times as wide as its base, in a gauge where no
multiplier is 1. One side trains with a chain of `jaxmup.optim` built for that gauge, the other with
the same chain in the reference gauge, on effective weights. Both are jitted with donation and take
turns in one process; the ratio is the median of the ratios of neighbouring samples.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _record import RESULTS, write_record
from _step import BASE_WIDTH, CLASSES, DEPTH, INPUTS, compare, trainer
from flax import nnx

import jaxmup
from jaxmup import gauge
from jaxmup.models import MLP

CLAIM = 1.02
OUT = RESULTS / "reference_gauge.json"


def sides(width: int) -> dict[str, Callable[[int], None]]:
    """The two trainers by name."""
    rule = jaxmup.parametrization("mup", "adam", gauge="table9")

    def train(make_tx: Callable[[Any], Any]) -> Callable[[int], None]:
        sizes = {"width": width, "depth": DEPTH, "base_width": BASE_WIDTH}
        model = MLP(INPUTS, CLASSES, **sizes, parametrization=rule, rngs=nnx.Rngs(0))
        return trainer(model, make_tx(jaxmup.resolve(jaxmup.nnx.specs(model), rule)))

    def in_reference(scalings: Any) -> Any:
        inner = jaxmup.optim.adamw(1e-3, gauge.reference_scalings(scalings))
        return gauge.in_reference_gauge(inner, scalings)

    return {
        "in the reference gauge": train(in_reference),
        "in its own gauge": train(lambda scalings: jaxmup.optim.adamw(1e-3, scalings)),
    }


def main() -> None:
    """Measures the ratio, prints it and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=60, help="samples of each side")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    case = compare(sides(args.width), args.pairs, steps=10)
    holds = "holds" if case["ratio"] <= CLAIM else "FAILS"
    for name, milliseconds in case["milliseconds"].items():
        print(f"{name:<24}{milliseconds:>9.3f} ms a step")
    print(f"ratio {case['ratio']:.3f}, claim: at most {CLAIM}: {holds}")
    measured = {"width": args.width, "pairs": args.pairs, "claim": CLAIM, **case}
    write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


if __name__ == "__main__":
    main()
