"""The command `jaxmup coord-check`."""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from jaxmup.cli._command import given_options
from jaxmup.cli._errors import BadInputError, bad_input
from jaxmup.cli._function import calling, function, measuring, watched
from jaxmup.cli._model import model_of
from jaxmup.cli._options import DepthAlpha, MakeModel, ParametrizationName, path_of
from jaxmup.cli._out import out_folder
from jaxmup.cli._terminal import console, on_one_line

if TYPE_CHECKING:
    from jaxmup import Model, Parametrization
    from jaxmup.coord_check import CoordCheck, MakeTx, Verdict

_COLORS = {
    "pass": "green",
    "fail": "red",
    "too small": "yellow",
    "not enough seeds": "yellow",
    "could not decide": "yellow",
}
_FILES = ("coord_check.jsonl", "coord_check.png")
_OPTIMIZERS = ("adam", "adamw", "amsgrad", "sgd")  # that the command makes itself

Data = Annotated[
    str,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="A function without arguments that returns a batch `(inputs, targets)`, for every "
        "step, or an iterable of such batches.",
    ),
]
Sizes = Annotated[
    str,
    typer.Option(
        help="Sizes of the models, with commas between; or auto: 64,128,256, and up to 1024 where "
        "rows ask for larger ones. Must be given for depths."
    ),
]
Over = Annotated[Literal["width", "depth"], typer.Option(help="What the sizes are.")]
Loss = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="A function of outputs and targets.",
        show_default="cross-entropy of integer targets, else the mean squared error",
    ),
]
Apply = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION", help="A function of a tree of parameters and the inputs."
    ),
]
Optimizer = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"The optimizer: {', '.join(_OPTIMIZERS)}; with --make-tx, any that "
        "`jaxmup.parametrization` knows.",
    ),
]
MakeTxOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="A function of the scalings that returns an optax transform.",
        show_default="that of the optimizer",
    ),
]
LearningRate = Annotated[
    float, typer.Option(help="Learning rate of the base model, without --make-tx.")
]
WeightDecay = Annotated[float | None, typer.Option(help="Weight decay, without --make-tx.")]
Gauge = Annotated[
    str | None,
    typer.Option(help="How weights are stored.", metavar="NAME", show_default="a fitting one"),
]
Seeds = Annotated[
    str,
    typer.Option(
        metavar="NUMBER",
        help="Number of seeds, each with other initial values; or auto: 4, and up to 32 until each "
        "row is decided.",
    ),
]
Largest = Annotated[
    int | None,
    typer.Option(help="Size to go on to where rows ask for it.", show_default="as --sizes say"),
]
Steps = Annotated[int, typer.Option(help="Steps of the optimizer.")]
Out = Annotated[
    Path,
    typer.Option(
        parser=path_of, metavar="PATH", help="Folder for coord_check.jsonl and coord_check.png."
    ),
]
Every = Annotated[bool, typer.Option("--every", help="Show the rows that pass, too.")]


def coord_check(
    ctx: typer.Context,
    model: MakeModel,
    data: Data,
    sizes: Sizes = "64,128,256,512",
    over: Over = "width",
    loss: Loss = None,
    apply: Apply = None,
    optimizer: Optimizer = "adam",
    make_tx: MakeTxOption = None,
    learning_rate: LearningRate = 2**-7,
    weight_decay: WeightDecay = None,
    parametrization: ParametrizationName = "mup",
    gauge: Gauge = None,
    depth_alpha: DepthAlpha = None,
    seeds: Seeds = "4",
    largest: Largest = None,
    steps: Steps = 4,
    out: Out = Path(),
    every: Every = False,
) -> None:
    """Does everything in a model grow with its width as muP says? Trains it, and measures.

    Trains a model of every width for a few steps and compares how outputs, weights, steps, weight
    decay and eps grow with what theory expects. The exit code is 0 if every row passes, and 1 if
    one fails or could not be decided.

    Example: jaxmup coord-check my_project.model:make_model --data my_project.model:make_batch
    """
    from jaxmup._files import write_atomically
    from jaxmup._model import as_loss
    from jaxmup.coord_check import coord_check, write_record
    from jaxmup.coord_check._coord_check import default_loss
    from jaxmup.plots import coord_check_figure, png

    given = given_options(ctx)
    _require_used(given)
    if over == "depth" and "sizes" not in given:
        raise BadInputError("`--sizes` must be given for `--over depth`. Try --sizes 2,4,8,16.")
    numbers, number = _sizes(sizes), _seeds(seeds)
    user_model = model_of(model)
    loss_fn = (
        calling(default_loss, "The loss") if loss is None else function(loss, "--loss", as_loss)
    )
    if apply is not None:
        user_model = _applied(user_model, apply)
    make = _function(make_tx, "--make-tx") or _make_tx(optimizer, learning_rate, weight_decay)
    with bad_input(ValueError, TypeError):
        asked = _parametrization(parametrization, optimizer, gauge, depth_alpha)
    batches = watched(function(data, "--data")(), f"`--data` {data} failed")
    with out_folder(out, _FILES):
        with measuring("The check could not be run"):
            check = coord_check(
                user_model,
                numbers,
                batches,
                make,
                parametrization=asked,
                over=over,
                seeds=number,
                largest=largest,
                steps=steps,
                loss_fn=loss_fn,
            )
        with bad_input(OSError, ValueError, prefix="The results could not be written. "):
            write_record(check, out / "coord_check.jsonl")
            write_atomically(out / "coord_check.png", png(coord_check_figure(check)))
    _show(check, every, out)
    if check.outcome != "pass":
        raise typer.Exit(1)


def _require_used(given: Collection[str]) -> None:
    """Refuses numbers of the optimizer beside a function that makes one."""
    for name in ("learning_rate", "weight_decay"):
        if "make_tx" in given and name in given:
            raise BadInputError(
                f"`--{name.replace('_', '-')}` must be left out with `--make-tx`, whose optimizer "
                "has its own."
            )


def _applied(model: "Model", apply: str) -> "Model":
    if model.apply is not None:
        raise BadInputError(
            f"`--apply` must be left out for a Model that has a function `apply`. Got {apply!r}."
        )
    return dataclasses.replace(model, apply=function(apply, "--apply"))


def _sizes(text: str) -> tuple[int, ...] | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadInputError(
            f"`--sizes` must be integers with commas between. Got {text!r}. Try 64,128,256."
        ) from error


def _seeds(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError as error:
        raise BadInputError(
            f"`--seeds` must be a number or auto. Got {text!r}. Try --seeds auto."
        ) from error


def _function(reference: str | None, option: str) -> Callable[..., Any] | None:
    return None if reference is None else function(reference, option)


def _make_tx(optimizer: str, learning_rate: float, weight_decay: float | None) -> "MakeTx":
    import jaxmup

    if optimizer not in _OPTIMIZERS:
        raise BadInputError(
            f"`--optimizer` must be one of {', '.join(_OPTIMIZERS)} without `--make-tx`. Got "
            f"{optimizer!r}."
        )
    make = getattr(jaxmup.optim, optimizer)
    options = {} if weight_decay is None else {"weight_decay": weight_decay}
    return lambda scalings: make(learning_rate, scalings, **options)


def _parametrization(
    name: str, optimizer: str, gauge: str | None, depth_alpha: float | None
) -> "Parametrization | None":
    import jaxmup

    names = cast(Any, (name, optimizer))  # `parametrization` checks them
    asked = jaxmup.parametrization(*names, gauge=cast(Any, gauge), depth_alpha=depth_alpha)
    # The check takes the gauge that fits the model where none is asked for.
    return None if gauge is None and asked == jaxmup.parametrization("mup", "adam") else asked


def _show(check: "CoordCheck", every: bool, out: Path) -> None:
    from jaxmup.coord_check._result import causes

    terminal = console()
    terminal.print(
        f"Coordinate check over {check.over} {', '.join(map(str, check.sizes))}, "
        f"{len(check.seeds)} seeds, {check.steps} steps, {check.parametrization}"
    )
    verdict = Text(f"\n{check.outcome}", _COLORS[check.outcome])
    terminal.print(verdict.append(f": {check.reason}", ""))
    for paragraph in causes(check):
        terminal.print("", Text(paragraph), sep="\n")
    if rows := [*(check.verdicts if every else check.not_passing)]:
        terminal.print("", _table(rows), sep="\n")
    written = f"Written: {out / 'coord_check.jsonl'}, {out / 'coord_check.png'}"
    terminal.print(Text(written, "dim"))


def _table(rows: "list[Verdict]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("quantity", "of", "step", "slope", "expected", "verdict", "line"):
        table.add_column(title, justify="right" if title in ("step", "slope") else "left")
    for one in rows:
        slope = one.slope and f"{one.slope.value:+z.2f} ± {one.slope.half_width:.2f}"
        name = on_one_line(one.title)
        cells = [one.quantity, name, str(one.step), slope or "none", str(one.expected)]
        verdict = Text(one.outcome, _COLORS[one.outcome])
        table.add_row(*map(Text, cells), verdict, Text(on_one_line(one.line)))
    return table
