"""The command `jaxmup convert`."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jaxmup.cli._errors import BadInputError, bad_input
from jaxmup.cli._model import at_width, model_of
from jaxmup.cli._options import MakeInputs

if TYPE_CHECKING:
    from flax import nnx

    from jaxmup import Model, Parametrization
    from jaxmup._tree import Specs, Tree
    from jaxmup.bridge import Conversion, Plan
    from jaxmup.bridge._pairs import Pairs


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="File to read: .safetensors, .safetensors.index.json, or .pt, .pth and .bin of "
            "torch.save.",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="File to write, which ends in .safetensors.")
    ],
    to: Annotated[Literal["flax", "torch"], typer.Option("--to", help="Side that is written.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Function of `--size` that makes the Flax model: an NNX module, a Linen module or "
            "a tree with arrays; or a `jaxmup.Model`. The module is looked for here first.",
        ),
    ],
    size: Annotated[int, typer.Option(help="Width of the model.")],
    inputs: MakeInputs = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="With `--to torch`: a file of the PyTorch model, whose names and shapes are "
            "written."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with a table [pairs], from names of PyTorch to paths of Flax; false "
            "leaves a tensor out."
        ),
    ] = None,
    gauge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Gauge of the Flax side, such as table8; table3 has no multipliers.",
            show_default="that of the model",
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="Optimizer that `--gauge` is for.")
    ] = "adam",
    allow_nan: Annotated[
        bool, typer.Option("--allow-nan", help="Convert weights that are NaN too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")
    ] = False,
) -> None:
    """A PyTorch checkpoint for a Flax model, or the reverse.

    Prints every tensor with its place in the model, both shapes and the transform, then converts
    one tensor at a time. What is left over on either side is an error that lists it. The file
    appears whole, or not at all.

    On the Flax side the file is of safetensors too, with the paths of the leaves for names.

    Example: jaxmup convert gpt2.safetensors gpt2-flax.safetensors --to flax --model
    my_project.model:make_model --size 768
    """
    from jaxmup import bridge

    user_model = model_of(model, inputs, "--model")
    with bad_input(ValueError, TypeError, OSError, ModuleNotFoundError):
        abstract, specs = _abstract(user_model, size)
        conversion = bridge.conversion(
            source,
            abstract,
            to=to,
            like=like,
            pairs=None if pairs is None else _pairs(pairs),
            parametrization=None if gauge is None else _parametrization(gauge, optimizer),
            specs=specs,
        )
        _show(conversion.plan)
        if dry_run:
            Console(stderr=True).print("Dry run: nothing was written.")
        else:
            _write(conversion, destination, allow_nan=allow_nan)


def _abstract(model: "Model", size: int) -> tuple["nnx.Module | Tree", "Specs | None"]:
    """The model without its arrays; of a Linen module its variables, and specs if it has any."""
    from flax import linen

    instance = at_width(model, size)
    held = instance.join(instance.parts)
    if instance.kind != "linen":
        return held, None
    return linen.unbox(held), instance.specs_of_layers


def _parametrization(gauge: str, optimizer: str) -> "Parametrization":
    from jaxmup import parametrization

    unchecked = cast(Any, (optimizer, gauge))  # `parametrization` refuses names that there are not
    return parametrization("mup", unchecked[0], gauge=unchecked[1])


def _pairs(path: Path) -> "Pairs":
    """The table `[pairs]` of a TOML file; `false` stands for `None`, which TOML lacks."""
    try:
        pairs = tomllib.loads(path.read_text()).get("pairs")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"`--pairs` must be a TOML file. {path}: {error}") from error
    if not isinstance(pairs, dict):
        raise BadInputError(f"`--pairs` must have a table [pairs]. {path} has none.")
    return {name: None if value is False else value for name, value in pairs.items()}


def _show(plan: "Plan") -> None:
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("PyTorch", "Flax", "shapes", "transform"):
        table.add_column(title, no_wrap=True)
    for row in plan.rows():
        table.add_row(*map(Text, row))
    wide = console.options.update(max_width=10_000)
    fits = console.measure(table, options=wide).maximum <= console.width
    if fits:
        console.print(table)
    else:
        console.print(Text(str(plan)), no_wrap=True, overflow="ignore", crop=False)
    for note in plan.notes if fits else ():
        console.print(Text(f"Look at this: {note}"))


def _write(conversion: "Conversion", destination: Path, *, allow_nan: bool) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Converting", total=len(conversion.plan.entries))
        conversion.write(
            destination,
            allow_nan=allow_nan,
            progress=lambda done: progress.update(task, completed=done),
        )
