"""Readers of files, each with a good file, its damages, and what is true of a file it accepts.

`test_fuzz_readers.py` reads some hundred files of each, `benchmarks/fuzz_readers.py` ten thousand.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from mutations import (
    ODD,
    damaged_json,
    damaged_lines,
    damaged_safetensors,
    mutated,
    mutated_tree,
    read_by_definition,
)

import jaxmup
from jaxmup import Axis, ParamSpec, bridge, coord_check, manifest, transfer
from jaxmup.transfer._store import open_store

IDENTITY = {"config": {"widths": [8, 16], "steps": 2}, "versions": {"jax": "0.10.2"}}


class Reader(NamedTuple):
    """A reader of files.

    Args:
      name: Name of the file.
      good: Function of a folder that writes a good file into it, and returns its content.
      damages: Function of that content, a number and a seed, to so many damaged contents.
      read: Function of the path that reads it.
      holds: Function of the path and of what was read that says if the file holds just that.
    """

    name: str
    good: Callable[[Path], bytes]
    damages: Callable[[bytes, int, int], Iterator[bytes]]
    read: Callable[[Path], Any]
    holds: Callable[[Path, Any], bool]


def outcome(reader: Reader, path: Path, content: bytes) -> str:
    """What comes of a content: "refused", "accepted", or what is wrong."""
    path.write_bytes(content)
    try:
        found = reader.read(path)
    except (ValueError, OSError) as error:
        if str(path) not in str(error) and str(path.parent) not in str(error):
            return f"refused without the file: {error}"
        return "refused" if path.read_bytes() == content else "refused and changed"
    except Exception as error:  # nothing else may come out
        return f"{type(error).__name__}: {error}"
    return "accepted" if reader.holds(path, found) else "accepted what it does not hold"


def run(reader: Reader, folder: Path, count: int, seed: int) -> dict[str, int]:
    """The number of damaged files by their outcome."""
    content = reader.good(folder)
    found: dict[str, int] = {}
    for damaged in reader.damages(content, count, seed):
        found_here = outcome(reader, folder / reader.name, damaged)
        found[found_here] = found.get(found_here, 0) + 1
    return found


def same_json(path: Path, written: bytes, but: tuple[str, ...] = ()) -> bool:
    """Says if two files are the same lines of JSON, but for these fields."""
    sides = []
    for content in (path.read_bytes(), written):
        lines = [json.loads(line) for line in _documents(content)]
        sides.append([{k: v for k, v in line.items() if k not in but} for line in lines])
    return json.dumps(sides[0]) == json.dumps(sides[1])


def _documents(content: bytes) -> list[bytes]:
    try:
        json.loads(content)
    except ValueError:
        return content.splitlines()
    return [content]


# --- manifest

SPECS = {
    "w": ParamSpec((Axis("input", 8, base=2), Axis("output", 8, base=2)), init_std=0.5),
    "b": ParamSpec((Axis("output", 8, base=2),), lr_scale=2.0, depth_ratio=3.0),
}


def good_manifest(folder: Path) -> bytes:
    manifest.write(folder / "manifest.json", SPECS, jaxmup.parametrization("mup", "adam"))
    return (folder / "manifest.json").read_bytes()


def manifest_holds(path: Path, found: Any) -> bool:
    again = path.with_name("again")
    manifest.write(again, found.specs, found.parametrization)
    # A tree of names with slashes is written with the same names in another order.
    there, ours = (json.loads(p.read_bytes()) for p in (path, again))
    return {k: v for k, v in there.items() if k != "jaxmup"} == {
        k: v for k, v in ours.items() if k != "jaxmup"
    }


# --- records


def good_coord_check(folder: Path) -> bytes:
    verdict = coord_check.Verdict(
        "activation",
        "a",
        0,
        1,
        coord_check.Slope(0.1, 0.2),
        coord_check.Expected(-0.25, 0.25),
        "pass",
        (1.0, 2.0),
    )
    row = {"quantity": "activation", "name": "a", "layer": 0, "size": 8, "seed": 0, "step": 1}
    check = coord_check.CoordCheck(
        over="width",
        sizes=(8, 16),
        seeds=(0,),
        steps=2,
        parametrization="mup",
        family=jaxmup.parametrization("mup", "adam").family,
        follows_parametrization=True,
        verdicts=(verdict,),
        rows=({**row, "rms": 1.0, "mean_abs": 0.5},),
    )
    coord_check.write_record(check, folder / "check.jsonl")
    return (folder / "check.jsonl").read_bytes()


def coord_check_holds(path: Path, found: Any) -> bool:
    again = path.with_name("again")
    coord_check.write_record(found, again)
    return same_json(path, again.read_bytes(), ("versions",))


CONFIG = transfer.Config(
    widths=(8, 16), learning_rates=(0.1, 0.2), seeds=(0,), steps=2, parametrizations=("mup",)
)
TRIALS = tuple(
    transfer.Trial("mup", width, rate, 0, None if rate == 0.2 and width == 16 else width * rate)
    for width in (8, 16)
    for rate in (0.1, 0.2)
)


def good_record(folder: Path) -> bytes:
    result = transfer.Result(CONFIG, TRIALS, (transfer.analyze(TRIALS),))
    transfer.write_record(result, folder / "record.json")
    return (folder / "record.json").read_bytes()


def record_holds(path: Path, found: Any) -> bool:
    again = path.with_name("again")
    transfer.write_record(found, again)
    there, ours = (json.loads(p.read_bytes()) for p in (path, again))
    return all(there[name] == ours[name] for name in ("config", "trials", "format", "version"))


# --- trials


def good_trials(folder: Path) -> bytes:
    with open_store(folder, IDENTITY) as store:
        store.append(TRIALS)
    return (folder / "trials.jsonl").read_bytes()


def read_trials(path: Path) -> Any:
    with open_store(path.parent, IDENTITY) as store:
        return store.known


def trials_hold(path: Path, found: Any) -> bool:
    """Each line after the first is a trial that is known, and no other is."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    losses = sorted(str("diverged" if t.loss is None else t.loss) for t in found.values())
    return sorted({json.dumps(x): str(x["loss"]) for x in lines}.values()) == losses


# --- tensors

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.ones(3, np.float32)}


def good_tensors(folder: Path) -> bytes:
    bridge.save(folder / "model.safetensors", ARRAYS)
    return (folder / "model.safetensors").read_bytes()


def tensors_hold(path: Path, found: Any) -> bool:
    wanted = read_by_definition(path.read_bytes())
    return wanted is not None and all(
        found[n].dtype == a.dtype and found[n].tobytes() == a.tobytes() for n, a in wanted.items()
    )


def damaged_index(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    return damaged_json(content, count, seed)


def good_index(folder: Path) -> bytes:
    good_tensors(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(ARRAYS, "model.safetensors")}
    return json.dumps(index).encode()


def index_holds(path: Path, found: Any) -> bool:
    return json.loads(path.read_bytes())["weight_map"].keys() == found.keys()


BASE_SHAPES = b"# comment\nfc.bias:\n- 64\nfc.weight:\n- 64\n- null\n'1':\n- 8\nscale: []\n"


def damaged_base_shapes(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    return (mutated(content, rng) for _ in range(count))


READERS: dict[str, Reader] = {
    "safetensors": Reader(
        "model.safetensors",
        good_tensors,
        lambda _, count, seed: damaged_safetensors(count, seed),
        bridge.load,
        tensors_hold,
    ),
    "index": Reader(
        "model.safetensors.index.json", good_index, damaged_index, bridge.load, index_holds
    ),
    "base shapes": Reader(
        "model.bsh",
        lambda _: BASE_SHAPES,
        damaged_base_shapes,
        bridge.read_base_shapes,
        lambda _, found: all(isinstance(name, str) for name in found),
    ),
    "manifest": Reader("manifest.json", good_manifest, damaged_json, manifest.read, manifest_holds),
    "coordinate check": Reader(
        "check.jsonl", good_coord_check, damaged_lines, coord_check.read_record, coord_check_holds
    ),
    "transfer record": Reader(
        "record.json", good_record, damaged_json, transfer.read_record, record_holds
    ),
    "trials": Reader("trials.jsonl", good_trials, damaged_lines, read_trials, trials_hold),
}


# --- the state of an optimizer, which is read from no file

GROUP = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
STATE = {
    "state": {0: {"momentum_buffer": ARRAYS["w"]}, 1: {"momentum_buffer": ARRAYS["b"]}},
    "param_groups": [{**GROUP, "params": [0, 1]}],
}
PARAMS = {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
ODD_STATES = (*ODD, np.ones(3, np.float32), np.ones((2, 3)), np.array(["a"]), np.ones(3, "c8"))
ODD_STATES += (np.array(None, object), np.float32("nan"), np.ones((0,)), {0: 1}, 10**400)


def optimizer_states(count: int, seed: int) -> dict[str, int]:
    """The number of damaged states of torch's SGD by what comes of them."""
    plan = bridge.plan({"weight": ARRAYS["w"], "bias": ARRAYS["b"]}, PARAMS)
    tx = optax.sgd(0.1, momentum=0.9)
    rng, found = random.Random(seed), dict[str, int]()
    for _ in range(count):
        state = mutated_tree(STATE, rng, ODD_STATES)
        try:
            bridge.optimizer_from_torch(state, plan, tx, PARAMS, names=["weight", "bias"])
            result = "accepted"
        except (ValueError, TypeError):
            result = "refused"
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        found[result] = found.get(result, 0) + 1
    return found
