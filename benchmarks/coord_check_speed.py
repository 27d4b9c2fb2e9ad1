"""Claim: a coordinate check of a GPT is no slower than microsoft/mup's, compilation counted.

Three sides, each in a fresh process, in turn: jaxmup with an empty and then with a warm compilation
cache, and `mup.coord_check.get_coord_data` on the equivalent PyTorch model (pip install mup torch;
without them that side is left out). Beside it, in one process and compiled: what the records add to
a plain training run of the same steps and seeds.

Claims: cold at most 1 x mup, warm at most 1/3 x mup, records at most 1.5 x the plain run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
        print(
            json.dumps(
                {"jaxmup": jaxmup_side, "mup": mup_side, "records": records}[args.side](args)
            )
        )
        return
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "mup": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            seconds["cold"].append(in_process(args, "jaxmup", sys.executable, cache))
            seconds["warm"].append(in_process(args, "jaxmup", sys.executable, cache))
        if has_mup(args.mup_python):
            seconds["mup"].append(in_process(args, "mup", args.mup_python))
        else:
            print(f"mup is missing: {args.mup_python} cannot import mup and torch. Side left out.")
    best = {side: min(values) for side, values in seconds.items() if values}
    ratio = in_process(args, "records", sys.executable)
    holds = {"records at most 1.5 x a plain run": ratio <= 1.5}
    if "mup" in best:
        holds["cold at most 1 x mup"] = best["cold"] <= best["mup"]
        holds["warm at most 1/3 x mup"] = best["warm"] <= best["mup"] / 3
    options = {k: v for k, v in vars(args).items() if k not in ("out", "side", "mup_python")}
    measured = {"options": options, "seconds": seconds, "records": ratio, "holds": holds}
    print(json.dumps(measured, indent=1))
    write_record(args.out, measured, "jax", "flax", "optax", "jaxmup", "torch", "mup")


def has_mup(python: str) -> bool:
    code = "import mup.coord_check, torch"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def in_process(args: argparse.Namespace, side: str, python: str, cache: str = "") -> float:
    """The number that a side prints, from a fresh process; imports are not counted."""
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


def jaxmup_side(args: argparse.Namespace) -> float:
    from jaxmup.coord_check import coord_check

    batch = tokens(args).astype("int32")
    begin = time.perf_counter()
    data = batch[:, :-1], batch[:, 1:]
    coord_check(make_gpt(args), args.widths, data, adam, seeds=args.seeds, steps=args.steps)
    return time.perf_counter() - begin


def records(args: argparse.Namespace) -> float:
    """Time of the compiled runs of all widths with records, over that without."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxmup.coord_check import _check, _measure, _subject

    batch = tokens(args).astype("int32")
    data = batch[:, :-1], batch[:, 1:]
    seeds = jnp.arange(args.seeds, dtype=jnp.uint32)
    family = _subject.Family(make_gpt(args), tuple(args.widths), data[0])
    sides: dict[str, list[Any]] = {"recorded": [], "plain": []}
    for subject in family.subjects():
        tx = adam(subject.scalings)
        training = _measure.Training(
            tx, _check.default_loss, args.steps, tuple(range(args.seeds)), True
        )

        def plain(seeds: Any, data: Any, subject: Any = subject, tx: Any = tx) -> Any:
            def train(params: Any, rest: Any) -> Any:
                def step(carry: Any, _: Any) -> Any:
                    params, rest, state = carry

                    def loss(params: Any) -> Any:
                        outputs, new = subject.forward(params, rest, data[0])
                        return _check.default_loss(outputs, data[1]), new

                    (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params)
                    updates, state = tx.update(gradients, state, params)
                    return (optax.apply_updates(params, updates), rest, state), value

                return jax.lax.scan(step, (params, rest, tx.init(params)), length=args.steps)[1]

            keys = lambda seed: subject.draw(jax.random.key(seed, impl="unsafe_rbg"))  # noqa: E731
            return jax.lax.map(lambda seed: train(*keys(seed)), seeds)

        def recorded(
            seeds: Any, data: Any, subject: Any = subject, training: Any = training
        ) -> Any:
            return _measure._run(subject, training, False, seeds, data)

        for name, run in (("recorded", recorded), ("plain", plain)):
            sides[name].append(jax.jit(run).lower(seeds, data).compile())

    def run_all(name: str) -> Any:
        def run(steps: int) -> None:
            for _ in range(steps):
                jax.block_until_ready([one(seeds, data) for one in sides[name]])

        return run

    times = take_turns({name: run_all(name) for name in sides}, pairs=3, steps=1)
    return min(times["recorded"]) / min(times["plain"])


def mup_side(args: argparse.Namespace) -> float:
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
    begin = time.perf_counter()
    get_coord_data(
        models, loader, mup=True, optimizer="adam", lr=RATE, nsteps=args.steps,
        nseeds=args.seeds, cuda=False, show_progress=False,
    )  # fmt: skip
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
