"""Claim: past one device jaxmup costs what flax + optax cost, and a killed run loses nothing.

Parts, each of which replaces its own figures in the record:

- `overhead`: a training step of jaxmup's layers and AdamW beside that of Flax's layers and optax's,
  on 8 host devices under each layout, in turns; the ratio is the median of neighbouring samples.
- `compile`: the step of `examples/train_gpt` compiled ahead of time for TPUs that are not there, by
  the compiler of the package libtpu; without it, nothing is measured.
- `kills`: the example killed at five random moments, its losses byte for byte those of the run that
  nothing disturbed.
- `saves`: the example killed twenty times while Orbax writes a checkpoint.
- `processes`: the example over two processes, of which one is killed; then both are started again.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _record import RESULTS, take_turns, write_record

OUT = RESULTS / "scale.json"
EXAMPLE = Path(__file__).parents[1] / "examples" / "train_gpt"
CLAIM = 1.02
GIB = 2**30

# --- Overhead

LAYOUTS = {  # of the mesh (data, model), and its axes for those of the model
    "data": ((8, 1), {"batch": "data"}),
    "FSDP": ((8, 1), {"batch": "data", "embed": "data"}),
    "tensor": ((1, 8), {"mlp": "model", "vocab": "model"}),
    "2 x 4": ((2, 4), {"batch": "data", "embed": "data", "mlp": "model", "vocab": "model"}),
}
VOCABULARY, WIDTH, BASE, BLOCKS = 512, 256, 64, 4


def overhead() -> dict[str, Any]:
    """Ratios by layout, in a process with the devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    found = {}
    for name, (shape, rules) in LAYOUTS.items():
        mesh = jax.make_mesh(shape, ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
        with jax.set_mesh(mesh):
            sides = {side: trainer(side == "jaxmup", mesh, rules) for side in ("jaxmup", "plain")}
            times = take_turns(sides, pairs=15, steps=10)
        ratios = [a / b for a, b in zip(times["jaxmup"], times["plain"], strict=True)]
        ratio, spread = statistics.median(ratios), statistics.quantiles(ratios, n=4)
        milliseconds = {side: statistics.median(values) for side, values in times.items()}
        found[name] = {"ratio": ratio, "quartiles": spread[::2], "milliseconds": milliseconds}
        print(f"{name}: {ratio:.3f} (claim {CLAIM}), {milliseconds}", flush=True)
    return found


def trainer(ours: bool, mesh: Any, rules: dict[str, str]) -> Callable[[int], None]:
    """A function that trains for a number of steps."""
    import jax
    import numpy as np
    import optax
    from flax import nnx
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import jaxmup

    layers = jaxmup.nnx if ours else nnx

    def based(**bases: int) -> dict[str, int]:
        return bases if ours else {}

    def over(*names: str) -> Any:
        axes = tuple(rules.get(name) for name in names)
        return nnx.with_partitioning(nnx.initializers.lecun_normal(), axes)

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            layer = {"use_bias": False, "rngs": rngs}
            self.norm = layers.RMSNorm(WIDTH, **based(base_num_features=BASE), rngs=rngs)
            bases = based(base_in_features=BASE, base_out_features=4 * BASE)
            up = {"kernel_init": over("embed", "mlp"), **bases}
            self.up = layers.Linear(WIDTH, 4 * WIDTH, **up, **layer)
            bases = based(base_in_features=4 * BASE, base_out_features=BASE)
            down = {"kernel_init": over("mlp", "embed"), **bases}
            self.down = layers.Linear(4 * WIDTH, WIDTH, **down, **layer)

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.down(nnx.gelu(self.up(self.norm(x))))

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            embed = {"embedding_init": over("vocab", "embed"), **based(base_features=BASE)}
            self.embed = layers.Embed(VOCABULARY, WIDTH, **embed, rngs=rngs)
            self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
            readout = {"kernel_init": over("embed", "vocab"), **based(base_in_features=BASE)}
            self.readout = layers.Linear(WIDTH, VOCABULARY, use_bias=False, **readout, rngs=rngs)

        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = self.embed(tokens)
            for block in self.blocks:
                x = block(x)
            return self.readout(x)

    def create() -> tuple[nnx.Module, nnx.Optimizer]:
        model, tx = Model(nnx.Rngs(0)), optax.adamw(1e-3, weight_decay=0.1)
        if ours:
            mup = jaxmup.parametrization("mup", "adam")
            scalings = jaxmup.resolve(jaxmup.nnx.specs(model), mup)
            tx = jaxmup.optim.adamw(1e-3, scalings, weight_decay=0.1)
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    graph, shapes = nnx.split(nnx.eval_shape(create))
    shardings = nnx.get_named_sharding(shapes, mesh)
    state = jax.jit(lambda: nnx.state(create()), out_shardings=shardings)()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (64, 33), np.int32)
    tokens = jax.device_put(tokens, NamedSharding(mesh, P(rules.get("batch"))))

    def step(state: nnx.State) -> nnx.State:
        model, optimizer = nnx.merge(graph, state)

        def loss_fn(model: nnx.Module) -> jax.Array:
            logits, targets = model(tokens[:, :-1]), tokens[:, 1:]
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        optimizer.update(model, nnx.grad(loss_fn)(model))
        return nnx.state((model, optimizer))

    compiled = jax.jit(step, donate_argnums=0, out_shardings=shardings)

    def train(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state)
        jax.block_until_ready(state)

    return train


# --- Compiled ahead of time

SIZES = {  # topology, mesh, model, sequences of 2048 tokens
    "1.2B": ("v5e:4x4", (1, 4, 4), {"width": 2048, "num_layers": 16, "num_heads": 16}, 16),
    "8.9B": ("v5e:16x16", (1, 16, 16), {"width": 4096, "num_layers": 32, "num_heads": 32}, 256),
}
QUIET = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def compile_ahead() -> dict[str, Any] | None:
    """What one chip holds, by size; `None` where there is no compiler for TPUs."""
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        print("compile: not measured, the package libtpu is not installed")
        return None
    os.environ.update(QUIET)
    import jax
    import numpy as np
    from jax.experimental import topologies

    sys.path.insert(0, str(EXAMPLE))
    import program

    jax.config.update("jax_optimization_level", "O0")  # as much memory, in a third of the time
    program.VOCABULARY = 32_768  # of a tokenizer, where the example has bytes
    tiny, found = program.read_config(EXAMPLE / "tiny.toml"), {}
    for name, (topology, shape, sizes, batch) in SIZES.items():
        changed = {"base_width": 256, "context": 2048, "batch_size": batch, "dtype": "bfloat16"}
        entries = vars(tiny) | sizes | changed | {"remat": True}
        config = program.Config(**entries | {"mesh": dict(zip(program.AXES, shape, strict=True))})
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        mesh = program.make_mesh(config, devices)
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            built = program.build(config, mesh)
            tokens = jax.ShapeDtypeStruct((batch, 2048), np.int32, sharding=built.batch)
            memory = built.step.lower(built.like, tokens, tokens).compile().memory_analysis()
        found[name] = {
            "topology": topology,
            "parameters": sum(x.size for x in jax.tree.leaves(built.like[0])),
            "state GiB a chip": memory.argument_size_in_bytes / GIB,
            "peak GiB a chip": memory.peak_memory_in_bytes / GIB,
            "seconds": time.perf_counter() - start,
        }
        print(f"{name}: {found[name]}", flush=True)
    return found


# --- The example, killed


class Runs:
    """Runs of the example with one config in folders of a temporary one."""

    def __init__(self, top: Path, devices: int, **changes: str):
        self.top, self.config = top, top / "config.toml"
        lines = (EXAMPLE / "tiny.toml").read_text().splitlines()
        kept = [line for line in lines if line.partition(" ")[0] not in changes]
        entries = [f"{name} = {value}" for name, value in changes.items()]
        self.config.write_text("\n".join(kept + entries))
        self.environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(top / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, folder: str, *options: object) -> subprocess.Popen:
        """A run in `folder`, from where it was."""
        command = [EXAMPLE / "train.py", self.config, self.top / folder, *options]
        with (self.top / "log").open("a") as log:
            arguments = [sys.executable, *map(str, command)]
            return subprocess.Popen(arguments, stdout=log, stderr=log, env=self.environment)

    def finish(self, folder: str) -> float:
        """Seconds that a run takes to its end."""
        begin = time.perf_counter()
        if self.start(folder).wait():
            raise RuntimeError((self.top / "log").read_text()[-3000:])
        return time.perf_counter() - begin

    def losses(self, folder: str) -> bytes:
        """The record of a run."""
        return (self.top / folder / "loss.csv").read_bytes()

    def steps(self, folder: str) -> int:
        """The number of losses of a run."""
        path = self.top / folder / "loss.csv"
        return len(path.read_text().splitlines()) - 1 if path.exists() else 0

    def saved(self, folder: str) -> list[int]:
        """The steps of the whole checkpoints of a run."""
        return sorted(int(name) for name in self._checkpoints(folder) if name.isdigit())

    def unfinished(self, folder: str) -> set[str]:
        """The names of the checkpoints of a run that are not whole."""
        return {name for name in self._checkpoints(folder) if "tmp" in name}

    def _checkpoints(self, folder: str) -> list[str]:
        path = self.top / folder / "checkpoints"
        return os.listdir(path) if path.exists() else []


@contextlib.contextmanager
def runs(devices: int, **changes: str) -> Iterator[Runs]:
    """Runs whose folders are removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Runs(Path(folder), devices, **changes)


def kills(count: int = 5) -> dict[str, Any]:
    """A run on 8 devices, killed at random steps, beside one that nothing disturbed."""
    rng, resumed = random.Random(0), []
    with runs(8, steps="200", save_every="10", mesh="{ data = 2, fsdp = 2, tensor = 2 }") as ours:
        ours.finish("whole")
        for step in sorted(rng.sample(range(10, 190), count)):
            process = ours.start("killed")
            while process.poll() is None and ours.steps("killed") < step:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            if process.wait() != -signal.SIGKILL:
                raise RuntimeError((ours.top / "log").read_text()[-3000:])
            resumed.append(max(ours.saved("killed"), default=0))
            print(f"killed after step {step}, saved {resumed[-1]}", flush=True)
        ours.finish("killed")
        same = ours.losses("killed") == ours.losses("whole")
    print(f"kills: identical {same}", flush=True)
    return {"steps": 200, "resumed from": resumed, "identical": same}


def saves(count: int = 20) -> dict[str, Any]:
    """Runs that are killed while a checkpoint is unfinished."""
    rng, found, names = random.Random(0), [], ["killed 0"]
    with runs(1, steps="60", save_every="5", width="256") as ours:
        ours.finish("whole")
        while len(found) < count:
            killed = kill_in_a_save(ours, names[-1], rng)
            if killed is None:  # it had come to its end
                names.append(f"killed {len(names)}")
                continue
            found.append(killed)
            print(f"{len(found)}: {killed}", flush=True)
        ours.finish(names[-1])
        same = all(ours.losses(name) == ours.losses("whole") for name in names)
    unfinished = sum(bool(kill["unfinished"]) for kill in found)
    print(f"saves: {unfinished} of {count} left unfinished, identical {same}")
    return {"kills": found, "left unfinished": unfinished, "identical": same}


def kill_in_a_save(ours: Runs, name: str, rng: random.Random) -> dict[str, Any] | None:
    """What a run leaves that is killed in its first or second save; `None` if it ends before."""
    process, wanted, before = ours.start(name), rng.choice([1, 2]), ours.unfinished(name)
    while process.poll() is None:
        now = ours.unfinished(name)
        wanted -= len(now - before)
        before = now
        if wanted <= 0:
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
        time.sleep(0.0005)
    if process.returncode != -signal.SIGKILL:
        return None
    return {"whole": ours.saved(name), "unfinished": sorted(ours.unfinished(name))}


# --- Over two processes


def processes() -> dict[str, Any]:
    """The worker killed and the coordinator killed: what the other does, and how it goes on."""
    changes = {"steps": "100", "save_every": "10", "mesh": "{ data = 1, fsdp = 2, tensor = 2 }"}
    found = {}
    with runs(2, **changes) as ours:
        for process in pair(ours, "whole"):
            process.wait()
        for index, name in enumerate(["coordinator", "worker"]):
            both = pair(ours, name)
            while len(ours.saved(name)) < 2:
                time.sleep(0.01)
            both[index].kill()
            start = time.perf_counter()
            code = both[1 - index].wait()
            seconds = time.perf_counter() - start
            resumed = ours.saved(name)[-1]
            for process in pair(ours, name):
                process.wait()
            same = ours.losses(name) == ours.losses("whole")
            found[f"{name} killed"] = {
                "the other ends after seconds": seconds,
                "with exit code": code,
                "resumed from": resumed,
                "identical": same,
            }
            print(f"{name} killed: {found[f'{name} killed']}", flush=True)
    return found


def pair(ours: Runs, folder: str) -> list[subprocess.Popen]:
    """Both processes of a run, the coordinator first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [ours.start(folder, "--processes", address, 2, index) for index in range(2)]


PARTS = {
    "overhead": overhead,
    "compile": compile_ahead,
    "kills": kills,
    "saves": saves,
    "processes": processes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all where none is named")
    for part in parser.parse_args().parts or PARTS:
        measured = PARTS[part]()
        record = json.loads(OUT.read_text()) if OUT.exists() else {}
        if measured is not None:
            write_record(OUT, {**record, part: measured}, *PACKAGES)


PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "libtpu", "jaxmup")


if __name__ == "__main__":
    main()
