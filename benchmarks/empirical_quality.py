"""Claim: calibrated once, modules have activations, gradients and updates of RMS 1.

1. An MLP, a CNN, a GPT and an LSTM are calibrated on one batch: all three numbers of every module
   are within 1 % of 1 on that batch, and on fresh data within 20 %.
2. A residual network of 100 tanh blocks whose weights have standard deviation 1 does not learn to
   read digits by SGD; calibrated, it does. (Without residuals, such a chain forgets its inputs
   within 100 layers whatever the scales: calibrated, its loss goes from 2.64 to 2.16 nats.)
3. Across widths 64 to 1024, the activations of a calibrated MLP and their changes in a few steps of
   SGD keep their size: every slope in log-log is within 0.2 of 0, if the readout is muP's own. A
   calibrated readout has weights of 1 / sqrt(width), where muP has 1 / width, and its inputs move
   along them: its changes grow, which is recorded beside.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import RESULTS, write_record
from flax import nnx
from sklearn.datasets import load_digits

import jaxmup
from jaxmup.empirical import Row, calibrate, measure
from jaxmup.models import CNN, GPT, MLP

OUT = RESULTS / "empirical_quality.json"
ON_BATCH, ON_FRESH, SLOPE = 0.01, 0.2, 0.2
BATCH, VOCABULARY = 512, 64


class LSTM(nnx.Module):
    """One layer over 12 steps and a readout of the last state."""

    def __init__(self, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(16, 64, rngs=rngs))
        self.readout = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.readout(self.rnn(x)[:, -1])


def images(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (BATCH, 8, 8, 3))


def vectors(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (BATCH, 64))


def sequences(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (BATCH, 12, 16))


def tokens(key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (BATCH, 16), 0, VOCABULARY)


def models() -> dict[str, tuple[nnx.Module, Callable[[jax.Array], jax.Array]]]:
    """Each model, and what draws its inputs."""
    rngs = nnx.Rngs(0)
    gpt = {"width": 64, "num_layers": 2, "num_heads": 4, "base_width": 64}
    return {
        "MLP": (MLP(64, 10, width=128, depth=6, base_width=128, rngs=rngs), vectors),
        "CNN": (CNN(3, 10, width=16, num_stages=3, base_width=16, rngs=rngs), images),
        "GPT": (GPT(VOCABULARY, rngs=rngs, **gpt), tokens),
        "LSTM": (LSTM(rngs), sequences),
    }


def loss_of(inputs: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Cross-entropy with labels that can be learned: a linear teacher's, or a map of the token."""
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        labels = (5 * inputs + 3) % VOCABULARY
    else:
        flat = inputs.reshape(len(inputs), -1)
        labels = jnp.argmax(flat @ jax.random.normal(jax.random.key(0), (flat.shape[1], 10)), 1)

    def loss(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss


def farthest(rows: tuple[Row, ...]) -> dict[str, Any]:
    """The value farthest from 1 of each of the three numbers, and where."""
    found = {}
    for field in ("activations", "gradients", "updates"):
        values = [(getattr(row, field), row.module) for row in rows]
        known = [(value, module) for value, module in values if value is not None]
        found[field] = max(known, key=lambda pair: abs(pair[0] - 1))
    return found


def of_models() -> dict[str, Any]:
    """Part 1."""
    found = {}
    for name, (model, draw) in models().items():
        batch, fresh = (draw(jax.random.key(seed)) for seed in (1, 2))
        calibration = calibrate(model, batch, loss_of(batch))
        found[name] = {
            "passes": calibration.passes,
            "warnings": calibration.warnings,
            "batch": farthest(measure(calibration.model, batch, loss_of(batch))),
            "fresh": farthest(measure(calibration.model, fresh, loss_of(fresh))),
        }
        print(name, found[name], flush=True)
    return found


class Deep(nnx.Module):
    """Residual tanh blocks whose weights have standard deviation 1."""

    def __init__(self, depth: int, width: int, rngs: nnx.Rngs):
        unit = nnx.initializers.normal(1.0)
        sizes = {"kernel_init": unit, "rngs": rngs}
        self.layers = nnx.List(nnx.Linear(width, width, **sizes) for _ in range(depth))
        self.readout = nnx.Linear(width, 10, **sizes)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = x + jnp.tanh(layer(x))
        return self.readout(x)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def of_depth(depth: int, steps: int) -> dict[str, Any]:
    """Part 2: the mean loss of the last 20 steps, by the exponent of the learning rate."""
    digits = load_digits()
    x, y = jnp.asarray(digits.data / 16 - 0.3), jnp.asarray(digits.target)
    plain = Deep(depth, x.shape[1], nnx.Rngs(0))
    first = x[:256], lambda logits: cross_entropy(logits, y[:256])
    calibrated = calibrate(plain, *first, redraw=False).model

    def end(model: Any, exponents: range) -> dict[str, float]:
        graph, start, rest = nnx.split(model, nnx.Param, ...)

        @jax.jit
        def run(params: Any, rate: float) -> jax.Array:
            def step(params: Any, i: jax.Array) -> tuple[Any, jax.Array]:
                at = jax.random.randint(jax.random.key(i), (128,), 0, len(x))
                value, gradients = jax.value_and_grad(
                    lambda params: cross_entropy(nnx.merge(graph, params, rest)(x[at]), y[at])
                )(params)
                return jax.tree.map(lambda p, g: p - rate * g, params, gradients), value

            return jax.lax.scan(step, params, jnp.arange(steps))[1]

        return {str(e): float(run(start, 2.0**e)[-20:].mean()) for e in exponents}

    models = {"plain": (plain, range(-24, -3, 4)), "calibrated": (calibrated, range(-9, -5))}
    found = {name: end(model, exponents) for name, (model, exponents) in models.items()}
    print(found, flush=True)
    return found


def of_widths(widths: tuple[int, ...], modules: list[str] | None) -> dict[str, Any]:
    """Part 3: slopes of the RMS of each layer's outputs, and of their changes in 4 steps."""
    rule = jaxmup.parametrization("mup", "sgd")
    x, y = vectors(jax.random.key(1)), jax.random.randint(jax.random.key(2), (BATCH,), 0, 10)

    def loss(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    sizes: dict[str, list[list[float]]] = {"outputs": [], "changes": []}
    for width in widths:
        sizes_of = {"width": width, "depth": 3, "base_width": min(widths)}
        model = MLP(64, 10, **sizes_of, parametrization=rule, rngs=nnx.Rngs(0))
        calibrated = calibrate(model, x, loss, modules=modules).model
        graph, params, rest = nnx.split(calibrated, nnx.Param, ...)
        rates = jax.tree.map(lambda _: 2.0**-4, params)
        if modules is not None:
            scalings = jaxmup.resolve(jaxmup.nnx.specs(model), rule)["readout"]
            for name, scaling in scalings.items():
                rates["readout"][name] = jax.tree.map(
                    lambda rate, lr=scaling.lr: rate * lr, rates["readout"][name]
                )

        def outputs(params: Any, graph: Any = graph, rest: Any = rest) -> list[jax.Array]:
            model, h, seen = nnx.merge(graph, params, rest), x, []
            for layer in model.hidden:
                seen.append(layer(h))
                h = jax.nn.relu(seen[-1])
            return [*seen, model.readout(h)]

        step = jax.jit(jax.grad(lambda params, outputs=outputs: loss(outputs(params)[-1])))
        before = outputs(params)
        for _ in range(4):
            params = jax.tree.map(lambda p, r, g: p - r * g, params, rates, step(params))
        after = outputs(params)
        sizes["outputs"].append([float(jnp.sqrt(jnp.square(a).mean())) for a in after])
        changes = [a - b for a, b in zip(after, before, strict=True)]
        sizes["changes"].append([float(jnp.sqrt(jnp.square(c).mean())) for c in changes])
    slopes = {
        what: np.polyfit(np.log2(widths), np.log2(values), 1)[0].tolist()
        for what, values in sizes.items()
    }
    print(slopes, sizes, flush=True)
    return {"widths": widths, "slopes": slopes, "rms": sizes}


def verdict(parts: dict[str, Any]) -> bool:
    """Whether every number is where it is claimed to be."""
    values = [
        abs(value - 1) < bound
        for found in parts["models"].values()
        for where, bound in (("batch", ON_BATCH), ("fresh", ON_FRESH))
        for value, _ in found[where].values()
    ]
    plain, calibrated = (parts["depth"][name].values() for name in ("plain", "calibrated"))
    stuck = all(not loss < 0.9 * np.log(10) for loss in plain)
    slopes = [abs(s) < SLOPE for found in parts["widths"]["slopes"].values() for s in found]
    return all(values) and stuck and min(calibrated) < 0.5 * np.log(10) and all(slopes)


def main() -> None:
    """Measures, prints and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--widths", type=int, nargs="+", default=(64, 128, 256, 512, 1024))
    args = parser.parse_args()
    parts = {
        "models": of_models(),
        "widths": of_widths(tuple(args.widths), ["hidden/*"]),
        "widths, all calibrated": of_widths(tuple(args.widths), None),
        "depth": of_depth(args.depth, args.steps),
    }
    print("holds" if verdict(parts) else "FAILS")
    write_record(args.out, parts, "jax", "flax", "jaxmup")


if __name__ == "__main__":
    main()
