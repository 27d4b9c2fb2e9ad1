"""The command `jaxmup convert`."""

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, cast

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jaxmup.cli._errors import BadInputError
from jaxmup.cli._function import measuring
from jaxmup.cli._model import at_width, model_of, require_no_inputs
from jaxmup.cli._options import MakeInputs, path_of
from jaxmup.cli._terminal import cleaned, console, on_one_line

if TYPE_CHECKING:
    from flax import nnx

    from jaxmup import Model, Parametrization
    from jaxmup._tree import Specs, Tree
    from jaxmup.bridge import Conversion, Plan
    from jaxmup.bridge._pairs import Pairs


SourceFile: TypeAlias = Annotated[
    Path,
    typer.Argument(
        parser=path_of,
        metavar="SRC",
        help="File to read: .safetensors, .safetensors.index.json, or .pt, .pth and .bin of "
        "torch.save.",
    ),
]
DestinationFile: TypeAlias = Annotated[
    Path,
    typer.Argument(
        parser=path_of, metavar="DST", help="File to write, which ends in .safetensors."
    ),
]
Side: TypeAlias = Annotated[
    Literal["flax", "torch"], typer.Option("--to", help="Side that is written.")
]
ModelFunction: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="Function of `--size` that makes the Flax model: an NNX module, a Linen module or "
        "a tree with arrays; or a `jaxmup.Model`. The module is looked for here first.",
    ),
]
Width: TypeAlias = Annotated[int, typer.Option(min=1, help="Width of the model.")]
LikeFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="PATH",
        help="With `--to torch`: a file of the PyTorch model, whose names and shapes are written.",
    ),
]
PairsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="PATH",
        help="TOML file with a table [pairs], from names of PyTorch to paths of Flax; false "
        "leaves a tensor out.",
    ),
]
SettingsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="PATH",
        help="config.json of Hugging Face, whose eps is compared with that of the layers.",
    ),
]
GaugeName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Gauge of the Flax side, such as table8; table3 has no multipliers.",
        show_default="that of the model",
    ),
]
GaugeOptimizer: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Optimizer that `--gauge` is for.", show_default="adam"),
]
AllowNan: TypeAlias = Annotated[
    bool, typer.Option("--allow-nan", help="Convert weights that are NaN too.")
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")
]


def convert(
    source: SourceFile,
    destination: DestinationFile,
    to: Side,
    model: ModelFunction,
    size: Width,
    inputs: MakeInputs = None,
    like: LikeFile = None,
    pairs: PairsFile = None,
    settings: SettingsFile = None,
    gauge: GaugeName = None,
    optimizer: GaugeOptimizer = None,
    allow_nan: AllowNan = False,
    dry_run: DryRun = False,
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

    _require_used(to, like, gauge, optimizer)
    user_model = model_of(model, inputs, "--model")
    with measuring("The conversion failed"):
        abstract, specs = _abstract(user_model, size, inputs)
        conversion = bridge.conversion(
            source,
            abstract,
            to=to,
            like=like,
            pairs=None if pairs is None else _pairs(pairs),
            parametrization=None if gauge is None else _parametrization(gauge, optimizer or "adam"),
            specs=specs,
            settings=settings,
        )
        more = tuple(path for path in (pairs, settings) if path is not None)
        conversion = dataclasses.replace(conversion, inputs=(*conversion.inputs, *more))
        conversion.require_destination(destination)
    _show(conversion.plan)
    if dry_run:
        console(stderr=True).print("Dry run: nothing was written.")
        return
    with measuring("The conversion failed"):
        _write(conversion, destination, allow_nan=allow_nan)


def _require_used(to: str, like: Path | None, gauge: str | None, optimizer: str | None) -> None:
    """Refuses options that would be ignored, and a way to PyTorch that does not know its names."""
    if to == "flax" and like is not None:
        raise BadInputError(f"`--like` is for `--to torch`. Got {str(like)!r} with `--to flax`.")
    if to == "torch" and like is None:
        raise BadInputError(
            "`--like` must be given with `--to torch`: a file of the PyTorch model, whose names "
            "and shapes are written."
        )
    if optimizer is not None and gauge is None:
        raise BadInputError(
            f"`--optimizer` says what `--gauge` is for. Got {optimizer!r} without `--gauge`."
        )


def _abstract(
    model: "Model", size: int, inputs: str | None
) -> tuple["nnx.Module | Tree", "Specs | None"]:
    """The model without its arrays; of a Linen module its variables, and specs if it has any."""
    from flax import linen

    instance = at_width(model, size)
    held = instance.join(instance.parts)
    if instance.kind != "linen":
        require_no_inputs(inputs, "a Linen module")
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
    terminal = console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("PyTorch", "Flax", "shapes", "transform"):
        table.add_column(title, no_wrap=True)
    for row in plan.rows():
        table.add_row(*(Text(on_one_line(cell)) for cell in row))
    wide = terminal.options.update(max_width=10_000)
    fits = terminal.measure(table, options=wide).maximum <= terminal.width
    if fits:
        terminal.print(table)
    else:
        terminal.print(Text(cleaned(str(plan))), no_wrap=True, overflow="ignore", crop=False)
    for remark in plan.remarks() if fits else ():
        terminal.print(Text(on_one_line(remark)))


def _write(conversion: "Conversion", destination: Path, *, allow_nan: bool) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("Converting", total=len(conversion.plan.entries))
        conversion.write(
            destination,
            allow_nan=allow_nan,
            progress=lambda done: progress.update(task, completed=done),
        )
