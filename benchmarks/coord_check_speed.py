"""Claim: a coordinate check of a GPT is no slower than microsoft/mup's, compilation counted.

Three sides, each in a fresh process, in turn: jaxmup with an empty and then with a warm compilation
cache, and `mup.coord_check.get_coord_data` on the equivalent PyTorch model (pip install mup torch;
without them that side is left out). Beside it, in one process and compiled: what the records add to
a plain training run of the same steps and seeds, and what XLA takes to compile either.

Processor time stands beside the seconds, since it is what a shared machine leaves alone; on one,
give torch one thread, for two wait for each other.

Claims: cold at most 1 x mup, warm at most 1/3 x mup, records at most 1.5 x the plain run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _record import RESULTS, take_turns, write_record

OUT = RESULTS / "coord_check_speed.json"
VOCABULARY, HEADS, RATE = 64, 4, 2**-8


def main() -> None:
    """Measures every side and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--mup-python", default=sys.executable, help="one that has mup and torch")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=["jaxmup", "mup", "records"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.side:
        sides = {"jaxmup": jaxmup_side, "mup": mup_side, "records": records_side}
        print(json.dumps(sides[args.side](args)))
        return
    seconds: dict[str, list[dict[str, float]]] = {"cold": [], "warm": [], "mup": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            seconds["cold"].append(in_process(args, "jaxmup", sys.executable, cache))
            seconds["warm"].append(in_process(args, "jaxmup", sys.executable, cache))
        if has_mup(args.mup_python):
            seconds["mup"].append(in_process(args, "mup", args.mup_python))
        else:
            print(f"mup is missing: {args.mup_python} cannot import mup and torch. Side left out.")
    records = in_process(args, "records", sys.executable)
    best = {
        clock: {side: min(one[clock] for one in some) for side, some in seconds.items() if some}
        for clock in ("seconds", "processor")
    }
    holds = {"records at most 1.5 x a plain run": records["run"] <= 1.5}
    if seconds["mup"]:
        for clock, of in best.items():
            holds[f"cold at most 1 x mup, {clock}"] = of["cold"] <= of["mup"]
            holds[f"warm at most 1/3 x mup, {clock}"] = of["warm"] <= of["mup"] / 3
    options = {k: v for k, v in vars(args).items() if k not in ("out", "side", "mup_python")}
    measured = {"options": options, "sides": seconds, "records": records, "holds": holds}
    print(json.dumps(measured, indent=1))
    write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


def has_mup(python: str) -> bool:
    code = "import mup.coord_check, torch"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def in_process(
    args: argparse.Namespace, side: str, python: str, cache: str = ""
) -> dict[str, float]:
    """The numbers that a side prints, from a fresh process; imports are not counted."""
    options = [f"--{k}={getattr(args, k)}" for k in
               ("seeds", "steps", "layers", "batch", "length", "threads")]  # fmt: skip
    widths = ["--widths", *map(str, args.widths)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [python, __file__, "--side", side, *options, *widths],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def tokens(args: argparse.Namespace) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, VOCABULARY, (args.batch, args.length + 1))


def make_gpt(args: argparse.Namespace) -> Any:
    from jaxmup.models.gpt import GPT

    def make(width: int, rngs: Any) -> Any:
        return GPT(
            VOCABULARY, width=width, num_layers=args.layers, num_heads=HEADS, stacked=True,
            base_width=args.widths[0], feed_forward="plain", norm="layer", positions="learned",
            context=args.length, rngs=rngs,
        )  # fmt: skip

    return make


def adam(scalings: Any) -> Any:
    import jaxmup

    return jaxmup.optim.adam(RATE, scalings)


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """What it takes, on the clock and of all processors."""
    begin, used = time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - begin, time.process_time() - used
    return {"seconds": round(seconds, 2), "processor": round(processor, 2)}


def jaxmup_side(args: argparse.Namespace) -> dict[str, float]:
    from jaxmup.coord_check import coord_check

    batch = tokens(args).astype("int32")
    data = batch[:, :-1], batch[:, 1:]
    options = {"seeds": args.seeds, "steps": args.steps}
    return timed(lambda: coord_check(make_gpt(args), args.widths, data, adam, **options))


def records_side(args: argparse.Namespace) -> dict[str, float]:
    """Of all widths: the time of runs with records over that without, and of compiling either."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxmup._model import Model
    from jaxmup.coord_check import _batches, _coord_check, _subject, _training

    batch = tokens(args).astype("int32")
    data = batch[:, :-1], batch[:, 1:]
    seeds = jnp.arange(args.seeds, dtype=jnp.uint32)
    model = Model(make_gpt(args), inputs=data[0])
    batches = _batches.batches_of(data, args.steps)
    data = batches.arrays
    sides: dict[str, list[Any]] = {"recorded": [], "plain": []}
    compiling = {"recorded": 0.0, "plain": 0.0}
    for subject in _subject.subjects(model, args.widths, batches.static):
        tx = adam(subject.scalings)
        training = _training.Training(
            tx, _coord_check.default_loss, args.steps, tuple(range(args.seeds)), True
        )

        def plain(seeds: Any, data: Any, subject: Any = subject, tx: Any = tx) -> Any:
            def train(params: Any, rest: Any) -> Any:
                def step(carry: Any, _: Any) -> Any:
                    params, rest, state = carry

                    def loss(params: Any) -> Any:
                        outputs, new = subject.forward(params, rest, data[0])
                        return _coord_check.default_loss(outputs, data[1]), new

                    (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params)
                    updates, state = tx.update(gradients, state, params)
                    return (optax.apply_updates(params, updates), rest, state), value

                return jax.lax.scan(step, (params, rest, tx.init(params)), length=args.steps)[1]

            keys = lambda seed: subject.draw(jax.random.key(seed, impl="unsafe_rbg"))  # noqa: E731
            return jax.lax.map(lambda seed: train(*keys(seed)), seeds)

        def recorded(
            seeds: Any, data: Any, subject: Any = subject, training: Any = training
        ) -> Any:
            return _training.run_seeds(subject, training, False, seeds, data)

        for name, run in (("recorded", recorded), ("plain", plain)):
            used = time.process_time()
            sides[name].append(jax.jit(run).lower(seeds, data).compile())
            compiling[name] += time.process_time() - used

    def run_all(name: str) -> Any:
        def run(steps: int) -> None:
            for _ in range(steps):
                jax.block_until_ready([one(seeds, data) for one in sides[name]])

        return run

    times = take_turns({name: run_all(name) for name in sides}, pairs=3, steps=1)
    return {
        "run": round(min(times["recorded"]) / min(times["plain"]), 3),
        "plain run, seconds": round(min(times["plain"]) / 1e3, 2),
        **{f"{name}, processor time to compile": round(t, 1) for name, t in compiling.items()},
    }


def mup_side(args: argparse.Namespace) -> dict[str, float]:
    import mup
    import torch
    from mup.coord_check import get_coord_data
    from torch import nn

    torch.set_num_threads(args.threads)

    class Block(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
            self.qkv = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(3)])
            self.out = nn.Linear(width, width, bias=False)
            self.up = nn.Linear(width, 4 * width, bias=False)
            self.down = nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            y = self.norms[0](x)
            q, k, v = (layer(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in self.qkv)
            scale = (args.widths[0] / HEADS) ** 0.5 / q.shape[-1]
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Embedding(args.length, width)
            self.blocks = nn.ModuleList([Block(width) for _ in range(args.layers)])
            self.norm = nn.LayerNorm(width)
            self.readout = mup.MuReadout(width, VOCABULARY, bias=False)

        def forward(self, x: Any) -> Any:
            x = self.embed(x) + self.positions(torch.arange(x.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.readout(self.norm(x)).flatten(0, 1)

    def model(width: int) -> Any:
        def make() -> Any:
            made = Model(width)
            mup.set_base_shapes(made, Model(args.widths[0]), delta=Model(2 * args.widths[0]))
            for name, parameter in made.named_parameters():
                if parameter.ndim == 2:
                    mup.init.normal_(parameter, std=0.02 if "embed" in name else width**-0.5)
            return made

        return make

    batch = torch.as_tensor(tokens(args))
    loader = [(batch[:, :-1], batch[:, 1:].flatten())]
    models = {width: model(width) for width in args.widths}
    options = {"optimizer": "adam", "lr": RATE, "nsteps": args.steps, "nseeds": args.seeds}
    options |= {"mup": True, "cuda": False, "show_progress": False}
    return timed(lambda: get_coord_data(models, loader, **options))


if __name__ == "__main__":
    main()
