"""Claim: a command that is killed or terminated at any moment loses nothing and leaves nothing.

A small `jaxmup transfer` is run once undisturbed. Then it is run in an empty directory, its process
group gets SIGKILL at a random moment, and the same command is given again, until it ends; and so on
in further directories until it was killed 20 times. The record and the trials must be those of the
undisturbed run, byte for byte. The same with SIGTERM.

A `jaxmup convert` of 128 MiB gets each signal at 20 random moments over a file that is there. What
is there must always be the old file or the new one, whole, with nothing beside it.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _record import RESULTS, write_record

from jaxmup import bridge

FILES = ("transfer.json", "trials.jsonl")
TRANSFER = "transfer --width 16,32,48 --depth 1 --steps 10 --batch-size 64 --seeds 1 "
TRANSFER += "--log2-range -8:-5:0.5 --out"
CONVERT = "convert source.safetensors out.safetensors --to flax --model kill_model:make --size 2048"
MODEL = """
from flax import nnx
def make(n): return nnx.Sequential(*[nnx.Linear(n, n, rngs=nnx.Rngs(0)) for _ in range(8)])
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Starts a command in a process group of its own."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "jaxmup", *command],
        cwd=folder,
        env=environment,
        start_new_session=True,
        **quiet,
    )


def finish(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Runs a command to its end; returns how many seconds it took."""
    begin = time.perf_counter()
    process = start(command, folder, environment)
    errors = process.communicate()[1]
    if process.returncode != 0:
        raise RuntimeError(errors.decode())
    return time.perf_counter() - begin


def kill_after(
    seconds: float,
    by: signal.Signals,
    command: list[str],
    folder: Path,
    environment: dict[str, str],
) -> bool:
    """Starts a command and sends a signal after some time; returns whether it ended it."""
    process = start(command, folder, environment)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, by)
        process.wait()
    return process.returncode == -by


def trials_in(out: Path) -> int:
    """The number of trials on disk."""
    path = out / "trials.jsonl"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def same(one: Path, other: Path) -> bool:
    """True if two sweeps ended with the same bytes."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def kill_until_done(
    out: Path,
    seconds: float,
    moments: random.Random,
    most: int,
    by: signal.Signals,
    environment: dict[str, str],
) -> list[dict[str, Any]]:
    """Kills a sweep and starts it again until it ends, or has been killed `most` times."""
    command = [*TRANSFER.split(), str(out)]
    kills: list[dict[str, Any]] = []
    while len(kills) < most:
        after = moments.uniform(0.3, 1) * seconds
        if not kill_after(after, by, command, out.parent, environment):
            break
        kills.append({"after": round(after, 2), "trials": trials_in(out)})
        print(f"{by.name} after {after:.1f} s with {trials_in(out)} trials", flush=True)
    finish(command, out.parent, environment)
    return kills


def sweeps_of(
    by: signal.Signals, kills: int, undisturbed: Path, seconds: float, environment: dict[str, str]
) -> list[dict[str, Any]]:
    """Sweeps that were killed by one signal, until it was sent `kills` times."""
    moments = random.Random(0)
    sweeps: list[dict[str, Any]] = []
    while (left := kills - sum(len(sweep["kills"]) for sweep in sweeps)) > 0:
        out = undisturbed.parent / f"{by.name}-{len(sweeps)}"
        found = kill_until_done(out, seconds, moments, left, by, environment)
        names = sorted(path.name for path in undisturbed.iterdir())
        nothing_more = sorted(path.name for path in out.iterdir()) == names
        identical = same(undisturbed, out)
        sweeps.append({"kills": found, "identical": identical, "nothing_more": nothing_more})
        print(f"ended, identical: {identical}, nothing more: {nothing_more}", flush=True)
    return sweeps


def conversions_of(
    by: signal.Signals, kills: int, folder: Path, seconds: float, environment: dict[str, str]
) -> dict[str, Any]:
    """Conversions that were killed by one signal at random moments of the second half."""
    moments = random.Random(1)
    out = folder / "out.safetensors"
    new = out.read_bytes()
    old = new[:-1] + bytes([new[-1] ^ 1])
    names = sorted(path.name for path in folder.iterdir())
    found = {"killed": 0, "old": 0, "new": 0, "neither": 0, "left": 0}
    while found["killed"] < kills:
        out.write_bytes(old)
        after = moments.uniform(0.5, 1) * seconds
        killed = kill_after(after, by, CONVERT.split(), folder, environment)
        content = out.read_bytes()
        which = "old" if content == old else "new" if content == new else "neither"
        found["killed"] += killed
        found[which] += killed
        found["left"] += sorted(path.name for path in folder.iterdir()) != names
    print(f"{by.name} of a conversion: {found}", flush=True)
    return found


def make_source(folder: Path) -> None:
    """A checkpoint of 128 MiB, and its model."""
    weights = {f"{i}.weight": np.ones((2048, 2048), np.float32) for i in range(8)}
    biases = {f"{i}.bias": np.ones(2048, np.float32) for i in range(8)}
    bridge.save(folder / "source.safetensors", weights | biases)
    (folder / "kill_model.py").write_text(MODEL)


def main() -> int:
    """Kills and resumes, writes the record, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "kill_resume.json")
    args = parser.parse_args()
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    measured: dict[str, Any] = {"options": TRANSFER, "convert": CONVERT}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "transfer"
        folder.mkdir()
        undisturbed = folder / "undisturbed"
        seconds = finish([*TRANSFER.split(), str(undisturbed)], folder, environment)
        measured |= {"trials": trials_in(undisturbed), "seconds": seconds}
        measured["sweeps"] = {
            by.name: sweeps_of(by, args.kills, undisturbed, seconds, environment) for by in SIGNALS
        }
        folder = Path(name) / "convert"
        folder.mkdir()
        make_source(folder)
        seconds = finish(CONVERT.split(), folder, environment)
        measured["convert_seconds"] = seconds
        measured["conversions"] = {
            by.name: conversions_of(by, args.kills, folder, seconds, environment) for by in SIGNALS
        }
    write_record(args.out, measured, "jax", "jaxmup")
    sweeps = [sweep for found in measured["sweeps"].values() for sweep in found]
    conversions = measured["conversions"].values()
    whole = all(sweep["identical"] and sweep["nothing_more"] for sweep in sweeps)
    return 0 if whole and not any(one["neither"] or one["left"] for one in conversions) else 1


if __name__ == "__main__":
    sys.exit(main())
