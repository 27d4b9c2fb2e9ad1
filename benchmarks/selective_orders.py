"""Growth of every value of a selective state space with the width, and why it is not flat.

    python benchmarks/selective_orders.py [--out results/selective_orders.json]

Orders are predicted as 0, but after six steps of Adam the values behind the state grow as
`width^0.5` to `width^0.8` between small widths. Whatever starts as a sum over the width with random
signs starts as `width^-1/2` of what it learns to be: the logits, and the reads, writes and time
steps that are projected from it. The cases leave that out one by one:

- `readout`: random, or zero as muP recommends;
- `projections`: random, or zero beside a bias, so that reads, writes and steps start at order 0;
- `frozen`: parameters that do not train.

Slopes between neighbouring widths tell a wrong order from a finite width: the one stays.
"""

import argparse
import functools
import json
import math
import sys
import time
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import RESULTS, write_record
from test_zoo import ZOO
from zoo import training
from zoo.selective import by_scan
from zoo.small import rms

import jaxmup
from jaxmup.coord_check import LineCheck, line_check

WIDTH, INNER, STATE, RANK, VOCABULARY = 16, 24, 4, 2, 11
FACTORS, RATE, STEPS, SEEDS = (1, 4, 16, 64), 2**-6, 6, 4
TOKENS = jnp.asarray(np.random.default_rng(0).integers(4, size=(8, 6)))
PROJECTED = {"write": STATE, "read": STATE, "step": RANK}


def make_params(width, inner, key, readout, projections, convolution):
    def normal(name, *shape):
        return jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), shape)

    def kernel(name, *shape):
        return normal(name, *shape) / math.sqrt(shape[0])

    params = {
        "embed": normal("embed", VOCABULARY, width),
        "norm": 1 + normal("norm", width) / 10,
        "in": kernel("in", width, inner),
        "gate": kernel("gate", width, inner),
        "to_steps": kernel("to_steps", RANK, inner),
        "steps_bias": 1 + normal("steps_bias", inner) / 10,
        "A_log": normal("A_log", inner, STATE) / 10,
        "out": kernel("out", inner, width),
        "head": kernel("head", width, VOCABULARY),
    }
    for name, size in PROJECTED.items():
        params[name] = kernel(name, inner, size)
        params[f"{name}_bias"] = normal(f"{name}_bias", size)
        params[name if projections == "bias" else f"{name}_bias"] *= 0
    if readout == "zero":
        params["head"] *= 0
    return params | (beside(inner, normal) if convolution else {})


def apply(params, tokens):
    h = params["embed"][tokens]
    normed = rms(h, params["norm"])
    x = jax.nn.silu(convolved(params, normed @ params["in"]))  # x
    write = x @ params["write"] + params["write_bias"]  # write
    read = x @ params["read"] + params["read_bias"]  # read
    steps = x @ params["step"] + params["step_bias"]  # steps
    steps = jax.nn.softplus(steps @ params["to_steps"] + params["steps_bias"])
    decay = jnp.exp(-steps[..., None] * jnp.exp(params["A_log"]))  # decay
    states = by_scan(decay, (steps * x)[..., None] * write[:, :, None])  # states
    y = jnp.einsum("btdn,btn->btd", states, read)  # y
    h = h + (skipped(params, x, y) * jax.nn.silu(normed @ params["gate"])) @ params["out"]  # stream
    return h @ params["head"]  # logits


def beside(inner, normal):
    """Parameters of a convolution along time and of a skip past the state."""
    return {
        "conv": normal("conv", 3, inner) / math.sqrt(3),
        "conv_bias": 1 + normal("conv_bias", inner) / 10,
        "D": 1 + normal("D", inner) / 10,
    }


def convolved(params, x):
    if "conv" not in params:
        return x
    padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    taps = (padded[:, i : i + x.shape[1]] * params["conv"][i] for i in range(3))
    return sum(taps) + params["conv_bias"]


def skipped(params, x, y):
    if "D" not in params:
        return y
    return y + params["D"] * x  # y and skip


CASES: dict[str, dict[str, Any]] = {
    "as is": {},
    "zero readout": {"readout": "zero"},
    "projections start as biases": {"projections": "bias"},
    "zero readout, projections start as biases": {"readout": "zero", "projections": "bias"},
    "projections frozen": {"frozen": ("write", "read", "step")},
    "writes frozen": {"frozen": ("write",)},
    "reads frozen": {"frozen": ("read",)},
    "time steps frozen": {"frozen": ("step",)},
    "as is, rate / 8": {"rate": RATE / 8},
    "convolution and skip": {"convolution": True},
    "convolution and skip, zero readout": {"convolution": True, "readout": "zero"},
    "convolution and skip, projections start as biases": {
        "convolution": True,
        "projections": "bias",
    },
    "convolution and skip, zero readout, projections start as biases": {
        "convolution": True,
        "readout": "zero",
        "projections": "bias",
    },
    "convolution and skip, rate * 4": {"convolution": True, "rate": RATE * 4},
    "convolution and skip, rate * 4, zero readout, projections start as biases": {
        "convolution": True,
        "readout": "zero",
        "projections": "bias",
        "rate": RATE * 4,
    },
}
ZOO_CASES = ("selective, selective state space, scan", "mamba2")


def checked(
    readout: str = "random",
    projections: str = "random",
    frozen: Collection[str] = (),
    rate: float = RATE,
    convolution: bool = False,
) -> LineCheck:
    """The check of one case."""

    def make_tx(scalings):
        still = optax.masked(optax.set_to_zero(), {name: name in frozen for name in scalings})
        return optax.chain(jaxmup.optim.adam(rate, scalings), still)

    return line_check(
        functools.partial(
            make_params, readout=readout, projections=projections, convolution=convolution
        ),
        [{"width": WIDTH * factor, "inner": INNER * factor} for factor in FACTORS],
        (TOKENS, jnp.zeros(1)),
        make_tx,
        apply=apply,
        loss_fn=training.loss_fn,
        steps=STEPS,
        seeds=SEEDS,
    )


def of_zoo(name: str) -> LineCheck:
    """The check of a case of the zoo, from its base model on."""
    case = ZOO[name]
    return line_check(
        training.model_of(case),
        training.sizes_of(case, FACTORS[:3]),
        training.batch_of(case),
        lambda scalings: jaxmup.optim.adam(RATE, scalings),
        loss_fn=training.loss_fn,
        steps=STEPS,
        seeds=SEEDS,
    )


def found(check: LineCheck) -> dict[str, Any]:
    """What the marked lines end with: sizes and slopes between neighbours; and the worst lines."""
    lines = Path(__file__).read_text().splitlines()
    of_line = {}
    for one in check.values:  # the last value of a line stands for it
        number = int(one.line.partition(":")[2] or 0)
        marked = lines[number - 1].rpartition("  # ") if number else ("", "", "")
        if one.line.startswith(Path(__file__).name) and marked[1]:
            of_line[marked[2]] = one
    values = {
        marker: {
            "predicted": round(one.predicted, 3),
            "start": [float(f"{value:.3g}") for value in one.start_rms],
            "end": [float(f"{value:.3g}") for value in one.end_rms],
            "slopes": _slopes(check.widths, one.end_rms),
        }
        for marker, one in of_line.items()
    }
    worst = [(one.line, one.op, round(one.excess, 3)) for one in check.worst()[:4]]
    return {"values": values, "worst": worst}


def _slopes(widths, sizes) -> list[float | None]:
    pairs = zip(widths, widths[1:], sizes, sizes[1:], strict=False)
    return [
        round(math.log(b / a) / math.log(n / m), 2) if a and b else None for m, n, a, b in pairs
    ]


def main() -> None:
    """Runs every case that is not in the record, prints its slopes and adds it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="also those in the record")
    parser.add_argument("--out", type=Path, default=RESULTS / "selective_orders.json")
    args = parser.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "allow")
    how = {"factors": list(FACTORS), "rate": RATE, "steps": STEPS, "seeds": SEEDS}
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    is_same = not args.again and all(record.get(name) == value for name, value in how.items())
    done: dict[str, Any] = record["cases"] if is_same else {}
    runs = {name: functools.partial(checked, **case) for name, case in CASES.items()}
    runs |= {f"zoo: {name}": functools.partial(of_zoo, name) for name in ZOO_CASES}
    for name, run in runs.items():
        if name in done:
            continue
        begin = time.perf_counter()
        done[name] = {**found(run()), "seconds": round(time.perf_counter() - begin, 1)}
        slopes = {marker: one["slopes"] for marker, one in done[name]["values"].items()}
        print(name, slopes or done[name]["worst"], flush=True)
        write_record(args.out, {**how, "cases": done}, "jax", "flax", "optax", "jaxmup")


if __name__ == "__main__":
    main()
