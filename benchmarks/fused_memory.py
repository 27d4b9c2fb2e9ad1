"""Claim: fused with the update, the backward pass of a scanned GPT holds one block's gradients.

A GPT of 8, 24 and 48 scanned blocks, width 512, batches of 8 sequences of 64 tokens, Adam, in four
forms: plain, with each block rematerialized, and both of these fused with the update. Measured by
XLA's own analysis of the compiled programs: temporaries, and their growth with depth beyond the
activations. With --time also milliseconds a step in one process, each form beside remat in turns,
and the peak memory of a process of each form; with --torch the same of the model in PyTorch with
`register_post_accumulate_grad_hook` and activation checkpoints, in processes of one thread each.
At 24 blocks, remat + fused takes at most 0.3 of remat's temporaries and 0.1 of plain's, a step at
most 1.05 of remat's time, and less memory and time than PyTorch's.
"""

import argparse
import json
import os
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
import optax
from _record import RESULTS, take_turns, write_record
from flax import nnx

from jaxmup import fused
from jaxmup.fused import Form, memory_report
from jaxmup.models import GPT

OUT = RESULTS / "fused_memory.json"
VOCABULARY, WIDTH, HEADS, BATCH, LENGTH, RATE = 1000, 512, 8, 8, 64, 1e-3
CLAIMS = {"of remat": 0.3, "of plain": 0.1, "time of remat": 1.05}
TOKENS = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
TX = optax.adam(RATE)


def model(blocks: int) -> GPT:
    """The model; its feed-forward layers are gated, of 4 times the width."""
    sizes = {"width": WIDTH, "num_layers": blocks, "num_heads": HEADS, "base_width": WIDTH}
    return GPT(VOCABULARY, **sizes, stacked=True, rngs=nnx.Rngs(0))


def make_step(blocks: int) -> tuple[fused.Step, Any]:
    """The fused step, and the shapes of its parameters."""
    graph, params = nnx.split(nnx.eval_shape(lambda: model(blocks)), nnx.Param)

    def loss(params: Any, tokens: Any) -> Any:
        logits = nnx.merge(graph, params)(tokens)
        labels = jnp.roll(tokens, -1, 1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return fused.value_and_update(loss, TX), params


def report(blocks: int) -> dict[str, Any]:
    """Bytes of each form, and those of one block's parameters."""
    step, params = make_step(blocks)
    found = memory_report(step, params, jax.eval_shape(TX.init, params), TOKENS)
    print(f"{blocks} blocks\n{found}\n", flush=True)
    of_blocks = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params["blocks"]))
    forms = {form: memory._asdict() for form, memory in found.forms.items()}
    return {"blocks": blocks, "bytes_of_a_block": of_blocks // blocks, "forms": forms}


def growth(depths: list[dict[str, Any]], form: str) -> float:
    """Growth of temporaries beyond activations from first to last, in blocks' gradients."""
    sizes = [d["forms"][form]["temporaries"] - d["forms"][form]["activations"] for d in depths]
    return (sizes[-1] - sizes[0]) / depths[0]["bytes_of_a_block"]


def trainer(blocks: int, form: Form) -> Callable[[int], None]:
    """A function that trains one form for a number of steps."""
    step, _ = make_step(blocks)
    params = nnx.state(model(blocks), nnx.Param)
    state = TX.init(params)
    tokens = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, VOCABULARY)
    compiled = jax.jit(fused.in_form(step, form), donate_argnums=(0, 1))

    def train(steps: int) -> None:
        nonlocal params, state
        for _ in range(steps):
            _, params, state = compiled(params, state, tokens)
        jax.block_until_ready(params)

    return train


def compare_times(blocks: int, pairs: int) -> dict[str, Any]:
    """Milliseconds a step of remat + fused beside remat, in turns."""
    forms: tuple[Form, ...] = ("remat", "remat + fused")
    times = take_turns({form: trainer(blocks, form) for form in forms}, pairs, 1)
    remat, ours = times["remat"], times["remat + fused"]
    ratios = [b / a for a, b in zip(remat, ours, strict=True)]
    found = {form: statistics.median(times[form]) for form in forms}
    print(f"{blocks} blocks, ms a step {found}, ratio {statistics.median(ratios):.3f}", flush=True)
    return {
        "blocks": blocks,
        "milliseconds": found,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def train_alone(side: str, blocks: int, steps: int) -> dict[str, float]:
    """Peak memory of this process beyond that before its first array, and milliseconds a step."""
    before = _peak()
    train = torch_trainer(blocks) if side == "torch hook" else trainer(blocks, side)  # type: ignore[arg-type]
    train(1)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        train(1)
        times.append((time.perf_counter() - start) * 1e3)
    return {"peak_bytes": _peak() - before, "milliseconds": statistics.median(times)}


def torch_trainer(blocks: int) -> Callable[[int], None]:
    """The same model in PyTorch: a hook updates each parameter as its gradient appears."""
    import _torch_gpt

    return _torch_gpt.trainer(VOCABULARY, WIDTH, blocks, HEADS, (BATCH, LENGTH), RATE)


def in_processes(sides: list[str], blocks: int, steps: int) -> dict[str, Any]:
    """`train_alone` of each side in a process of its own, on as many threads."""
    found = {}
    for side in sides:
        command = [sys.executable, __file__, "--alone", side, "--blocks", str(blocks)]
        command += ["--steps", str(steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
        found[side] = json.loads(done.stdout.splitlines()[-1])
        print(f"{side:>14} {found[side]}", flush=True)
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measures what is asked for, prints it and adds it to the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="*", default=[8, 24, 48])
    parser.add_argument("--blocks", type=int, default=24, help="of what is timed")
    parser.add_argument("--time", action="store_true", help="take times and peaks of processes")
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch too")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(train_alone(args.alone, args.blocks, args.steps)))
        return

    measured = json.loads(args.out.read_text()) if args.out.exists() else {}
    measured = {key: measured[key] for key in ("memory", "times", "alone") if key in measured}
    if args.depths:
        depths = [report(blocks) for blocks in args.depths]
        grown = {form: growth(depths, form) for form in depths[0]["forms"]}
        print("growth beyond activations, in blocks:", {f: round(g, 2) for f, g in grown.items()})
        measured["memory"] = {"growth": grown, "depths": depths}
    if args.time:
        sides = ["remat", "remat + fused", *(["torch hook"] if args.torch else [])]
        measured["alone"] = in_processes(sides, args.blocks, args.steps)
        measured["times"] = compare_times(args.blocks, args.pairs)
    write_record(args.out, {"claims": CLAIMS, **measured}, "jax", "flax", "optax", "torch")


if __name__ == "__main__":
    main()
