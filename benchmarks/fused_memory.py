"""Claim: fused with the update, the backward pass of a scanned GPT holds one block's gradients.

A GPT of 8, 24 and 48 scanned blocks, width 512, batches of 8 sequences of 64 tokens, Adam, in four
forms: plain, with each block rematerialized, and both of these fused with the update. Measured by
XLA's own analysis of the compiled programs: temporaries, and their growth with depth beyond the
activations. At 24 blocks, remat + fused takes at most 0.3 of the temporaries of remat, and 0.1 of
those of plain.

With --time, pairs of forms train in processes of their own, on as many threads, and take turns step
by step: medians of the ratios of wall time, of CPU time (which other work on the machine disturbs
least, with --threads 1) and of peak memory. remat + fused takes at most 1.05 of remat's time, and
less time and memory than PyTorch's model with `register_post_accumulate_grad_hook`, its fused Adam
and checkpoints. Without those, PyTorch's is beside our form that keeps everything, and beside the
form that keeps what matrix products give: `jax.checkpoint_policies.dots_saveable`.
"""

import argparse
import dataclasses
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
from _record import RESULTS, write_record
from flax import nnx

from jaxmup import fused
from jaxmup._program import ClosedJaxpr, as_function
from jaxmup.fused import memory_report
from jaxmup.models import GPT

OUT = RESULTS / "fused_memory.json"
VOCABULARY, WIDTH, HEADS, BATCH, LENGTH, RATE = 1000, 512, 8, 8, 64, 1e-3
CLAIMS = {"of remat": 0.3, "of plain": 0.1, "time of remat": 1.05, "of PyTorch": 1.0}
PAIRS = (
    ("remat + fused", "remat"),
    ("remat + fused", "remat + hook"),
    ("dots + fused", "hook"),
    ("fused", "hook"),
)
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


def dots_kept(step: fused.Step) -> fused.Step:
    """The fused step that keeps what matrix products give, and computes all else again."""

    def block(body: ClosedJaxpr) -> Callable[..., Any]:
        keep = jax.checkpoint_policies.dots_saveable
        return jax.checkpoint(as_function(body), policy=keep, prevent_cse=False)

    return dataclasses.replace(step, block=block)


def trainer(blocks: int, form: str) -> Callable[[int], None]:
    """A function that trains one form for a number of steps."""
    step, _ = make_step(blocks)
    params = nnx.state(model(blocks), nnx.Param)
    state = TX.init(params)
    tokens = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, VOCABULARY)
    function = dots_kept(step) if form == "dots + fused" else fused.in_form(step, form)  # type: ignore[arg-type]
    compiled = jax.jit(function, donate_argnums=(0, 1))

    def train(steps: int) -> None:
        nonlocal params, state
        for _ in range(steps):
            _, params, state = compiled(params, state, tokens)
        jax.block_until_ready(params)

    return train


def torch_trainer(blocks: int, form: str) -> Callable[[int], None]:
    """The same model in PyTorch: a hook updates each parameter as its gradient appears."""
    import _torch_gpt

    sizes = (VOCABULARY, WIDTH, blocks, HEADS)
    return _torch_gpt.trainer(*sizes, form == "remat + hook", (BATCH, LENGTH), RATE)


def work(form: Any, blocks: int, threads: int) -> None:
    """Trains one step for each line that comes in, and says what it took, and its peak at last.

    The peak is that of this process beyond what it was before its first array.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    before = _peak()
    train = torch_trainer(blocks, form) if form.endswith("hook") else trainer(blocks, form)
    train(2)  # compiles and warms up
    print("{}", flush=True)
    for _ in sys.stdin:
        start, start_cpu = time.perf_counter(), time.process_time()
        train(1)
        seconds = time.perf_counter() - start, time.process_time() - start_cpu
        took = {"milliseconds": seconds[0] * 1e3, "cpu_milliseconds": seconds[1] * 1e3}
        print(json.dumps(took | {"peak_bytes": _peak() - before}), flush=True)


class Worker:
    """A process that trains one form, a step whenever it is told."""

    def __init__(self, form: str, blocks: int, threads: int):
        command = [sys.executable, __file__, "--alone", form, "--blocks", str(blocks)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        self._answer()

    def step(self) -> dict[str, float]:
        """Milliseconds of a step and the peak memory until now."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def _answer(self) -> dict[str, float]:
        return json.loads(self.process.stdout.readline())  # type: ignore[union-attr]


def compare(ours: str, theirs: str, blocks: int, steps: int, threads: int) -> dict[str, Any]:
    """Two forms in processes of their own that take turns: medians, and medians of ratios."""
    workers = {form: Worker(form, blocks, threads) for form in (ours, theirs)}
    rows: dict[str, list[dict[str, float]]] = {ours: [], theirs: []}
    for turn in range(steps):
        for form in (ours, theirs) if turn % 2 else (theirs, ours):
            rows[form].append(workers[form].step())
    for worker in workers.values():
        worker.process.communicate()  # the end of its input is its end
    names = ("milliseconds", "cpu_milliseconds", "peak_bytes")
    found: dict[str, Any] = {"blocks": blocks, "threads": threads, "ratio": {}, "quartiles": {}}
    for name in names:
        ratios = [a[name] / b[name] for a, b in zip(rows[ours], rows[theirs], strict=True)]
        found["ratio"][name] = statistics.median(ratios)
        found["quartiles"][name] = statistics.quantiles(ratios, n=4)[::2]
    for form in (ours, theirs):
        found[form] = {name: statistics.median(row[name] for row in rows[form]) for name in names}
    ratios = ", ".join(f"{name} {found['ratio'][name]:.3f}" for name in names)
    print(f"{ours} of {theirs}, {threads} threads: {ratios}", flush=True)
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measures what is asked for, prints it and adds it to the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="*", default=[8, 24, 48])
    parser.add_argument("--blocks", type=int, default=24, help="of what is timed")
    parser.add_argument("--time", action="store_true", help="compare times and peaks")
    parser.add_argument("--threads", type=int, default=2, help="of each process that is timed")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.alone:
        work(args.alone, args.blocks, args.threads)
        return

    measured = json.loads(args.out.read_text()) if args.out.exists() else {}
    measured = {key: measured[key] for key in ("memory", "times") if key in measured}
    if args.depths:
        depths = [report(blocks) for blocks in args.depths]
        grown = {form: growth(depths, form) for form in depths[0]["forms"]}
        print("growth beyond activations, in blocks:", {f: round(g, 2) for f, g in grown.items()})
        measured["memory"] = {"growth": grown, "depths": depths}
    if args.time:
        measured.setdefault("times", {})[f"{args.threads} threads"] = {
            f"{ours} of {theirs}": compare(ours, theirs, args.blocks, args.steps, args.threads)
            for ours, theirs in PAIRS
        }
    write_record(args.out, {"claims": CLAIMS, **measured}, "jax", "flax", "optax", "torch")


if __name__ == "__main__":
    main()
