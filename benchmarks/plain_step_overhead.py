"""Claim: muP through `infer` takes at most 1.02 times the training step of the plain script.

The model of both sides is the same plain Flax MLP with 3 hidden layers, on batches of 128, at
widths 256 and 1024. One side starts from `rescale` over a base of 64 and trains with
`jaxmup.optim.adamw`, so that learning-rate factors are at work, the other with `optax.adamw`. Both
are jitted with donation and take turns in one process; the ratio is the median of the ratios of
neighbouring samples.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import optax
from _record import RESULTS, write_record
from _step import BASE_WIDTH, PlainMLP, compare, trainer
from flax import nnx

import jaxmup

CLAIM = 1.02
OUT = RESULTS / "plain_step_overhead.json"


def sides(width: int) -> dict[str, Callable[[int], None]]:
    """The two trainers by name."""
    rule = jaxmup.parametrization("mup", "adam", gauge="table3")
    sizes = {"base": BASE_WIDTH, "target": width}
    specs = jaxmup.infer(PlainMLP, delta=2 * BASE_WIDTH, **sizes)
    model = jaxmup.rescale(PlainMLP, specs, rule, key=jax.random.key(0), **sizes)
    tx = jaxmup.optim.adamw(1e-3, jaxmup.resolve(specs, rule))
    return {
        "jaxmup": trainer(model, tx),
        "flax + optax": trainer(PlainMLP(width, nnx.Rngs(0)), optax.adamw(1e-3)),
    }


def main() -> None:
    """Measures every width, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--pairs", type=int, default=60, help="samples of each side")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    print(f"{'width':>6}{'muP ms':>12}{'plain ms':>12}{'ratio':>8}  claim: at most {CLAIM}")
    cases = []
    for width in args.widths:
        case = compare(sides(width), args.pairs, steps=max(2, 10_000 // width))
        ours, plain = case["milliseconds"].values()
        holds = "holds" if case["ratio"] <= CLAIM else "FAILS"
        print(f"{width:>6}{ours:>12.3f}{plain:>12.3f}{case['ratio']:>8.3f}  {holds}", flush=True)
        cases.append({"width": width, "claim": CLAIM, **case})
    measured = {"pairs": args.pairs, "cases": cases}
    write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


if __name__ == "__main__":
    main()
