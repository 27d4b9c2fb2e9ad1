"""Claim: CompleteP's Figure 7, the residual stream of a GPT against its depth, is ours too.

    python benchmarks/anchor_completep_stream.py --text tinyshakespeare.txt [--quick]

nanoGPT-mup's coordinate check over depth (arXiv:2505.01618, Figure 7; EleutherAI/nanoGPT-mup,
branch completep, commit 6f8bc3b, `completep_examples/coord_check_shakespeare_char`): a GPT of width
256 with heads of 64 on the characters of Shakespeare (the text of char-rnn and nanoGPT), AdamW at
rate 1e-3, base depth 2. Held are slopes against depth of the mean of |x| over the residual stream
behind the last block: at initialization (step 1 of the figure), and at step 10, from 4 layers on.
The published points are read off `assets/depth_coord_check.png`, to 5 %, a pixel; at 2 layers all
three models are the base model. The bands were fixed before the runs.

Different here: sequences of 64 characters for 1024 (`--context`), which a CPU can run, 32 layers
at most for 64, and other random numbers. Nine tenths of the text are for training, as published.

Then learning rate and residual multiplier are left out in turn, at reduced size. Not eps: at 1e-12
it does not show here; `anchor_completep_depth.py` holds it.
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _anchors import Band, Part, print_lines, rule_over_depth, slope, without, write_picture
from _nanogpt import make_gpt, make_step
from _record import RESULTS, write_record
from flax import nnx

import jaxmup

WIDTH, HEAD, BATCH, STEPS = 256, 64, 8, 10
DEPTHS = (2, 4, 8, 16, 32)
INITIAL, LAST = "initialization", "step 10"
FROM = {INITIAL: 2, LAST: 4}  # layers

# Heights in pixels: 125 is 1, and 46 are a factor of 10.
PIXELS: dict[float, dict[str, tuple[int, ...]]] = {
    0.0: {INITIAL: (165, 157, 149, 141, 135), LAST: (135, 105, 90, 73, 62)},
    0.5: {INITIAL: (165, 165, 164, 164, 164), LAST: (135, 131, 133, 135, 134)},
    1.0: {INITIAL: (165, 172, 178, 184, 190), LAST: (135, 134, 135, 130, 131)},
}
PUBLISHED = {
    alpha: {step: [10 ** ((125 - y) / 46) for y in pixels] for step, pixels in of.items()}
    for alpha, of in PIXELS.items()
}
BANDS = {  # middle, and distance from it
    0.0: {INITIAL: (0.56, 0.05), LAST: (1.16, 0.2)},
    0.5: {INITIAL: (0.03, 0.05), LAST: (0.0, 0.2)},
    1.0: {INITIAL: (-0.45, 0.05), LAST: (0.0, 0.2)},
}
LEFT_OUT: tuple[tuple[float, Part], ...] = (
    (0.5, "learning rate"),
    (0.5, "residual multiplier"),
    (1.0, "residual multiplier"),
)
REDUCED_DEPTH, REDUCED_CONTEXT = 8, 32


def read_tokens(path: Path) -> tuple[np.ndarray, int]:
    """The training part of a text as numbers of its characters, and how many characters it has."""
    characters = np.array(list(path.read_text(encoding="utf-8")))
    known, tokens = np.unique(characters, return_inverse=True)
    return tokens[: int(0.9 * len(tokens))].astype(np.int32), len(known)


def batches(tokens: np.ndarray, context: int, seed: int) -> np.ndarray:
    """Random places of the text: `(steps, batch, context + 1)`."""
    starts = np.random.default_rng(seed).integers(len(tokens) - context, size=(STEPS, BATCH, 1))
    return tokens[starts + np.arange(context + 1)]


def run(
    layers: int,
    rule: jaxmup.Parametrization,
    text: tuple[np.ndarray, int],
    context: int,
    seeds: int,
) -> np.ndarray:
    """The mean of |x| before each of ten steps, and over seeds."""
    tokens, vocabulary = text
    sizes = {"layers": layers, "width": WIDTH, "base_width": WIDTH, "head": HEAD}
    make = functools.partial(make_gpt, vocabulary, rule, **sizes, context=context)
    step, tx = make_step(rule, nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    draw = jax.jit(lambda key: nnx.state(make(rngs=nnx.Rngs(key)), nnx.Param))
    found = np.zeros((seeds, STEPS))
    for seed in range(seeds):
        params = draw(jax.random.key(seed))
        state = tx.init(params)
        for i, batch in enumerate(jnp.asarray(batches(tokens, context, seed))):
            params, state, _, found[seed, i] = step(params, state, batch[:, :-1], batch[:, 1:])
    print(f"{layers} layers: {found.mean(0)[[0, -1]]}", flush=True)
    return found.mean(0)


def measure(
    depths: Sequence[int], alpha: float, rule: jaxmup.Parametrization, seeds: int, *of: Any
) -> dict[str, Any]:
    """The means over seeds at each depth, and the lines of a record."""
    means = [run(depth, rule, *of, seeds) for depth in depths]
    ours = {name: [float(x[i]) for x in means] for name, i in ((INITIAL, 0), (LAST, -1))}
    lines = {}
    for step, (middle, within) in BANDS[alpha].items():
        first = depths.index(FROM[step])
        published = PUBLISHED[alpha][step][first : len(depths)]
        band = Band(slope(depths[first:], published), within, middle)
        line = band.judge(slope(depths[first:], ours[step][first:]))
        lines[f"alpha {alpha:g}, slope at {step}"] = line
    print_lines(lines)
    return {"ours": ours, "lines": lines}


def picture(path: Path, depths: Sequence[int], found: Mapping[float, Mapping[str, Any]]) -> None:
    """A panel for each α."""
    panels = {}
    for alpha, one in found.items():
        published = {step: (depths, y[: len(depths)]) for step, y in PUBLISHED[alpha].items()}
        title = "μP, depth unscaled" if alpha == 0 else f"α = {alpha:g}"
        panels[title] = ({step: (depths, y) for step, y in one["ours"].items()}, published)
    write_picture(path, panels, "residual stream, mean of |x|")


def main() -> int:
    """Measures, prints and writes the record and the picture; 1 where a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="file of text to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="at reduced size; no record")
    parser.add_argument("--out", type=Path, default=RESULTS / "anchor_completep_stream.json")
    args = parser.parse_args()
    text = read_tokens(args.text)
    seeds, context = (1, REDUCED_CONTEXT) if args.quick else (args.seeds, args.context)
    reduced = tuple(depth for depth in DEPTHS if depth <= REDUCED_DEPTH)
    depths = reduced if args.quick else DEPTHS
    found = {
        alpha: measure(depths, alpha, rule_over_depth(alpha), seeds, text, context)
        for alpha in BANDS
    }
    left_out = {}
    for alpha, part in LEFT_OUT:
        print(f"without its {part}:")
        rule = without(rule_over_depth(alpha), part)
        one = measure(reduced, alpha, rule, 1, text, REDUCED_CONTEXT)
        left_out[f"alpha {alpha:g} without its {part}"] = one
    inside = all(line["inside"] for one in found.values() for line in one["lines"].values())
    caught = all(not all(x["inside"] for x in one["lines"].values()) for one in left_out.values())
    measured = {
        "text": {"name": args.text.name, "sha256": sha256(args.text.read_bytes()).hexdigest()},
        "seeds": list(range(seeds)),
        "context": context,
        "depths": depths,
        "curves": {f"{a:g}": {"published": PUBLISHED[a], "ours": found[a]["ours"]} for a in found},
        "lines": {name: x for one in found.values() for name, x in one["lines"].items()},
        "left out": {"depths": reduced, "context": REDUCED_CONTEXT, "seeds": [0], **left_out},
        "holds": inside and caught,
    }
    if args.quick:
        return not measured["holds"]
    write_record(args.out, measured, "jax", "flax", "optax", "numpy", "jaxmup")
    picture(args.out.with_suffix(".png"), depths, found)
    return not measured["holds"]


if __name__ == "__main__":
    sys.exit(main())
