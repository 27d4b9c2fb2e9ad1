"""Trains a GPT, and goes on where it was stopped: `python train.py CONFIG FOLDER`."""

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils
from matplotlib.figure import Figure
from program import Config, Program, build, make_mesh, put_batch, read_config
from rich.progress import Progress, TextColumn

import jaxmup

MAY_CHANGE = {"mesh", "save_every"}  # all else makes it another run
LOG_EVERY = 10


def train(config: Config, folder: Path, source: Path | None = None) -> None:
    """Trains from the last checkpoint of the folder, or else of `source`, or from the start."""
    text = jaxmup.data.text(config.text or None).train
    facts = dataclasses.asdict(config) | {"sha256 of the text": hashlib.sha256(text).hexdigest()}
    mesh, writes = make_mesh(config), jax.process_index() == 0
    with jax.set_mesh(mesh), locked(folder) if writes else contextlib.nullcontext():
        program = build(config, mesh)
        if writes:
            begin(folder, facts, program)
        same = np.frombuffer(hashlib.sha256(json.dumps(facts).encode()).digest(), np.uint8)
        multihost_utils.assert_equal(same, "Config and text must be the same in all processes.")
        jaxmup.manifest.check(folder / "manifest.json", program.specs, program.parametrization)
        with checkpoints_of(folder) as checkpoints:
            start = checkpoints.latest_step()
            if start is not None:
                state = restore(checkpoints, program)
            elif source is not None:
                start, state = moved(source, facts, config, program)
                save(checkpoints, start, state)
            else:
                start, state = 0, program.init()
            losses = Losses(folder, start, source) if writes else None
            loop(config, program, text, start, state, checkpoints, losses)
    if writes:
        plot(folder)


def loop(
    config: Config,
    program: Program,
    text: np.ndarray,
    start: int,
    state: nnx.State,
    checkpoints: ocp.CheckpointManager,
    losses: "Losses | None",
) -> None:
    """Steps, what is seen of them, and checkpoints, each after the losses that led to it."""
    batches = (put_batch(config, text, i, program.batch) for i in range(start, config.steps))
    waiting, since = [], time.perf_counter()
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, disable=losses is None) as progress:
        task = progress.add_task("", total=config.steps, completed=start, said="compiles")
        for done, batch in enumerate(batches, start + 1):
            state, loss = program.step(state, *batch)
            waiting.append(loss)
            saves = done % config.save_every == 0 or done == config.steps
            if saves or done % LOG_EVERY == 0:
                values = jax.device_get(waiting)
                tokens = len(waiting) * config.batch_size * config.context
                said = (
                    f"loss {values[-1]:.3f}, {tokens / (time.perf_counter() - since):,.0f} tokens/s"
                )
                progress.update(task, completed=done, said=said)
                waiting, since = [], time.perf_counter()
                if losses:
                    losses.append(values)
            if saves:
                save(checkpoints, done, state)


# --- What a folder holds: config.json, manifest.json, checkpoints/, loss.csv and its plot


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuses a second job in the folder; the system takes a lock back however its job ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"Another job trains in {folder}.") from None
        yield


def begin(folder: Path, facts: dict[str, Any], program: Program) -> None:
    """Notes what a new folder is for; refuses another run in an old one."""
    if not (folder / "config.json").exists():
        jaxmup.manifest.write(folder / "manifest.json", program.specs, program.parametrization)
        write(folder / "config.json", json.dumps(facts, indent=1))
    require_same(folder, facts, MAY_CHANGE)


def require_same(folder: Path, facts: dict[str, Any], but: set[str]) -> dict[str, Any]:
    """What the folder was begun with; a `ValueError` that names what differs now."""
    kept = json.loads((folder / "config.json").read_text())
    different = [
        f"\n  {name}: {kept.get(name)!r} in the folder, {facts.get(name)!r} now"
        for name in kept | facts
        if name not in but and kept.get(name) != facts.get(name)
    ]
    if different:
        raise ValueError(f"{folder} holds another run. They differ at{''.join(different)}")
    return kept


def write(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


def checkpoints_of(folder: Path) -> ocp.CheckpointManager:
    """Orbax's manager: it writes beside the training, and what is not whole is no checkpoint."""
    options = ocp.CheckpointManagerOptions(max_to_keep=3)
    return ocp.CheckpointManager(folder.resolve() / "checkpoints", options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, state: nnx.State) -> None:
    """Begins to write a checkpoint: the model apart, so that it can be read without the rest."""
    parts = {"model": state[0], "optimizer": state[1]}
    items = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
    checkpoints.save(step, args=ocp.args.Composite(**items))


def restore(checkpoints: ocp.CheckpointManager, program: Program) -> nnx.State:
    """The state of the last checkpoint, laid out for the program, whatever mesh wrote it."""
    parts = {"model": program.like[0], "optimizer": program.like[1]}
    items = {name: ocp.args.StandardRestore(part) for name, part in parts.items()}
    found = checkpoints.restore(checkpoints.latest_step(), args=ocp.args.Composite(**items))
    return nnx.State({0: found["model"], 1: found["optimizer"]})


def moved(
    source: Path, facts: dict[str, Any], config: Config, program: Program
) -> tuple[int, nnx.State]:
    """Step and state of the last checkpoint of a run in any gauge, in that of `program`."""
    kept = require_same(source, facts, {*MAY_CHANGE, "gauge"})
    old = build(dataclasses.replace(config, gauge=kept["gauge"]), program.batch.mesh)
    jaxmup.manifest.check(source / "manifest.json", old.specs, old.parametrization)
    with checkpoints_of(source) as checkpoints:
        start, state = checkpoints.latest_step(), restore(checkpoints, old)
    model, optimizer = nnx.merge(old.graph, state)
    gauges = old.parametrization, program.parametrization
    run = jaxmup.gauge.regauge_run(model, optimizer.opt_state, *gauges)
    optimizer.opt_state = run.opt_state
    leaves = jax.tree.leaves(nnx.state((run.params, optimizer)))
    return start, jax.tree.unflatten(jax.tree.structure(program.like), leaves)


class Losses:
    """The loss of every step in a file; what was written after the checkpoint is written again."""

    def __init__(self, folder: Path, start: int, source: Path | None):
        self.path, self.step = folder / "loss.csv", start
        old = next(
            (f / "loss.csv" for f in (folder, source) if f and (f / "loss.csv").exists()), None
        )
        lines = old.read_text().splitlines()[1:] if old else []
        if len(lines) < start:
            raise ValueError(
                f"{old} must have the {start} losses before the checkpoint. Got {len(lines)}."
            )
        write(self.path, "\n".join(["step,loss", *lines[:start], ""]))

    def append(self, values: list[np.ndarray]) -> None:
        """Adds the losses of the next steps, on the disk when it returns."""
        with self.path.open("a") as file:
            file.writelines(f"{i},{float(v)!r}\n" for i, v in enumerate(values, self.step))
            file.flush()
            os.fsync(file.fileno())
        self.step += len(values)


def plot(folder: Path) -> None:
    """Draws the loss of every step into `loss.png`."""
    steps, losses = np.loadtxt(folder / "loss.csv", delimiter=",", skiprows=1, unpack=True)
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses)
    axes.set(xlabel="step", ylabel="loss (nats per byte)")
    figure.savefig(folder / "loss.png", dpi=150)


def join(processes: list[str]) -> None:
    """Makes this process one of several."""
    address, count, index = processes or [None] * 3  # what is None, JAX asks the cluster
    jax.distributed.initialize(
        address,
        count and int(count),
        index and int(index),
        coordinator_bind_address=address,
        heartbeat_timeout_seconds=10,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a TOML file")
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("--from", dest="source", type=Path, help="folder of a run to go on from")
    parser.add_argument(
        "--processes",
        nargs="*",
        metavar="ADDRESS COUNT INDEX",
        help="this is one of several processes; without values JAX finds them on the cluster",
    )
    args = parser.parse_args()
    if args.processes is not None:
        join(args.processes)
    try:
        train(read_config(args.config), args.folder, args.source)
    except Exception:
        if args.processes is None:
            raise
        traceback.print_exc()
        os._exit(1)  # at exit JAX would wait for the processes that are gone


if __name__ == "__main__":
    main()
