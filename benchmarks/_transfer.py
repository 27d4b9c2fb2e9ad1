"""Shared by the benchmarks of transfer: measure, judge by the claim, and keep record and plot."""

import argparse
import os
import time
from pathlib import Path

import jax
from _record import RESULTS, write_record

from jaxmup import plots, transfer

BETA_LIMIT, STANDARD_LIMIT, PENALTY_LIMIT = 0.1, -0.5, 1.0  # octaves per doubling; percent


def measure(
    name: str, config: transfer.Config, trials: Path | None, task: transfer.Task | None = None
) -> bool:
    """Measures a configuration, writes `results/<name>/`, and says whether the claim holds."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = transfer.measure(config, task, progress=_show, directory=trials)
    seconds = round(time.perf_counter() - start)
    cpu_seconds = round(time.process_time() - cpu_start)  # of all cores: others may use them too
    found = {a.parametrization: _numbers(a) for a in result.analyses}
    holds = _holds(found)
    out = RESULTS / name
    out.mkdir(parents=True, exist_ok=True)
    transfer.write_record(result, out / "transfer.json")
    (out / "transfer.png").write_bytes(plots.png(plots.transfer_figure(result)))
    limits = {"beta": BETA_LIMIT, "standard_beta": STANDARD_LIMIT, "penalty": PENALTY_LIMIT}
    time_taken = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    measured = {**time_taken, "found": found, "limits": limits, "holds": holds}
    write_record(out / "claim.json", measured, "jax", "jaxmup")
    for analysis in result.analyses:
        print(analysis.verdict)
    print(f"{name}: {found} after {seconds} s: {'holds' if holds else 'DOES NOT HOLD'}", flush=True)
    return holds


def prepare(description: str) -> Path | None:
    """Reads the arguments, gives each core a device, and returns where to record the trials."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--trials", type=Path, help="directory in which a killed run goes on")
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    return parser.parse_args().trials


def _show(at: transfer.Progress) -> None:
    print(f"\r{at.done / at.total:6.1%} {at.parametrization} {at.width}", end="\n" * (not at.width))


def _numbers(analysis: transfer.Analysis) -> dict[str, float | bool | None]:
    return {
        "beta": analysis.drift_per_doubling,
        "penalty": analysis.penalty,
        "at_edge": bool(analysis.edges),
    }


def _holds(found: dict[str, dict]) -> bool:
    mup, standard = found["mup"], found["standard"]
    known = None not in (mup["beta"], mup["penalty"], standard["beta"]) and not mup["at_edge"]
    return (
        known
        and abs(mup["beta"]) <= BETA_LIMIT
        and mup["penalty"] <= PENALTY_LIMIT
        and standard["beta"] < STANDARD_LIMIT
    )
