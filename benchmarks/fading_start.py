"""The slope of logits after a few steps, and what of it is the random start of the readout.

    python benchmarks/fading_start.py [--out results/fading_start.json]

The model is that of the zoo whose embedding is multiplied by √n and carries the inverse: its
logits are of order 0. Random ones start as `width^-1/2`.
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
from _record import RESULTS, write_record
from test_zoo import ZOO
from zoo import training

import jaxmup
from jaxmup import Model
from jaxmup.coord_check import line_check

CASE, SEEDS = "ties, √n on an embedding, sinusoids beside it", 8
RUNS = [  # readout, base-2 logarithm of the rate, steps, factors of the base sizes
    ("random", -6, 1, (1, 4)),
    ("random", -6, 4, (1, 4)),
    ("random", -6, 16, (1, 4)),
    ("random", -6, 32, (1, 4)),
    ("random", -4, 4, (1, 4)),
    ("random", -10, 4, (1, 4)),
    ("zero", -6, 4, (1, 4)),
    ("zero", -10, 4, (1, 4)),
    ("random", -6, 4, (4, 16)),
    ("random", -6, 4, (16, 64)),
]


def model(readout: str) -> Model:
    """The model with a readout that starts at random, or at zero."""
    zero = training.model_of(ZOO[CASE])

    def make_model(key: jax.Array, **sizes: int) -> Any:
        params = zero.make(sizes, key)
        head = params["head"]
        drawn = jax.random.normal(jax.random.fold_in(key, 1), head.shape) / math.sqrt(len(head))
        return {**params, "head": drawn if readout == "random" else head}

    return dataclasses.replace(zero, make_model=make_model)


def main() -> None:
    """Runs every line of the table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "fading_start.json")
    args = parser.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "allow")
    done = []
    for readout, rate, steps, factors in RUNS:
        check = line_check(
            model(readout),
            training.sizes_of(ZOO[CASE], factors),
            training.batch_of(ZOO[CASE]),
            lambda scalings, rate=rate: jaxmup.optim.adam(2.0**rate, scalings),
            loss_fn=training.loss_fn,
            steps=steps,
            seeds=SEEDS,
        )
        logits = [one for one in check.values if one.op == "dot_general"][-1]
        widths = [size["n"] for size in check.sizes]
        facts = {"readout": readout, "log2 rate": rate, "steps": steps, "widths": widths}
        done.append({**facts, "start": logits.start, "end": logits.end})
        print(done[-1], flush=True)
        write_record(args.out, {"case": CASE, "seeds": SEEDS, "runs": done}, "jax", "jaxmup")


if __name__ == "__main__":
    main()
