"""Claim: muP keeps the best learning rate and the standard parametrization does not.

Repeats the default `jaxmup transfer` (widths 64 to 512, Adam, on the digits) over depths 2 to 4 and
batch sizes 64 to 256, so that the default is seen not to be a lucky pick. Writes
`transfer_matrix_<steps>_steps.json` and a table, the same in `.md`, to `benchmarks/results/`.
"""

import argparse
import dataclasses
import itertools
import os
import time
from pathlib import Path

import jax
from _record import RESULTS, write_record

from jaxmup import transfer

MUP_LIMIT, STANDARD_LIMIT = 0.5, 1.5  # octaves over the whole range


def measure_cell(depth: int, batch_size: int, seeds: int, steps: int) -> dict[str, object]:
    """One cell of the matrix, as JSON types."""
    config = transfer.Config(
        depth=depth, batch_size=batch_size, steps=steps, seeds=tuple(range(seeds))
    )
    start = time.perf_counter()
    result = transfer.measure(config)
    return {
        "depth": depth,
        "batch_size": batch_size,
        "seconds": round(time.perf_counter() - start, 1),
        "analysis": {a.parametrization: dataclasses.asdict(a) for a in result.analyses},
    }


def drift(analysis: dict) -> float:
    """By how many octaves the optimum of the largest network is above that of the smallest."""
    return analysis["curves"][-1]["optimum"] - analysis["curves"][0]["optimum"]


def row(cell: dict) -> str:
    """One line of the table."""
    mup, standard = cell["analysis"]["mup"], cell["analysis"]["standard"]
    shows = abs(drift(mup)) <= MUP_LIMIT and abs(drift(standard)) >= STANDARD_LIMIT
    edges = any(curve["at_edge"] for a in (mup, standard) for curve in a["curves"])
    return (
        f"| {cell['depth']} | {cell['batch_size']} "
        f"| {drift(standard):+.2f} | {drift(mup):+.2f} "
        f"| {standard['transferred_loss'] / standard['best_loss']:.2f} "
        f"| {mup['transferred_loss'] / mup['best_loss']:.2f} "
        f"| {'yes' if shows else 'no'}{' (edge)' if edges else ''} |"
    )


def table(cells: list[dict], seeds: int, steps: int) -> str:
    """The matrix as Markdown."""
    head = f"""# Learning-rate transfer over depth and batch size, {steps} steps

Widths 64 to 512, Adam, {seeds} seeds. Drift: of the best learning rate from width 64 to 512, in
octaves. Loss ratio: of width 512 at width 64's best learning rate, over its own best loss. Shows:
muP drifts by at most {MUP_LIMIT} and standard by at least {STANDARD_LIMIT}. Made by
`benchmarks/transfer_matrix.py`.

| depth | batch | drift, standard | drift, muP | loss ratio, standard | loss ratio, muP | shows |
|---|---|---|---|---|---|---|
"""
    return head + "\n".join(map(row, cells)) + "\n"


def main() -> None:
    """Runs the matrix, and writes it when it is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--seeds", type=int, default=len(transfer.Config().seeds))
    parser.add_argument("--steps", type=int, default=transfer.Config().steps)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    cells = []
    for depth, batch_size in itertools.product(args.depths, args.batch_sizes):
        cells.append(measure_cell(depth, batch_size, args.seeds, args.steps))
        print(row(cells[-1]), f"{cells[-1]['seconds']} s", flush=True)
    measured = {"seeds": args.seeds, "steps": args.steps, "cells": cells}
    path = args.out / f"transfer_matrix_{args.steps}_steps"
    write_record(path.with_suffix(".json"), measured, "jax", "jaxmup")
    path.with_suffix(".md").write_text(table(cells, args.seeds, args.steps))


if __name__ == "__main__":
    main()
