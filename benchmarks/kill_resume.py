"""Claim: a sweep that is killed at any moment goes on, and ends with the very same bytes.

A small `jaxmup transfer` is run once undisturbed. Then it is run in an empty directory, its process
group is killed with SIGKILL at a random moment, and the same command is given again, until it ends;
and so on in further directories until it was killed 20 times. The record and the trials must be
those of the undisturbed run, byte for byte.
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

from _record import RESULTS, write_record

FILES = ("transfer.json", "trials.jsonl")
OPTIONS = "--width 16,32,48 --depth 1 --steps 10 --batch-size 256 --seeds 2 --log2-range -10:-4:0.5"


def start(out: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Starts the sweep in a process group of its own."""
    command = [sys.executable, "-m", "jaxmup", "transfer", *OPTIONS.split(), "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, start_new_session=True, **quiet)


def finish(out: Path, environment: dict[str, str]) -> float:
    """Runs the sweep to its end; returns how many seconds it took."""
    begin = time.perf_counter()
    process = start(out, environment)
    errors = process.communicate()[1]
    if process.returncode != 0:
        raise RuntimeError(errors.decode())
    return time.perf_counter() - begin


def kill_after(seconds: float, out: Path, environment: dict[str, str]) -> bool:
    """Starts the sweep and kills it after some time; returns whether it was still running."""
    process = start(out, environment)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


def trials_in(out: Path) -> int:
    """The number of trials on disk."""
    path = out / "trials.jsonl"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def same(one: Path, other: Path) -> bool:
    """True if two sweeps ended with the same bytes."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def kill_until_done(
    out: Path, seconds: float, moments: random.Random, most: int, environment: dict[str, str]
) -> list[dict[str, Any]]:
    """Kills a sweep and starts it again until it ends, or has been killed `most` times."""
    kills: list[dict[str, Any]] = []
    while len(kills) < most:
        after = moments.uniform(0.3, 1) * seconds
        if not kill_after(after, out, environment):
            break
        kills.append({"after": round(after, 2), "trials": trials_in(out)})
        print(f"killed after {after:.1f} s with {trials_in(out)} trials", flush=True)
    finish(out, environment)
    return kills


def main() -> int:
    """Kills and resumes, writes the record, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "kill_resume.json")
    args = parser.parse_args()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    moments = random.Random(0)
    sweeps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        seconds = finish(undisturbed, environment)
        while (left := args.kills - sum(len(sweep["kills"]) for sweep in sweeps)) > 0:
            out = Path(folder) / f"{len(sweeps)}"
            kills = kill_until_done(out, seconds, moments, left, environment)
            sweeps.append({"kills": kills, "identical": same(undisturbed, out)})
            print(f"ended, identical: {sweeps[-1]['identical']}", flush=True)
        trials = trials_in(undisturbed)
    measured = {"options": OPTIONS, "trials": trials, "seconds": seconds, "sweeps": sweeps}
    write_record(args.out, measured, "jax", "jaxmup")
    return 0 if all(sweep["identical"] for sweep in sweeps) else 1


if __name__ == "__main__":
    sys.exit(main())
