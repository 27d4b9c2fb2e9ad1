"""Claim: `jaxmup.infer` takes under 10 s and 1 GB for a transformer of 70 billion parameters.

The target has the sizes of Llama 3 70B, its 80 blocks unrolled; base and delta have two. Time is
that of the call, in which the program is traced on 4096 tokens and read, memory the peak of the
whole process, Python and JAX included.
"""

import argparse
import math
import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _record import RESULTS, write_record
from flax import nnx

import jaxmup

SECONDS, GIGABYTES = 10.0, 1.0
OUT = RESULTS / "infer_70b.json"
BASE = {"width": 512, "heads": 4, "kv_heads": 2, "d_ff": 1792, "depth": 2}
DELTA = {"width": 1024, "heads": 8, "kv_heads": 4, "d_ff": 3584, "depth": 2}
TARGET = {"width": 8192, "heads": 64, "kv_heads": 8, "d_ff": 28672, "depth": 80}
TOKENS = jax.ShapeDtypeStruct((1, 4096), "int32")


class Block(nnx.Module):
    """Grouped-query attention and a gated MLP, each after a norm."""

    def __init__(self, width: int, heads: int, kv_heads: int, d_ff: int, rngs: nnx.Rngs):
        def linear(n: int, m: int) -> nnx.Linear:
            return nnx.Linear(n, m, use_bias=False, rngs=rngs)

        self.norms = nnx.List([nnx.RMSNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            heads, width, num_kv_heads=kv_heads, use_bias=False, decode=False, rngs=rngs
        )
        self.gate, self.up, self.down = (
            linear(width, d_ff),
            linear(width, d_ff),
            linear(d_ff, width),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attention to all tokens before, then the gated MLP; both add to `x`."""
        x = x + self.attention(self.norms[0](x), mask=nnx.make_causal_mask(jnp.ones(x.shape[:2])))
        h = self.norms[1](x)
        return x + self.down(nnx.silu(self.gate(h)) * self.up(h))


class Transformer(nnx.Module):
    """A language model."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs, **sizes: int):
        self.embed = nnx.Embed(128_256, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs=rngs, **sizes) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.readout = nnx.Linear(width, 128_256, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """The logits of the next tokens."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


def measure() -> dict[str, Any]:
    """Runs `infer` once."""
    start = time.perf_counter()
    specs = jaxmup.infer(Transformer, base=BASE, delta=DELTA, target=TARGET, inputs=TOKENS)
    seconds = time.perf_counter() - start
    parameters = sum(math.prod(spec.shape) for spec in jax.tree.leaves(specs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    return {"seconds": seconds, "peak_bytes": peak, "parameters": parameters}


def main() -> None:
    """Measures, prints and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    measured = measure()
    holds = measured["seconds"] < SECONDS and measured["peak_bytes"] < GIGABYTES * 1e9
    print(f"parameters {measured['parameters'] / 1e9:>7.1f} billion")
    print(f"time       {measured['seconds']:>7.2f} s    claim: under {SECONDS:g} s")
    print(f"memory     {measured['peak_bytes'] / 1e9:>7.2f} GB   claim: under {GIGABYTES:g} GB")
    print("holds" if holds else "FAILS")
    claim = {"seconds": SECONDS, "bytes": GIGABYTES * 1e9}
    write_record(args.out, {**measured, "claim": claim}, "jax", "flax", "jaxmup")


if __name__ == "__main__":
    main()
