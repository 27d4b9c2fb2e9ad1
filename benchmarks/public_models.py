"""Claim: `infer` needs no rules for public models, and is silently wrong in none.

Each is imported as it stands from a checkout of its repository, made in small at base, delta and
target sizes of which several grow unlike each other, and read by `jaxmup.infer` from its program
alone. Its answer is compared with one typed by hand from the source, for every parameter: what its
axes do, how they grow, and its forward gain. Where no parameter can carry a factor, `infer` must
refuse with the line, and is asked again with `corrected=True`; the factors that it then inserts are
compared too. Where parts of a tensor want different numbers, it must say so.

The checkouts are folders beside each other, named as their repositories; the record names their
commits. Of `transformers` and `jraph` they are the unpacked wheels of these releases.
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
from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import isclose, prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jaxmup  # noqa: E402
from benchmarks import _public_linen, _public_nnx, _public_trees  # noqa: E402
from benchmarks._record import RESULTS, write_record  # noqa: E402
from jaxmup import ParamSpec  # noqa: E402
from jaxmup._spec import Axis  # noqa: E402
from jaxmup._tree import leaves_by_path  # noqa: E402
from tests.zoo.case import Case, number  # noqa: E402

MODELS = {**_public_nnx.MODELS, **_public_linen.MODELS, **_public_trees.MODELS}
TITLES = ("model", "API", "repository", "commit", "parameters", "outcome", "by hand", "s", "note")


def word(axis: Axis) -> str:
    """What an axis does, as a row of an answer writes it."""
    kind = {"input": "in", "output": "out", "batch": "batch"}[axis.kind]
    return f"{kind}*" if axis.grows else kind if kind == "in" else "-"


def differences(case: Case, specs: Mapping[str, ParamSpec]) -> list[str]:
    """All in which specs differ from the answer."""
    found, used = [], set()
    for name, spec in specs.items():
        row = next((row for row in case.rows if fnmatchcase(name, row.pattern)), None)
        if row is None:
            found.append(f"{name} {spec.shape}: not in the answer")
            continue
        used.add(row.pattern)
        got = (tuple(map(word, spec.axes)), spec.r_in, spec.r_out, spec.forward_gain)
        numbers = (row.r_in, row.r_out, row.gain)
        if got[0] != row.axes or not all(map(is_close, got[1:], numbers)):
            wanted = (row.axes, *numbers)
            found.append(f"{name} {spec.shape}: {got}, by hand {wanted}: {spec.reason}")
    for names, words in case.products.items():
        gain = prod(specs[name].forward_gain for name in names.split(" * "))
        if not is_close(gain, number(words)):
            found.append(f"{names}: {gain}, by hand {words}")
    unused = {row.pattern for row in case.rows} - used
    return [*found, *(f"{pattern}: no such parameter" for pattern in sorted(unused))]


def is_close(have: float, want: float | None) -> bool:
    """True if a number is what the answer says, or the answer leaves it open."""
    return want is None or isclose(have, want, rel_tol=1e-9)


def inferred(case: Case, corrected: bool) -> tuple[dict[str, ParamSpec], str, str]:
    """The specs of a model, its refusal if there are none, and what it warns of."""
    how = {"inputs": case.inputs, "apply": case.apply, **case.sizes}
    if corrected:
        how["corrected"] = True
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        # Of Flax, about how the model was written: no answer of `infer`.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            specs = leaves_by_path(jaxmup.infer(case.make_model, **how))
        except (TypeError, ValueError) as refusal:
            return {}, str(refusal), ""
    own = (str(w.message) for w in caught if str(ROOT) in w.filename)
    return specs, "", "\n".join(own)


def read(name: str, folder: Path) -> dict[str, Any]:
    """What `infer` says of one model, beside the answer."""
    public = MODELS[name]
    case = public.case(folder)
    begin = time.perf_counter()
    specs, refusal, finding = inferred(case, corrected=False)
    seconds = time.perf_counter() - begin
    outcome, wrong = "refused" if refusal else "finding" if finding else "right", []
    said = re.search(case.refused or case.finding, refusal or finding) is not None
    if refusal and public.factors:
        specs, refused_again, _ = inferred(case, corrected=True)
        outcome = "refused" if refused_again else "corrected"
        factors = {one.factor for spec in specs.values() for one in spec.corrections}
        by_hand = [number(words) for words in public.factors]
        if len(factors) != len(by_hand) or not all(map(is_close, sorted(factors), sorted(by_hand))):
            wrong.append(f"factors {sorted(factors)}, by hand {public.factors}")
    if specs:
        wrong += differences(case, specs)
    expected = "corrected" if public.factors else "finding" if case.finding else "right"
    return {
        "framework": public.framework,
        "repository": public.repository,
        "commit": public.commit,
        "note": public.note,
        "rules": 0,
        "parameters": len(specs),
        "outcome": outcome,
        "by_hand": expected,
        "agrees": outcome == expected and said and not wrong,
        "differences": wrong,
        "message": (refusal or finding).replace(str(folder), ""),
        "seconds": round(seconds, 2),
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The record as a table of Markdown."""
    lines = [TITLES, ["---"] * len(TITLES)]
    for name, row in rows.items():
        agrees = "agrees" if row["agrees"] else f"**{row['by_hand']}**"
        source = (row["framework"], row["repository"], f"`{row['commit'][:7]}`")
        found = (str(row["parameters"]), row["outcome"], agrees, str(row["seconds"]), row["note"])
        lines.append([name, *source, *found])
    agreeing = sum(row["agrees"] for row in rows.values())
    return (
        "# Public models\n\n"
        f"{agreeing} of {len(rows)} public models are read as by hand, none with a rule. "
        "*Corrected*: refused\nwith the line, right once `jaxmup.corrected` inserts the factor. "
        "*Finding*: a warning that one number\ncannot be right for all parts of a tensor. Made by "
        "`benchmarks/public_models.py`.\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
    )


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
            raise SystemExit(f"{name}: {done.stderr}")
        row = found[name] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:<22}{row['outcome']:<10}{'agrees' if row['agrees'] else 'DIFFERS'}", flush=True
        )
        for line in [*row["differences"], *row["message"].splitlines()]:
            print("   ", line)
        write_record(args.out, {"models": found}, "jax", "flax", "jaxmup")
        args.out.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
