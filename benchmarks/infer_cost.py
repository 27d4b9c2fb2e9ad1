"""Claim: `jaxmup.infer` reads 48 unrolled layers in under 10 s, scanned ones in under 1 s.

And 70 billion parameters (the sizes of Llama 3 70B, 80 unrolled layers) in under 15 s, each in
under 1 GB; and it finds who carries the factor of heads that grow where queries, keys and values
are one tensor, in 48 layers. Every case is a process of its own; time is that of the CPU in the
call, over all threads, whatever else the machine does, and memory the peak of the whole process,
Python and JAX included.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _record import RESULTS, write_record
from flax import linen as nn
from flax import nnx

import jaxmup

OUT = RESULTS / "infer_cost.json"
VOCABULARY = 128_256
TOKENS = jax.ShapeDtypeStruct((1, 16), "int32")
BASE = {"width": 512, "heads": 4, "kv_heads": 2, "d_ff": 1792, "depth": 2}
DELTA = {"width": 1024, "heads": 8, "kv_heads": 4, "d_ff": 3584, "depth": 2}
LARGE = {"width": 8192, "heads": 64, "kv_heads": 8, "d_ff": 28672, "depth": 80}
MIDDLE = {"width": 4096, "heads": 32, "kv_heads": 8, "d_ff": 14336, "depth": 48}


class NnxBlock(nnx.Module):
    """Grouped-query attention and a gated MLP, each after a norm."""

    def __init__(self, width: int, heads: int, kv_heads: int, d_ff: int, rngs: nnx.Rngs):
        def linear(n: int, m: int) -> nnx.Linear:
            return nnx.Linear(n, m, use_bias=False, rngs=rngs)

        self.norms = nnx.List([nnx.RMSNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            heads, width, num_kv_heads=kv_heads, use_bias=False, decode=False, rngs=rngs
        )
        self.gate, self.up = linear(width, d_ff), linear(width, d_ff)
        self.down = linear(d_ff, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class NnxDecoder(nnx.Module):
    """A language model."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs, **sizes: int):
        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(width, rngs=rngs, **sizes) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.readout = nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


class LinenBlock(nn.Module):
    """Attention and a gated MLP, each after a norm."""

    heads: int
    d_ff: int

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        attend = nn.MultiHeadDotProductAttention(self.heads, use_bias=False)
        x = x + attend(nn.RMSNorm()(x))
        y = nn.RMSNorm()(x)
        gate, up = (nn.Dense(self.d_ff, use_bias=False)(y) for _ in range(2))
        return x + nn.Dense(x.shape[-1], use_bias=False)(jax.nn.silu(gate) * up), None


class LinenDecoder(nn.Module):
    """A language model, its blocks scanned over or unrolled."""

    width: int
    heads: int
    kv_heads: int
    d_ff: int
    depth: int
    scanned: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, self.width)(tokens)
        if self.scanned:
            scan = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            blocks = nn.scan(LinenBlock, length=self.depth, **scan)
            x, _ = blocks(self.heads, self.d_ff)(x, None)
        else:
            for _ in range(self.depth):
                x, _ = LinenBlock(self.heads, self.d_ff)(x)
        return nn.Dense(VOCABULARY, use_bias=False)(nn.RMSNorm()(x))


def packed_params(width: int, depth: int) -> dict[str, Any]:
    """Sixteen heads, whose queries, keys and values are one tensor in each of many layers."""
    shapes = {"qkv": (width, 3 * width), "out": (width, width)}
    layers = [{name: jnp.ones(shape) for name, shape in shapes.items()} for _ in range(depth)]
    return {"embed": jnp.ones((1000, width)), "layers": layers, "head": jnp.ones((width, 1000))}


def packed(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """A decoder of attention alone."""
    x = params["embed"][tokens]
    for layer in params["layers"]:
        y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        q, k, v = jnp.split((y @ layer["qkv"]).reshape(*x.shape[:2], 16, -1), 3, -1)
        logits = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
        x = x + mixed.reshape(x.shape) @ layer["out"]
    return x @ params["head"]


def infer_linen(scanned: bool) -> Any:
    """Specs of the Linen model of 48 layers."""
    sizes = {"base": {**BASE, "depth": 48}, "delta": {**DELTA, "depth": 48}, "target": MIDDLE}
    return jaxmup.infer(
        lambda **size: LinenDecoder(**size, scanned=scanned), **sizes, inputs=TOKENS
    )


def infer_packed() -> Any:
    """Specs of the packed model; its tensors carry a quarter of the exponent each way."""
    sizes = {
        name: {"width": n, "depth": 48} for name, n in zip(NAMES, (256, 512, 4096), strict=True)
    }
    specs = jaxmup.infer(packed_params, **sizes, inputs=TOKENS, apply=packed)
    gains = {spec["qkv"].forward_gain for spec in specs["layers"]}
    assert all(math.isclose(gain, 16**-0.25) for gain in gains), gains
    return specs


NAMES = ("base", "delta", "target")
NNX = {"base": BASE, "delta": DELTA}
ALL = {"base": {**BASE, "depth": 48}, "delta": {**DELTA, "depth": 48}}
CASES = {  # seconds, and what is called
    "48 layers, NNX": (10.0, lambda: jaxmup.infer(NnxDecoder, **ALL, target=MIDDLE, inputs=TOKENS)),
    "48 layers, Linen": (10.0, lambda: infer_linen(False)),
    "48 layers, Linen, scanned": (1.0, lambda: infer_linen(True)),
    "48 layers, packed": (10.0, infer_packed),
    "70 billion": (15.0, lambda: jaxmup.infer(NnxDecoder, **NNX, target=LARGE, inputs=TOKENS)),
}
GIGABYTES = 1.0


def measure(name: str) -> dict[str, Any]:
    """Runs a case once, with all that it imports there before."""
    _ = jaxmup.infer
    start = time.process_time()
    specs = CASES[name][1]()
    seconds = time.process_time() - start
    parameters = sum(math.prod(spec.shape) for spec in jax.tree.leaves(specs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    return {"seconds": seconds, "peak_bytes": peak, "parameters": parameters}


def main() -> None:
    """Measures each case in a process of its own, prints and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--case", choices=CASES, help="measure it here and print the record")
    args = parser.parse_args()
    if args.case is not None:
        print(json.dumps(measure(args.case)))
        return
    record = {}
    for name, (seconds, _) in CASES.items():
        run = [sys.executable, __file__, "--case", name]
        measured = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)
        holds = measured["seconds"] < seconds and measured["peak_bytes"] < GIGABYTES * 1e9
        record[name] = {**measured, "claim": seconds, "holds": holds}
        print(
            f"{name:26} {measured['seconds']:6.2f} s of {seconds:4g}, "
            f"{measured['peak_bytes'] / 1e9:5.2f} GB of {GIGABYTES:g}, "
            f"{measured['parameters'] / 1e9:5.1f} billion: {'holds' if holds else 'FAILS'}"
        )
    write_record(args.out, {"cases": record, "claim_gigabytes": GIGABYTES}, "jax", "flax", "jaxmup")


if __name__ == "__main__":
    main()
