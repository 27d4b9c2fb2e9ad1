"""The coordinate check of the models of the zoo, and their base width.

    python benchmarks/zoo_coord_check.py [--cases decoder vit] [--all]

One model of each file, or all of them. Each should pass under muP, with the specs of `infer`, the
initial values of `rescale` and the ready chain for Adam, with as many seeds and as large widths as
the check asks for by itself; fail under the standard parametrization; and at base width start as
`make_model` makes it, bit for bit. A run goes on where the record ends.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
import numpy as np
from _record import RESULTS, write_record
from test_zoo import CARRIED
from zoo import training
from zoo.case import Case

import jaxmup
from jaxmup import Model
from jaxmup._tree import leaves_by_path
from jaxmup.coord_check import CoordCheck, coord_check

WIDTHS, LARGEST, STEPS, RATE = (2, 4, 8), 16, 4, 2**-6
CONTROL_SEEDS = 4
MUP = jaxmup.parametrization("mup", "adam", gauge="table3")
STANDARD = jaxmup.parametrization("standard", "adam")


def checked(case: Case, parametrization: jaxmup.Parametrization, **options: Any) -> CoordCheck:
    """The coordinate check of a case, at its base sizes times each width."""
    return coord_check(
        of_factor(case),
        WIDTHS,
        training.batch_of(case),
        lambda scalings: jaxmup.optim.adam(RATE, scalings),
        parametrization=parametrization,
        loss_fn=training.loss_fn,
        steps=STEPS,
        **options,
    )


def of_factor(case: Case) -> Model:
    """The model of a case whose size is what its base sizes are multiplied by."""
    model = training.model_of(case)

    def make_model(factor: int, key: jax.Array) -> Any:
        (sizes,) = training.sizes_of(case, (factor,))
        return model.make(sizes, key)

    return dataclasses.replace(model, make_model=make_model)


def is_plain_at_base(case: Case) -> bool:
    """True if the rescaled base model is the plain one, bit for bit."""
    model, (base, delta) = training.model_of(case), training.sizes_of(case, (1, 2))
    specs = jaxmup.infer(model, base=base, delta=delta, target=base)
    key = jax.random.key(3)
    made = jaxmup.rescale(model, specs, MUP, base=base, target=base, key=key)
    instance = model.at(base)
    got, plain = (leaves_by_path(p.params) for p in (instance.split(made, key), instance.draw(key)))
    return all(np.array_equal(got[name], plain[name]) for name in plain)


def main() -> None:
    """Checks every case, prints a line for each and adds it to the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", help="those whose name has one of these in it")
    parser.add_argument("--all", action="store_true", help="every case of a file, not its first")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo_coord_check.json")
    args = parser.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "allow")
    how = {"widths": WIDTHS, "largest": LARGEST, "rate": RATE, "steps": STEPS}
    done = _done_before(args.out, how)
    files: set[str] = set()
    for name, case in CARRIED.items():
        file = name.partition(",")[0]
        chosen = any(part in name for part in args.cases) if args.cases else file not in files
        if not (args.all or chosen):
            continue
        files.add(file)
        if name in done:
            continue
        begin = time.perf_counter()
        mup = checked(case, MUP, seeds="auto", largest=LARGEST)
        standard = checked(case, STANDARD, seeds=CONTROL_SEEDS)
        done[name] = {
            "mup": _summary(mup),
            "standard": _summary(standard),
            "plain at base": is_plain_at_base(case),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        print(name, done[name], flush=True)
        every = done.values()
        counts = {
            "models": len(done),
            "pass under mup": sum(one["mup"]["outcome"] == "pass" for one in every),
            "fail under mup": sum(one["mup"]["outcome"] == "fail" for one in every),
            "fail under standard": sum(one["standard"]["outcome"] == "fail" for one in every),
            "plain at base": sum(one["plain at base"] for one in every),
        }
        write_record(args.out, {**how, **counts, "cases": done}, "jax", "flax", "optax", "jaxmup")


def _done_before(out: Path, how: dict[str, Any]) -> dict[str, Any]:
    """The cases of a record that ran in the same way."""
    if not out.exists():
        return {}
    record = json.loads(out.read_text())
    same = json.loads(json.dumps(how)).items() <= record.items()
    return record["cases"] if same else {}


def _summary(check: CoordCheck) -> dict[str, Any]:
    failing = [
        f"{one.quantity} of {one.title}: "
        f"{'none' if one.slope is None else f'{one.slope.value:+.2f}'}, expected {one.expected}"
        for one in check.of("fail")
    ]
    return {
        "outcome": check.outcome,
        "reason": check.reason,
        "sizes": check.sizes,
        "seeds": len(check.seeds),
        "rows": len(check.verdicts),
        "fail": len(failing),
        "too small": len(check.of("too small")),
        "not enough seeds": len(check.of("not enough seeds")),
        "failing": failing[:8],
    }


if __name__ == "__main__":
    main()
