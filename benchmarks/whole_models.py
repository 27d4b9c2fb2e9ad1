"""Claim: unmodified Flax models pass the coordinate check under muP, and fail it without.

Each plain model of the tests trains for a few steps of AdamW at widths 64 to 1024, at one learning
rate: once as muP through `infer`, `rescale` and `jaxmup.optim`, once as it is with `optax.adamw`.
Measured is the root mean square of how far its logits, and the features that its readout reads,
have moved from initialization, and the slope of its logarithm over that of the width. Under muP all
slopes are at most 0.15, under the standard parametrization some are larger.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import RESULTS, write_record

import jaxmup
from tests.plain_models import MODELS, Plain

CLAIM = 0.15
OUT = RESULTS / "whole_models.json"
OUTPUTS = ("logits", "features")
RULE = jaxmup.parametrization("mup", "adam", gauge="table3")

Arm = tuple[Callable[[Any], Any], optax.GradientTransformation]


def mup(model: Plain, width: int, base: int, rate: float) -> Arm:
    """What makes the model under muP, and its optimizer."""
    sizes = {"base": base, "target": width}
    specs = jaxmup.infer(model.model, delta=2 * base, **sizes)
    make = partial(jaxmup.rescale, model.model, specs, RULE, **sizes)
    return lambda key: make(key=key), jaxmup.optim.adamw(rate, jaxmup.resolve(specs, RULE))


def standard(model: Plain, width: int, base: int, rate: float) -> Arm:
    """What makes the plain model, and its optimizer."""
    return partial(model.make, width), optax.adamw(rate)


ARMS = {"muP": mup, "standard": standard}


def changes(model: Plain, width: int, arm: Arm, seeds: int, steps: int) -> np.ndarray:
    """Root mean square of the change of each output in all `steps`; `(seeds, outputs)`."""
    make, tx = arm
    key = jax.random.key(0)
    _, outputs = model.split(model.make(width, key), width)

    @jax.jit
    def start(key: Any) -> Any:
        params, _ = model.split(make(key), width)
        return params, tx.init(params)

    def loss(params: Any) -> Any:
        logits, features = outputs(params)
        labels = jnp.arange(len(logits)) % logits.shape[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, features)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any) -> Any:
        gradients, found = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, found

    sizes = []
    for seed in jax.random.split(key, seeds):
        params, state = start(seed)
        found = []
        for _ in range(steps + 1):  # each returns the outputs from before its update
            params, state, values = step(params, state)
            found.append(values)
        pairs = zip(found[-1], found[0], strict=True)
        sizes.append([jnp.sqrt(jnp.mean((a - b) ** 2)) for a, b in pairs])
    return np.asarray(sizes, np.float64)


def slopes(widths: list[int], measured: np.ndarray) -> dict[str, Any]:
    """Fit over widths of the mean over seeds, and its standard error from the single seeds."""
    x = np.log2(widths)

    def fit(sizes: np.ndarray) -> np.ndarray:
        return np.polyfit(x, np.log2(sizes), 1)[0]

    means = fit(measured.mean(1))
    errors = np.std([fit(one) for one in measured.swapaxes(0, 1)], 0, ddof=1)
    errors /= np.sqrt(measured.shape[1])
    return {
        "slopes": dict(zip(OUTPUTS, means.round(4).tolist(), strict=True)),
        "standard_errors": dict(zip(OUTPUTS, errors.round(4).tolist(), strict=True)),
        "changes": dict(zip(OUTPUTS, measured.mean(1).T.tolist(), strict=True)),
    }


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Both arms of one model."""
    begin = time.perf_counter()
    found = {}
    for arm, make in ARMS.items():
        sizes = []
        for width in args.widths:
            trained = make(MODELS[name], width, args.widths[0], args.rate)
            sizes.append(changes(MODELS[name], width, trained, args.seeds, args.steps))
        found[arm] = slopes(args.widths, np.stack(sizes))
    steepest = {arm: max(map(abs, found[arm]["slopes"].values())) for arm in ARMS}
    holds = steepest["muP"] <= CLAIM < steepest["standard"]
    return {"seconds": round(time.perf_counter() - begin, 1), "holds": holds, **found}


def main() -> None:
    """Measures every model, prints a row of the table and adds it to the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2**-7)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    titles = "".join(f"{arm + ' ' + output:>22}" for arm in ARMS for output in OUTPUTS)
    print(f"{'slopes':<28}{titles}  claim: muP at most {CLAIM}, standard above")
    cases = {}
    for name in args.models:
        case = cases[name] = measure(name, args)
        numbers = "".join(
            f"{case[arm]['slopes'][o]:>14.2f} ± {case[arm]['standard_errors'][o]:<5.2f}"
            for arm in ARMS
            for o in OUTPUTS
        )
        print(f"{name:<28}{numbers}  {'holds' if case['holds'] else 'FAILS'}", flush=True)
        measured = {"widths": args.widths, "seeds": args.seeds, "steps": args.steps}
        measured |= {"rate": args.rate, "claim": CLAIM, "models": cases}
        write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


if __name__ == "__main__":
    main()
