"""Claim: CompleteP's Figure 6, the change of a weight in one Adam step against depth, is ours too.

    python benchmarks/anchor_completep_depth.py [--quick] [--seeds 10] [--depth 512]

The published network (arXiv:2505.01618, Section 5; EleutherAI/nanoGPT-mup, branch completep, commit
6f8bc3b, `completep_examples/relative_distance_from_linearization.ipynb`): a readin of 784 features,
L residual blocks of two layers of width 256, each behind a ReLU, a readout of 10; in one step of
Adam on 128 images only the first layer of the second block moves. Its medians over 50 seeds, typed
below from `param_diff_*.npy` beside that notebook, are held against ours: layers, residual
multiplier, learning rate and eps are the library's, from `depth_alpha`. Held are the slope of each
curve, and that ours over the published one is the same at every depth.

Different here: the images are the digits of scikit-learn, enlarged to MNIST's 28 by 28 pixels;
weights are stored as they are used, so a change is divided by the standard deviation √(2 / 256) by
which the published network multiplies weights of variance 1, and learning rate and eps are told in
units of the effective weight.

For information only: the notebook's "distance from linearization" of the branch. It multiplies the
gradient of one output with one row of the change, so it is no linearization.

Then each part of the rule is left out in turn, at reduced size. At α = 1 the learning rate does not
depend on depth, so there is nothing of it to leave out.
"""

import argparse
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _anchors import PARTS, Band, print_lines, rule_over_depth, slope, without, write_picture
from _record import RESULTS, write_record
from flax import nnx
from sklearn.datasets import load_digits

import jaxmup

WIDTH, FEATURES, CLASSES, BASE_DEPTH, BATCH = 256, 784, 10, 2, 128
STD = math.sqrt(2 / WIDTH)  # by which the published network multiplies weights of variance 1
LEARNING_RATE, EPS = 1e-4 / math.sqrt(WIDTH), 1e-8  # of those weights

DEPTHS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
IN_UNITS: dict[float, tuple[float, ...]] = {  # of 1e-4; unscaled, no numbers from 256 on
    0.0: (8.674, 10.25, 12.72, 15.01, 15.51, 15.48, 15.47),
    0.5: (8.729, 6.733, 4.967, 3.623, 2.607, 1.861, 1.325, 0.9342, 0.6601),
    1.0: (8.706, 8.943, 8.812, 8.594, 8.459, 8.358, 8.340, 8.342, 8.313),
}
PUBLISHED = {a: tuple(x * 1e-4 for x in changes) for a, changes in IN_UNITS.items()}
PUBLISHED_DISTANCE: dict[float, float] = {0.5: -0.452, 1.0: -0.041}  # slopes to 512
SLOPE_WITHIN = {0.0: 0.02, 0.5: 0.02, 1.0: 0.015}
RATIO_WITHIN, RATIO_WITHIN_OF_FEW = 0.03, 0.06  # of the geometric mean; under 10 seeds

LEFT_OUT = [(a, part) for a in (0.5, 1.0) for part in PARTS if (a, part) != (1.0, "learning rate")]
REDUCED_DEPTH, REDUCED_SEEDS = 64, 5


class Branch(nnx.Module):
    """Two layers, each behind a ReLU."""

    def __init__(self, rngs: nnx.Rngs, **rule: Any):
        layer = {"base_in_features": WIDTH, "base_out_features": WIDTH, "use_bias": False}
        linear = functools.partial(jaxmup.nnx.Linear, WIDTH, WIDTH, init_std=STD, **layer, **rule)
        self.first, self.second = linear(rngs=rngs), linear(rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.relu(self.first(jax.nn.relu(x))))


class Network(nnx.Module):
    """The published network, from images to logits.

    Args:
      depth: Number of blocks.
      parametrization: Rule of its layers.
      rngs: Random keys.
    """

    def __init__(self, depth: int, parametrization: jaxmup.Parametrization, rngs: nnx.Rngs):
        outer = {"use_bias": False, "parametrization": parametrization, "rngs": rngs}
        inner = {"parametrization": parametrization, "depth_ratio": depth / BASE_DEPTH}

        def make_block(rngs: nnx.Rngs) -> nnx.Module:
            return jaxmup.nnx.Residual(Branch(rngs, **inner), **inner)

        # PyTorch's uniform of variance 1 / (3 fan-in), which the network multiplies by 1 / √784
        # and, in the readout, 1 / 256.
        at_the_ends = functools.partial(
            nnx.initializers.variance_scaling, mode="fan_in", distribution="uniform"
        )
        self.readin = jaxmup.nnx.Linear(
            FEATURES, WIDTH, kernel_init=at_the_ends(1 / (3 * FEATURES)), **outer
        )
        self.blocks = jaxmup.nnx.Stack(make_block, depth, rngs=rngs)
        self.readout = jaxmup.nnx.Linear(
            WIDTH, CLASSES, kernel_init=at_the_ends(1 / (3 * WIDTH**2)), **outer
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.readout(self.blocks(self.readin(x)))


def images() -> tuple[np.ndarray, np.ndarray]:
    """A batch of digits of 784 features, of mean 0 and variance 1 over all digits, and classes."""
    digits, classes = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8)
    at = (np.arange(20) + 0.5) * 8 / 20 - 0.5  # 20 by 20 pixels in the middle, as MNIST's are
    low = np.clip(np.floor(at).astype(int), 0, 6)
    share = np.clip(at - low, 0, 1)
    enlarge = np.zeros((20, 8))
    enlarge[np.arange(20), low], enlarge[np.arange(20), low + 1] = 1 - share, share
    pixels = np.zeros((len(digits), 28, 28))
    pixels[:, 4:24, 4:24] = enlarge @ digits @ enlarge.T
    pixels = (pixels - pixels.mean()) / pixels.std()
    return pixels[:BATCH].reshape(BATCH, FEATURES).astype(np.float32), classes[:BATCH]


@functools.partial(jax.jit, static_argnums=(0, 1))
def one_step(depth: int, rule: jaxmup.Parametrization, key: jax.Array) -> tuple[jax.Array, ...]:
    """The change of the second block's first weight in units of its std, and the distance."""
    x, classes = images()
    model = Network(depth, rule, nnx.Rngs(key))
    scalings = jaxmup.resolve(jaxmup.nnx.specs(model), rule)
    tx = jaxmup.optim.adam(LEARNING_RATE * STD, scalings, eps=EPS / STD)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_fn(params: nnx.State) -> jax.Array:
        logits = nnx.merge(graph, params, rest)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    updates, _ = tx.update(jax.grad(loss_fn)(params), tx.init(params), params)
    stepped = nnx.merge(graph, updates, rest).blocks[1].block
    change = stepped.first.kernel[...]
    return jnp.linalg.norm(change) / STD, distance(model, x, change)


def distance(model: Network, x: jax.Array, change: jax.Array) -> jax.Array:
    """The notebook's "relative distance from linearization" of the second branch's first output."""
    branch, entering = model.blocks[1].block, model.blocks[0](model.readin(x))

    def output(kernel: jax.Array) -> jax.Array:
        moved = nnx.clone(branch)
        moved.first.kernel[...] = kernel
        return moved(entering)[0, 0]

    before, gradient = jax.value_and_grad(output)(branch.first.kernel[...])
    # The published line: one row of the change of PyTorch's weight for all rows of the gradient.
    linear = before + jnp.sum(change[:, :1] * gradient)
    return jnp.abs((output(branch.first.kernel[...] + change) - linear) / linear)


def medians(
    depths: Sequence[int], rule: jaxmup.Parametrization, seeds: int
) -> tuple[list[float], list[float]]:
    """Medians over seeds of the change and of the distance, at each depth."""
    found = []
    for depth in depths:
        keys = (jax.random.fold_in(jax.random.key(seed), depth) for seed in range(seeds))
        found.append(np.median([one_step(depth, rule, key) for key in keys], axis=0))
    changes, distances = np.transpose(found).tolist()
    return changes, distances


def held(
    alpha: float, depths: Sequence[int], changes: Sequence[float], seeds: int
) -> dict[str, Any]:
    """The lines of a record for one α: its slope, and the spread of its ratio."""
    published = PUBLISHED[alpha][: len(depths)]
    band = Band(slope(depths, published), SLOPE_WITHIN[alpha])
    ratios = np.log(np.divide(changes, published))
    spread = float(np.expm1(np.abs(ratios - ratios.mean()).max()))
    within = RATIO_WITHIN if seeds >= 10 else RATIO_WITHIN_OF_FEW
    return {
        f"slope, alpha {alpha:g}": band.judge(slope(depths, changes)),
        f"ratio to the published curve, alpha {alpha:g}": Band(0.0, within).judge(spread),
    }


def measure(depths: Sequence[int], seeds: int) -> dict[str, Any]:
    """Every curve beside the published one."""
    curves, lines, distances = {}, {}, {}
    for alpha, published in PUBLISHED.items():
        its_depths = depths[: len(published)]
        changes, distance = medians(its_depths, rule_over_depth(alpha), seeds)
        curves[f"{alpha:g}"] = {"depths": its_depths, "ours": changes}
        curves[f"{alpha:g}"]["published"] = published[: len(its_depths)]
        lines |= held(alpha, its_depths, changes, seeds)
        if alpha in PUBLISHED_DISTANCE:
            slopes = {"published to 512": PUBLISHED_DISTANCE[alpha]}
            distances[f"{alpha:g}"] = slopes | {"ours": slope(its_depths, distance)}
    print_lines(lines)
    return {"curves": curves, "lines": lines, "distance, for information": distances}


def measure_left_out(depths: Sequence[int], seeds: int) -> dict[str, Any]:
    """The same with a part of the rule left out."""
    found = {}
    for alpha, part in LEFT_OUT:
        changes, _ = medians(depths, without(rule_over_depth(alpha), part), seeds)
        lines = held(alpha, depths, changes, seeds)
        print(f"alpha {alpha:g} without its {part}:")
        print_lines(lines)
        found[f"alpha {alpha:g} without its {part}"] = {"ours": changes, "lines": lines}
    return found


def picture(path: Path, curves: Mapping[str, Any]) -> None:
    """Ours and the published curves."""
    ours = {f"α = {a}": (c["depths"], c["ours"]) for a, c in curves.items()}
    published = {f"α = {a}": (c["depths"], c["published"]) for a, c in curves.items()}
    write_picture(path, {"CompleteP, Figure 6": (ours, published)}, "change of the weight")


def main() -> int:
    """Measures, prints and writes the record and the picture; 1 where a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--depth", type=int, default=512, help="largest depth")
    parser.add_argument("--quick", action="store_true", help="3 seeds, to depth 32; no record")
    parser.add_argument("--out", type=Path, default=RESULTS / "anchor_completep_depth.json")
    args = parser.parse_args()
    largest, seeds = (32, 3) if args.quick else (args.depth, args.seeds)
    depths = [depth for depth in DEPTHS if depth <= largest]
    measured = measure(depths, seeds)
    reduced = [depth for depth in depths if depth <= REDUCED_DEPTH]
    left_out = measure_left_out(reduced, min(seeds, REDUCED_SEEDS))
    inside = all(line["inside"] for line in measured["lines"].values())
    caught = all(
        not all(line["inside"] for line in one["lines"].values()) for one in left_out.values()
    )
    measured |= {"left out": left_out, "holds": inside and caught}
    if args.quick:
        return not measured["holds"]
    settings = {"seeds": list(range(seeds)), "seeds of what is left out": min(seeds, REDUCED_SEEDS)}
    write_record(args.out, settings | measured, "jax", "flax", "optax", "scikit-learn", "jaxmup")
    picture(args.out.with_suffix(".png"), measured["curves"])
    return not measured["holds"]


if __name__ == "__main__":
    sys.exit(main())
