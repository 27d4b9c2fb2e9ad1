"""Claim: `rescale` costs at most 1.3 times the jitted constructor, a second key at most 0.1 of it.

CPU seconds with compilation counted, and peak memory, each in a fresh interpreter: constructor,
jitted constructor, `rescale` with a first and with a second key. Beside them CPU seconds to build
48 layers of attention abstractly, and to compile the initial values of one large layer, of jaxmup's
layers and of Flax's; those take at most 1.3 times these.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _record import RESULTS, write_record
from flax import linen as nn
from flax import nnx

import jaxmup

MOST_FIRST, MOST_AGAIN, MOST_ABSTRACT, MOST_COMPILED = 1.3, 0.1, 1.3, 1.3
PAIRS = 5
WIDTHS = (1024, 2048, 4096, 8192)
OUT = RESULTS / "initial_cost.json"
RULE = jaxmup.parametrization("mup", "adam", gauge="table3")
BASE, TARGET = 32, 128
WAYS = ("constructor", "jitted constructor", "rescale")


def mlp(width: int, rngs: nnx.Rngs) -> nnx.Module:
    """Four layers."""
    sizes = [width] * 4
    return nnx.Sequential(*(nnx.Linear(n, width, rngs=rngs) for n in (16, *sizes[1:])))


def resnet(width: int, rngs: nnx.Rngs) -> nnx.Module:
    """Convolutions of three widths, with norms."""
    channels = [width // 2, width // 2, width, width, 2 * width, 2 * width]
    pairs = zip([3, *channels], channels, strict=False)
    return nnx.Sequential(*(_conv(a, b, rngs) for a, b in pairs))


def unet(width: int, rngs: nnx.Rngs) -> nnx.Module:
    """Convolutions down and up, the latter of twice as many channels."""
    down = [(3, width), (width, 2 * width), (2 * width, 4 * width)]
    up = [(8 * width, 2 * width), (4 * width, width), (2 * width, width)]
    return nnx.Sequential(*(_conv(a, b, rngs) for a, b in down + up))


def with_skips(model: nnx.Sequential, x: jax.Array) -> jax.Array:
    """The outputs of a U-Net."""
    skips = []
    for layer in model.layers[:3]:
        x = layer(x)
        skips.append(x)
    for layer in model.layers[3:]:
        x = layer(jnp.concatenate([x, skips.pop()], -1))
    return x


def unrolled(width: int, rngs: nnx.Rngs, depth: int = 8) -> nnx.Module:
    """Blocks of attention."""
    return nnx.Sequential(*(_block(width, rngs) for _ in range(depth)))


def unrolled_48(width: int, rngs: nnx.Rngs) -> nnx.Module:
    """48 blocks of attention."""
    return unrolled(width, rngs, depth=48)


def scanned(width: int, rngs: nnx.Rngs) -> nnx.Module:
    """Eight blocks of attention, stacked."""
    blocks = nnx.vmap(lambda rngs: _block(width, rngs))
    return nnx.split_rngs(splits=8)(blocks)(rngs)


def one_by_one(blocks: nnx.Sequential, x: jax.Array) -> jax.Array:
    """The outputs of stacked blocks."""
    step = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    return step(x, blocks)


def _conv(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    norm = nnx.BatchNorm(outputs, rngs=rngs)
    return nnx.Sequential(nnx.Conv(inputs, outputs, (3, 3), rngs=rngs), norm)


def _block(width: int, rngs: nnx.Rngs) -> nnx.Module:
    attention = nnx.MultiHeadAttention(width // 16, width, decode=False, rngs=rngs)
    up, down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
    return nnx.Sequential(nnx.LayerNorm(width, rngs=rngs), attention, up, down)


def _features(width: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 8, width), "float32")


IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
MODELS = {
    "MLP": jaxmup.Model(mlp, inputs=_features(16)),
    "ResNet": jaxmup.Model(resnet, inputs=IMAGES),
    "U-Net": jaxmup.Model(unet, inputs=IMAGES, apply=with_skips),
    "GPT unrolled": jaxmup.Model(unrolled, inputs=_features),
    "GPT, 48 unrolled": jaxmup.Model(unrolled_48, inputs=_features),
    "GPT scanned": jaxmup.Model(scanned, inputs=_features, apply=one_by_one),
}


def _nnx_attention(of_jaxmup: bool, rngs: nnx.Rngs) -> nnx.Module:
    layer = functools.partial(nnx.MultiHeadAttention, 8, 256)
    if of_jaxmup:
        bases = {"base_num_heads": 2, "base_in_features": 64}
        layer = functools.partial(jaxmup.nnx.MultiHeadAttention, 8, 256, **bases)
    return nnx.Sequential(*(layer(decode=False, rngs=rngs) for _ in range(48)))


def _linen_attention(of_jaxmup: bool) -> nn.Module:
    layer = functools.partial(nn.MultiHeadDotProductAttention, 8)
    if of_jaxmup:
        bases = {"base_num_heads": 2, "base_in_features": 64}
        layer = functools.partial(jaxmup.linen.MultiHeadDotProductAttention, 8, **bases)
    return nn.Sequential([layer() for _ in range(48)])


def _paired(cost: Callable[[bool], float]) -> dict[str, float]:
    """Medians of CPU seconds of Flax's and jaxmup's, and of their ratio, of pairs side by side."""
    pairs = []
    for _ in range(PAIRS):
        pair = []
        for of_jaxmup in (False, True):
            jax.clear_caches()
            pair.append(cost(of_jaxmup))
        pairs.append(pair)
    flax, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ours / flax for flax, ours in pairs)
    return {"flax_s": flax, "jaxmup_s": ours, "ratio": ratio}


def built(api: str) -> dict[str, float]:
    """CPU seconds to build 48 layers of attention abstractly."""
    x = jax.ShapeDtypeStruct((1, 8, 256), "float32")

    def cost(of_jaxmup: bool) -> float:
        def build(key: Any) -> Any:
            if api == "NNX":
                return nnx.state(_nnx_attention(of_jaxmup, nnx.Rngs(key)))
            return _linen_attention(of_jaxmup).init(key, jnp.zeros(x.shape, x.dtype))

        start = time.process_time()
        jax.eval_shape(build, jax.random.key(0))
        return time.process_time() - start

    return _paired(cost)


def compiled(width: int) -> dict[str, float]:
    """CPU seconds to trace and compile the initial values of a layer of this width."""
    bases = {"base_in_features": 256, "base_out_features": 256}

    def cost(of_jaxmup: bool) -> float:
        layer = functools.partial(jaxmup.nnx.Linear, **bases) if of_jaxmup else nnx.Linear
        start = time.process_time()
        draw = jax.jit(lambda key: nnx.state(layer(width, width, rngs=nnx.Rngs(key))))
        draw.lower(jax.random.key(0)).compile()
        return time.process_time() - start

    return _paired(cost)


def measured(name: str, way: str) -> dict[str, float]:
    """CPU seconds of a first and a second key, and the peak of memory in MiB."""
    model, sizes = MODELS[name], {"base": BASE, "target": TARGET}
    make = model.make_model
    specs = jaxmup.infer(model, delta=2 * BASE, **sizes)
    jitted = jax.jit(lambda key: nnx.state(make(TARGET, nnx.Rngs(key))))
    draw: dict[str, Callable[[Any], Any]] = {
        "constructor": lambda key: nnx.state(make(TARGET, nnx.Rngs(key))),
        "jitted constructor": jitted,
        "rescale": lambda key: nnx.state(jaxmup.rescale(make, specs, RULE, key=key, **sizes)),
    }
    keys = [jax.random.key(seed) for seed in (0, 1)]
    seconds = []
    for key in keys:
        start = time.process_time()
        jax.block_until_ready(jax.tree.leaves(draw[way](key)))
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"first_s": seconds[0], "again_s": seconds[1], "peak_mib": peak}


def main() -> None:
    """Measures, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "WAY"))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(*args.one)))
        return
    found: dict[str, Any] = {}
    holds = True
    for name in args.models:
        rows = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--one", name, way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[way] = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:14s} {way:20s}", *(f"{k} {v:8.2f}" for k, v in rows[way].items()))
        jitted, ours = rows["jitted constructor"]["first_s"], rows["rescale"]
        first, again = ours["first_s"] / jitted, ours["again_s"] / jitted
        print(f"{name:14s} over the jitted constructor: first {first:.2f}, again {again:.3f}")
        found[name] = {**rows, "first": first, "again": again}
        holds = holds and first <= MOST_FIRST and again <= MOST_AGAIN
    rows = {f"{api}, abstract": (built(api), MOST_ABSTRACT) for api in ("NNX", "Linen")}
    rows |= {f"layer of {n}, compiled": (compiled(n), MOST_COMPILED) for n in WIDTHS}
    for name, (row, most) in rows.items():
        print(f"{name:24s}", *(f"{k} {v:.2f}" for k, v in row.items()))
        found[name] = row
        holds = holds and row["ratio"] <= most
    limits = {"first": MOST_FIRST, "again": MOST_AGAIN, "abstract": MOST_ABSTRACT}
    limits |= {"compiled": MOST_COMPILED}
    write_record(args.out, {"claim": {**limits, "holds": holds}} | found, "jax", "flax", "jaxmup")


if __name__ == "__main__":
    main()
