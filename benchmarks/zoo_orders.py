"""Every intermediate value of every model of the zoo beside its predicted order.

    python benchmarks/zoo_orders.py [--cases decoder vit] [--out results/zoo_orders.json]

Each model is trained for six steps of Adam at twice its base size and at four times that, in all
sizes that grow, with the result of every equation of its program measured. With the gains of
`infer` no value should outgrow its order by more than 0.2; without them, each factor that is
missing should show by more than 0.3 at a line, as a value that is too large or, where the factor is
above one, too small. As orders are those of the limit, what exceeds its order is measured again at
four times these sizes.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
from _record import RESULTS, write_record
from test_zoo import CARRIED
from zoo.case import Case
from zoo.training import FACTORS, RATE, STEPS, line_check_of

from jaxmup.coord_check import LineCheck

LIMIT, MISSING = 0.2, 0.3
GAINS, WIDER, WITHOUT = "with gains", "wider", "without"


def main() -> None:
    """Checks every case, prints a line for each and adds it to the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", help="those whose name has one of these in it")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo_orders.json")
    args = parser.parse_args()
    jax.config.update("jax_numpy_rank_promotion", "allow")
    done: dict[str, Any] = {}
    for name, case in CARRIED.items():
        if args.cases and not any(part in name for part in args.cases):
            continue
        begin = time.perf_counter()
        done[name] = {**_of(case, args.seeds), "seconds": round(time.perf_counter() - begin, 1)}
        _print(name, done[name])
        held = f"{sum(one['holds'] for one in done.values())} of {len(done)}"
        settled = sum(WIDER in one for one in done.values())
        how = {"factors": FACTORS, "rate": RATE, "steps": STEPS, "seeds": args.seeds}
        measured = {**how, "holds": held, "measured at wider sizes": settled, "cases": done}
        write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


def _of(case: Case, seeds: int) -> dict[str, Any]:
    """The largest excesses of a case with its gains and without, and whether it is as it should."""
    found = {GAINS: _summary(line_check_of(case, seeds=seeds))}
    last = found[GAINS]
    if last["excess"] > LIMIT:
        last = found[WIDER] = _summary(line_check_of(case, wider=4, seeds=seeds))
    holds = last["excess"] <= LIMIT
    if any(row.gain != 1 for row in case.rows):
        found[WITHOUT] = _summary(line_check_of(case, seeds=seeds, gains=False))
        lacks = found[WITHOUT]["lack"] < found[GAINS]["lack"] - MISSING
        holds = holds and (found[WITHOUT]["excess"] > MISSING or lacks)
    return {**found, "holds": holds}


def _summary(check: LineCheck) -> dict[str, Any]:
    """The number of values, how far they are above and below their orders, the worst lines."""
    worst = [
        {
            "line": one.line,
            "op": one.op,
            "predicted": round(one.predicted, 3),
            "start": None if one.start is None else round(one.start, 3),
            "end": None if one.end is None else round(one.end, 3),
        }
        for one in check.worst()[:5]
    ]
    excess = [one.excess for one in check.values]
    return {
        "values": len(excess),
        "excess": round(max(excess), 3),
        "lack": round(min(excess), 3),
        "worst": worst,
    }


def _print(name: str, found: dict[str, Any]) -> None:
    parts = [
        f"{key} {found[key]['excess']:+.2f} {found[key]['worst'][0]['line']}"
        for key in (GAINS, WIDER, WITHOUT)
        if key in found
    ]
    print(f"{name:<60}{'  '.join(parts)}  {'holds' if found['holds'] else 'OPEN'}", flush=True)


if __name__ == "__main__":
    main()
