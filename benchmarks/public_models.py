"""Claim: `infer` needs no rules for public models, and is silently wrong in none.

Each is imported as it stands from a checkout of its repository, made in small at base, delta and
target sizes of which several grow unlike each other, and read by `jaxmup.infer` from its program
alone. Its answer is compared with one typed by hand from the source, of every parameter: what its
axes do, how they grow, and its forward gain. Checkouts are folders beside each other, named as
their repositories; the record says which commits.
"""

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import time
import warnings
from fnmatch import fnmatchcase
from math import isclose, prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jaxmup  # noqa: E402
from benchmarks import _public_linen, _public_nnx, _public_trees  # noqa: E402
from benchmarks._record import RESULTS, write_record  # noqa: E402
from jaxmup._spec import Axis  # noqa: E402
from jaxmup._tree import leaves_by_path  # noqa: E402
from tests.zoo.case import Case, number  # noqa: E402

MODELS = {**_public_nnx.MODELS, **_public_linen.MODELS, **_public_trees.MODELS}


def word(axis: Axis) -> str:
    """What an axis does, as a row of an answer writes it."""
    kind = {"input": "in", "output": "out", "batch": "batch"}[axis.kind]
    return f"{kind}*" if axis.grows else kind if kind == "in" else "-"


def differences(case: Case, specs: dict[str, Any]) -> list[str]:
    """All in which specs differ from the answer."""
    found, used = [], set()
    for name, spec in specs.items():
        row = next((row for row in case.rows if fnmatchcase(name, row.pattern)), None)
        if row is None:
            found.append(f"{name}: {spec}, by hand no parameter")
            continue
        used.add(row.pattern)
        got = (tuple(map(word, spec.axes)), spec.r_in, spec.r_out, spec.forward_gain)
        numbers = (row.r_in, row.r_out, row.gain)
        same = all(
            want is None or isclose(have, want, rel_tol=1e-9)
            for have, want in zip(got[1:], numbers, strict=True)
        )
        if got[0] != row.axes or not same:
            found.append(
                f"{name} {spec.shape}: {got}, by hand {(row.axes, *numbers)}: {spec.reason}"
            )
    for names, words in case.products.items():
        gain = prod(specs[name].forward_gain for name in names.split(" * "))
        if not isclose(gain, number(words) or 0, rel_tol=1e-9):
            found.append(f"{names}: {gain}, by hand {words}")
    return found + [
        f"{row.pattern}: no such parameter" for row in case.rows if row.pattern not in used
    ]


def read(name: str, folder: Path) -> dict[str, Any]:
    """What `infer` says of one model, beside the answer."""
    public = MODELS[name]
    case = public.case(folder)
    begin = time.perf_counter()
    specs, error = {}, ""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            specs = jaxmup.infer(
                case.make_model, **case.sizes, inputs=case.inputs, apply=case.apply
            )
        except (TypeError, ValueError) as refusal:
            error = str(refusal)
    seconds = time.perf_counter() - begin
    findings = [str(w.message) for w in caught if w.filename.startswith(str(ROOT))]
    wrong = differences(case, leaves_by_path(specs)) if specs else []
    expected = "refused" if case.refused else "finding" if case.finding else "right"
    outcome = "refused" if error else "wrong" if wrong else "finding" if findings else "right"
    words = error if error else "\n".join(findings)
    said = not (case.refused or case.finding) or re.search(case.refused or case.finding, words)
    return {
        "framework": public.framework,
        "repository": public.repository,
        "commit": public.commit,
        "note": public.note,
        "rules": 0,
        "parameters": len(leaves_by_path(specs)) if specs else None,
        "outcome": outcome,
        "by_hand": expected,
        "agrees": outcome == expected and bool(said),
        "differences": wrong,
        "message": words.replace(str(folder), "").replace(str(ROOT), ""),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    """Reads every model in a process of its own and writes the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the checkouts")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", type=Path, default=RESULTS / "public_models.json")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(read(args.models[0], args.folder.resolve())))
        return
    found = {}
    for name in args.models:
        command = [sys.executable, __file__, str(args.folder), "--models", name, "--one"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr[-3000:]}")
            continue
        row = found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:<16}{row['outcome']:<9}{row['by_hand']:<9}{row['seconds']:>6} s")
        for line in [*row["differences"], *row["message"].splitlines()]:
            print("   ", line)
    write_record(args.out, {"models": found}, "jax", "flax", "jaxmup")


if __name__ == "__main__":
    main()
