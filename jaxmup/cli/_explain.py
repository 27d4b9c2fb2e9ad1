"""The command `jaxmup explain`."""

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxmup._tree import leaves_by_path
from jaxmup.cli._errors import BadInputError, bad_input
from jaxmup.cli._function import measuring
from jaxmup.cli._model import at_width, model_of, require_no_inputs
from jaxmup.cli._options import DepthAlpha, MakeInputs, MakeModel, ParametrizationName
from jaxmup.cli._terminal import cleaned, console, on_one_line

if TYPE_CHECKING:
    from jaxmup import Explanation, Finding, Model, Parametrization, ParamSpec
    from jaxmup._tree import Specs, Tree

_LONGEST = 500  # rows of a table of rich, which measures every cell
_COLORS = {"hidden": "cyan", "input": "green", "output": "magenta", "fixed": "dim"}


def explain(
    model: MakeModel,
    target: Annotated[int, typer.Option(help="Width of the model to explain.")],
    base: Annotated[
        int | None,
        typer.Option(
            help="Width of the base model. A model of jaxmup layers knows it, and is checked "
            "against it; any other needs it."
        ),
    ] = None,
    delta: Annotated[
        int | None,
        typer.Option(
            help="A third width, for a model of other layers: axes that differ from the base's "
            "grow.",
            show_default="half as much again as the base",
        ),
    ] = None,
    inputs: MakeInputs = None,
    parametrization: ParametrizationName = "mup",
    optimizer: Annotated[
        str, typer.Option(help="The optimizer, such as sgd, adam or lion.", metavar="NAME")
    ] = "adam",
    gauge: Annotated[
        str | None,
        typer.Option(
            help="How weights are stored.",
            metavar="NAME",
            show_default="the parametrization's own; table3 for a model of other layers",
        ),
    ] = None,
    depth_alpha: DepthAlpha = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The base model's; shows learning rates instead of factors on it."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="A row for each of many equal layers.")
    ] = False,
    output: Annotated[
        Literal["table", "markdown", "json"], typer.Option("--format", help="How to print it.")
    ] = "table",
) -> None:
    """Shows what muP does to each parameter of a model, and why; then what is wrong, if anything.

    Shows for every parameter which axes grow, the role that follows from it, and what the
    parametrization does about it: multiplier, initial standard deviation, and the factors on
    learning rate, gradient, eps and weight decay. Models are built abstractly: any size takes
    seconds and no memory.

    Below the table: axes, readouts or bases that seem to have been forgotten. They don't change the
    exit code.

    Example: jaxmup explain my_project.model:make_model --base 64 --target 1024
    """
    from jaxmup import explain, lint

    for option, width in (("--base", base), ("--target", target), ("--delta", delta)):
        if width is not None and width < 1:
            raise BadInputError(f"`{option}` must be at least 1. Got {width}.")
    asked = _Asked(parametrization, optimizer, gauge, depth_alpha)
    with bad_input(ValueError, TypeError):
        parametrization_of_layers = asked.parametrization(plain=False)
    user_model = model_of(model, inputs).offering(
        parametrization=parametrization_of_layers, base_width=base
    )
    with measuring("The model could not be explained"):
        specs, at_base = _specs(user_model, target, base, delta, inputs)
        rule = asked.parametrization(plain=any(map(_is_plain, leaves_by_path(specs).values())))
        explanation = explain(specs, rule, learning_rate=learning_rate)
        findings = lint(specs, rule, base=at_base)
    explanation = explanation if every else explanation.grouped()
    if output == "json":
        print(
            json.dumps(
                explanation.record() | {"findings": [dataclasses.asdict(f) for f in findings]}
            )
        )
    elif output == "markdown":
        print(cleaned("\n\n".join([explanation.markdown(), *map(_fenced, findings)])))
    else:
        _show(explanation, findings)


class _Asked(NamedTuple):
    """The options that say which parametrization is meant."""

    name: str
    optimizer: str
    gauge: str | None
    depth_alpha: float | None

    def parametrization(self, *, plain: bool) -> "Parametrization":
        """The parametrization, for a model of jaxmup layers or a plain one."""
        from jaxmup import parametrization

        # A plain layer applies no multiplier.
        gauge = "table3" if self.gauge is None and self.name == "mup" and plain else self.gauge
        names = cast(Any, (self.name, self.optimizer))  # `parametrization` checks them
        return parametrization(*names, gauge=cast(Any, gauge), depth_alpha=self.depth_alpha)


def _is_plain(spec: "ParamSpec") -> bool:
    return spec.applied is not None and spec.applied.init_gain is None


def _specs(
    model: "Model", target: int, base: int | None, delta: int | None, inputs: str | None
) -> tuple["Specs", "Tree | None"]:
    """The specs that the layers declare, or those that follow from three widths.

    Beside them shapes of the base model, by which declared specs are checked.
    """
    instance = at_width(model, target)
    declared = instance.specs
    if declared is not None:
        if delta is not None:
            raise BadInputError(
                "`--delta` is for a model of other layers. Those of jaxmup know what grows. Got "
                f"{delta}."
            )
        if instance.kind != "linen":
            require_no_inputs(inputs, "a Linen module, or a model of other layers")
        return declared, None if base is None else at_width(model, base).specs
    if base is None:
        raise BadInputError(
            "Not every parameter is of a jaxmup layer, so models must be compared to find what "
            "grows. Got no `--base`. Pass the width of the base model."
        )
    if model.inputs is None:
        raise BadInputError(
            "Not every parameter is of a jaxmup layer, so the model must be called to find what "
            "each does. Got no `--inputs`. Pass what it is called with, or a function of the width "
            "that returns it, such as package.module:make_inputs. For a tree of parameters name a "
            "jaxmup.Model, which has an `apply`."
        )
    import jax

    from jaxmup import infer

    delta = base + max(base // 2, 1) if delta is None else delta
    for width in (base, delta):
        at_width(model, width)
    specs = infer(model, base=base, delta=delta, target=target)
    return specs, jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.base_shape, "float32"), specs)


def _fenced(finding: "Finding") -> str:
    """A finding as a block of code, whose fence is longer than any in it."""
    text = str(finding)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _show(explanation: "Explanation", findings: list["Finding"]) -> None:
    terminal = console()
    if len(explanation.rows) > _LONGEST:
        print(cleaned(explanation.text(terminal.width)))
        _show_findings(terminal, findings)
        return
    title, body, legend = explanation.text(terminal.width).split("\n\n")
    table = _table(explanation)
    wide = terminal.options.update(max_width=10_000)
    fits = terminal.measure(table, options=wide).maximum <= terminal.width
    shown = table if fits else Text(body, no_wrap=True, overflow="ignore")
    terminal.print(Text(title), "", shown, "", Text(legend, style="dim"), sep="\n")
    _show_findings(terminal, findings)


def _show_findings(terminal: Console, findings: list["Finding"]) -> None:
    for finding in findings:
        terminal.print("", Text(finding.text(terminal.width), style="yellow"), sep="\n")


def _table(explanation: "Explanation") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns = explanation.columns()
    for column in columns:
        justify = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, no_wrap=True)
    cells_of_rows = zip(*(column.cells for column in columns), strict=True)
    for row, cells in zip(explanation.rows, cells_of_rows, strict=True):
        styles = (_COLORS[row.role] if column.title == "role" else "" for column in columns)
        table.add_row(
            *(Text(on_one_line(cell), style) for cell, style in zip(cells, styles, strict=True))
        )
    return table
