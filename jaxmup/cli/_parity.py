"""The command `jaxmup parity`."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from jaxmup.cli._errors import bad_input
from jaxmup.cli._terminal import console

if TYPE_CHECKING:
    from jaxmup.parity import Comparison


def parity(
    steps: Annotated[int, typer.Option(help="Optimizer steps of each run.")] = 100,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Checks that jaxmup trains as PyTorch does.

    Trains an MLP at four times its base width with jaxmup, and beside it a plain PyTorch model
    under torch.optim, whose parameter groups have the learning rates of Tensor Programs V, Table 3:
    from the same weights, on the same batches, with every optimizer. Prints the largest relative
    difference of losses and weights after any step.

    Needs PyTorch. The exit code is 0 if all differences are rounding, 1 if one is not.
    """
    from jaxmup.parity import compare

    with bad_input(ModuleNotFoundError, ValueError):
        running = compare(steps)
    with console(stderr=True).status("Training on both sides ..."):
        comparisons = list(running)
    if as_json:
        print(json.dumps(_record(comparisons), indent=2))
    else:
        console().print(_table(comparisons))
    if not _passed(comparisons):
        raise typer.Exit(1)


def _passed(comparisons: Sequence["Comparison"]) -> bool:
    return all(comparison.passed for comparison in comparisons)


def _record(comparisons: Sequence["Comparison"]) -> dict[str, object]:
    rows = [
        {
            "case": c.case,
            "dtype": c.dtype,
            "steps": c.steps,
            "largest_relative_difference": c.difference if math.isfinite(c.difference) else None,
            "allowed": c.largest,
            "passed": c.passed,
        }
        for c in comparisons
    ]
    return {"passed": _passed(comparisons), "comparisons": rows}


def _table(comparisons: Sequence["Comparison"]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("case")
    table.add_column("dtype")
    table.add_column("steps", justify="right")
    table.add_column("largest relative difference", justify="right")
    table.add_column("allowed", justify="right")
    table.add_column("pass")
    for c in comparisons:
        numbers = (str(c.steps), f"{c.difference:.1e}", f"{c.largest:.0e}")
        table.add_row(c.case, c.dtype, *numbers, "yes" if c.passed else "NO")
    return table
