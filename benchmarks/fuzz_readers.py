"""Claim: no damaged file crashes a reader, executes anything, or is read as it is not.

Mutates files of every format that `jaxmup.bridge` reads and reads each in a process of its own
kind, so that a crash is seen and counted. A reader may refuse a file by a `ValueError` or an
`OSError`. What it accepts must be what the definition of the format says that the file holds:
of safetensors, indices and base shapes by another reader; of files of torch.save, which have
checksums, what was in the file before. Mutated pickles with right checksums, and files of PyTorch
before 1.6, which have none, may say anything, but may do nothing: calls that start a process, open
a socket or write a file are watched.

The readers of jaxmup's own records, and of the states of torch's optimizers, are those of
`tests/fuzzed.py`: they refuse a file by its name, or read what a writer would write again.

    python benchmarks/fuzz_readers.py --out benchmarks/results/fuzz_readers.json
"""

import argparse
import io
import json
import multiprocessing
import pickle
import random
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _record import RESULTS, write_record

from jaxmup import bridge

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the unit tests share the mutations

from fuzzed import READERS, optimizer_states, run
from mutations import (
    Arrays,
    damaged_safetensors,
    good_header,
    mutated,
    read_by_definition,
    safetensors_file,
)

COUNTS = {"safetensors": 10_000, "index": 10_000, "bsh": 10_000, "pt": 6000, "pickle": 3000}
COUNTS |= {"legacy pt": 500, "hostile pickle": 500}
OWN, SEED = 10_000, 19  # files of each of jaxmup's own formats, and states of optimizers
WATCHED = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.")
WATCHED += ("os.remove", "os.rename", "shutil.", "ctypes.", "webbrowser.")
BASE_SHAPES = b"# comment\nfc.bias:\n- 64\nfc.weight:\n- 64\n- null\n'1':\n- 8\nscale: []\n"


def state() -> dict[str, torch.Tensor]:
    """The content of the good files of torch.save."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, generator=generator)
    return {"fc.weight": weight, "fc.bias": torch.ones(3, dtype=torch.bfloat16), "tied": weight}


def saved(content: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def with_pickle(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file of torch.save with another pickle and right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            new.writestr(name, change(raw) if name.endswith("data.pkl") else raw)
    return file.getvalue()


class Hostile:
    """Unpickles to a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(rng: random.Random, marker: Path) -> bytes:
    """A pickle with a call in it, in a state dict, alone, or damaged."""
    import os
    import subprocess

    calls = [
        Hostile(os.system, f"touch {marker}"),
        Hostile(subprocess.call, ["touch", str(marker)]),
        Hostile(eval, f"open({str(marker)!r}, 'w')"),
        Hostile(exec, f"open({str(marker)!r}, 'w').close()"),
        Hostile(open, str(marker), "w"),
        Hostile(Path.touch, marker),
        Hostile(torch.load, str(marker)),
    ]
    call = rng.choice(calls)
    content = {"fc.weight": rng.choice((call, [call], {"a": call}))} if rng.random() < 0.7 else call
    raw = pickle.dumps(content, protocol=rng.choice((0, 1, 2, 4)))
    if rng.random() < 0.3:
        raw = mutated(raw, rng)
    return with_pickle(saved(state()), lambda _: raw) if rng.random() < 0.7 else raw


def files(kind: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """The mutated files of a kind, each with its suffix."""
    count, rng = COUNTS[kind], random.Random(kind)
    match kind:
        case "safetensors":
            yield from ((".safetensors", raw) for raw in damaged_safetensors(count, seed=1))
        case "index":
            index = json.dumps({"metadata": {"total_size": 38}, "weight_map": _weight_map()})
            yield from (
                (".safetensors.index.json", mutated(index.encode(), rng)) for _ in range(count)
            )
        case "bsh":
            yield from ((".bsh", mutated(BASE_SHAPES, rng)) for _ in range(count))
        case "pt" | "legacy pt":
            good = saved(state(), legacy=kind != "pt")
            yield from ((".pt", mutated(good, rng)) for _ in range(count))
        case "pickle":
            good = saved(state())
            for _ in range(count):
                yield ".pt", with_pickle(good, lambda raw: mutated(raw, rng))
        case "hostile pickle":
            yield from ((".pt", hostile(rng, folder / "marker")) for _ in range(count))


def _weight_map() -> dict[str, str]:
    return dict.fromkeys(good_header()[0], "good.safetensors")


def expected(kind: str, raw: bytes) -> Any:
    """The content of a file by the definition of its format; `None` if it is none."""
    match kind:
        case "safetensors":
            return read_by_definition(raw)
        case "index":
            try:
                names = json.loads(raw)["weight_map"]
            except (ValueError, KeyError, TypeError):
                return None
            good = read_by_definition(safetensors_file(*good_header())) or {}
            return {name: good[name] for name in names} if names.keys() == good.keys() else None
        case "bsh":
            try:
                found = yaml.safe_load(raw)
            except (yaml.YAMLError, ValueError):
                return None
            if not isinstance(found, dict) or None in found.values():
                return {} if found is None else None
            return {name: tuple(sizes) for name, sizes in found.items()}
        case "pt":
            return {name: tensor.float().numpy() for name, tensor in state().items()}
    return ...  # whatever it is, it was read by nothing but the restricted unpickler


def same(kind: str, found: Any, wanted: Any) -> bool:
    """True if what was read is what the file holds."""
    if wanted is ... or kind == "bsh":
        return wanted is ... or found == wanted
    return (
        wanted is not None
        and found.keys() == wanted.keys()
        and all(_equal(kind, found[name], wanted[name]) for name in wanted)
    )


def _equal(kind: str, a: np.ndarray, b: np.ndarray) -> bool:
    if kind == "pt":
        return np.array_equal(a.astype(np.float32), b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def read(kind: str, path: Path) -> Arrays | Any:
    if kind == "bsh":
        return bridge.read_base_shapes(path)
    return {name: np.array(array) for name, array in bridge.load(path).items()}


def work(kind: str, start: int, results: Any) -> None:
    """Reads the files of a kind from the `start`th on, and says what comes of each."""
    folder = Path(tempfile.mkdtemp())
    (folder / "good.safetensors").write_bytes(safetensors_file(*good_header()))
    (folder / "good.pt").write_bytes(saved(state()))
    bridge.load(folder / "good.pt")  # imports what it needs before calls are watched
    watching: list[str] = []
    active = False

    def hook(event: str, arguments: Any) -> None:
        if active and event.startswith(WATCHED):
            watching.append(event)

    warnings.simplefilter("ignore")  # of PyTorch, about pickles it doesn't know
    sys.addaudithook(hook)
    for i, (suffix, raw) in enumerate(files(kind, folder)):
        if i < start:
            continue
        results.send((i, "begun", ""))
        path = folder / f"file{suffix}"
        path.write_bytes(raw)
        try:
            active = True
            found = read(kind, path)
            active = False
            right = same(kind, found, expected(kind, raw))
            outcome = ("accepted", "") if right else ("accepted wrong", raw.hex())
        except (ValueError, OSError):
            outcome = ("refused", "")
        except Exception as error:
            outcome = ("other error", f"{error!r} {raw[:200].hex()}")
        active = False
        if watching or (folder / "marker").exists():
            outcome = ("executed", f"{watching} {raw.hex()}")
            watching.clear()
            (folder / "marker").unlink(missing_ok=True)
        results.send((i, *outcome))
    results.send((COUNTS[kind], "done", ""))


def fuzz(kind: str) -> tuple[Counter[str], list[str]]:
    """Counts the outcomes of a kind; goes on after a crash with the next file."""
    spawn, counts, bad, start = multiprocessing.get_context("spawn"), Counter(), [], 0
    while start < COUNTS[kind]:
        receiving, sending = spawn.Pipe(duplex=False)
        process = spawn.Process(target=work, args=(kind, start, sending))
        process.start()
        sending.close()
        last = start
        try:
            while True:
                i, outcome, detail = receiving.recv()
                if outcome == "done":
                    return counts, bad
                last = i
                if outcome != "begun":
                    counts[outcome] += 1
                    if outcome not in ("accepted", "refused"):
                        bad.append(f"{kind} {i}: {outcome}: {detail}")
        except EOFError:  # the process is gone
            process.join()
            counts["crashed"] += 1
            bad.append(f"{kind} {last}: crashed with {process.exitcode}")
            start = last + 1
    return counts, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz_readers.json")
    arguments = parser.parse_args()
    outcomes: dict[str, dict[str, int]] = {}
    bad: list[str] = []
    for kind in COUNTS:
        counts, worst = fuzz(kind)
        outcomes[kind] = dict(sorted(counts.items()))
        bad += worst
        print(kind, outcomes[kind], *worst[:5], sep="\n  ")
    for name in ("manifest", "coordinate check", "transfer record", "trials"):
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = run(READERS[name], Path(folder), OWN, SEED)
    outcomes["optimizer state"] = optimizer_states(OWN, SEED)
    for name, counts in outcomes.items():
        bad += [f"{name}: {what}" for what in counts if what not in ("accepted", "refused")]
    total = sum(map(sum, (counts.values() for counts in outcomes.values())))
    measured = {
        "claim": "no damaged file crashes, executes anything, or is read as it is not",
        "files": total,
        "outcomes": outcomes,
        "holds": not bad,
    }
    write_record(arguments.out, measured, "jaxmup", "safetensors", "torch", "numpy")
    if not measured["holds"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
