"""The command `jaxmup explain`."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxmup.cli._errors import BadInputError, bad_input

if TYPE_CHECKING:
    from jaxmup import Explanation, Finding

_COLORS = {"hidden": "cyan", "input": "green", "output": "magenta", "fixed": "dim"}


def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="What makes the model: a function of the width that returns an NNX module, a "
            "Linen module or a tree of parameters. The module is looked for here first.",
        ),
    ],
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
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="For a Linen module: a function of the width that returns its example inputs, an "
            "array or a tuple.",
        ),
    ] = None,
    parametrization: Annotated[
        str, typer.Option(help="Name of the parametrization.", metavar="NAME")
    ] = "mup",
    family: Annotated[
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
    depth_alpha: Annotated[
        float | None, typer.Option(help="Exponent of depth in residual blocks; 1 is CompleteP.")
    ] = None,
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
    """What muP does to each parameter of a model, and why; then what is wrong with it, if anything.

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
    make_model = function_named(model, "MODULE:FUNCTION")
    make_inputs = None if inputs is None else function_named(inputs, "--inputs")
    with bad_input(ValueError, TypeError):
        specs, at_base = _specs(make_model, make_inputs, target, base, delta)
        rule = _parametrization(specs, parametrization, family, gauge, depth_alpha)
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
        print("\n\n".join([explanation.markdown(), *(f"```\n{f}\n```" for f in findings)]))
    else:
        _show(explanation, findings)


def function_named(reference: str, option: str) -> Callable[..., Any]:
    """What `package.module:name` names."""
    module_name, colon, name = reference.partition(":")
    if not (module_name and colon and name):
        raise BadInputError(
            f"`{option}` must be a module and a function of it. Got {reference!r}. "
            "Try package.module:make_model."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise failed(f"Module {module_name!r} could not be imported", error) from error
        raise BadInputError(
            f"There is no module {error.name!r}, for {reference!r}. It is looked for in {here} and "
            "among the installed packages."
        ) from error
    except Exception as error:
        raise failed(f"Module {module_name!r} could not be imported", error) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise BadInputError(f"Module {module_name!r} has no {name!r}, for {reference!r}.")
        found = getattr(found, part)
    if not callable(found):
        raise BadInputError(f"{reference!r} must be a function of the width. Got {found!r}.")
    return found


def failed(what: str, error: BaseException) -> BadInputError:
    """An error of the user's code, with the line of it that raised."""
    place, at = "", error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        if "importlib" not in code.co_filename and not code.co_filename.startswith("<frozen"):
            place = f" ({Path(code.co_filename).name}, line {at.tb_lineno})"
        at = at.tb_next
    return BadInputError(f"{what}: {type(error).__name__}: {error}{place}")


def _specs(
    make_model: Callable[..., Any],
    make_inputs: Callable[..., Any] | None,
    target: int,
    base: int | None,
    delta: int | None,
) -> tuple[Any, Any]:
    """The specs that the layers declare, or those that follow from three widths.

    Beside them shapes of the base model, by which declared specs are checked.
    """
    declared = _declared(make_model, make_inputs, target)
    if declared is not None:
        return declared, None if base is None else _declared(make_model, make_inputs, base)
    if base is None:
        raise BadInputError(
            "Not every parameter is of a jaxmup layer, so models must be compared to find what "
            "grows. Got no `--base`. Pass the width of the base model."
        )
    import jax

    from jaxmup import infer

    delta = base + max(base // 2, 1) if delta is None else delta
    for width in (base, delta):
        _abstract(make_model, width)
    specs = infer(make_model, base=base, delta=delta, target=target, inputs=make_inputs)
    return specs, jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.base_shape, "float32"), specs)


def _declared(
    make_model: Callable[..., Any], make_inputs: Callable[..., Any] | None, width: int
) -> Any:
    """The specs of a model all of whose parameters are of jaxmup layers; else `None`."""
    from flax import nnx

    import jaxmup

    model = _abstract(make_model, width)
    if not (_is_linen(model) or isinstance(model, nnx.Module)):
        return None
    inputs = _example(make_inputs, width) if _is_linen(model) else ()
    specs: Any = jaxmup.linen.specs if _is_linen(model) else jaxmup.nnx.specs
    try:
        return specs(model, *inputs)
    except ValueError:
        return None
    except Exception as error:  # whatever calling the user's module raises
        raise failed(f"The model of width {width} could not be called", error) from error


def _abstract(make_model: Callable[..., Any], width: int) -> Any:
    """The model of this width, without its arrays."""
    from flax import nnx

    unbuilt: list[Any] = []

    def made() -> Any:
        model = make_model(width)
        if not _is_linen(model):
            return model
        unbuilt.append(model)  # a Linen module has no arrays yet
        return ()

    try:
        model = nnx.eval_shape(made)
    except Exception as error:  # whatever the user's function raises
        raise failed(f"The model of width {width} could not be built", error) from error
    return unbuilt[0] if unbuilt else model


def _is_linen(model: Any) -> bool:
    from flax import linen

    return isinstance(model, linen.Module)


def _example(make_inputs: Callable[..., Any] | None, width: int) -> tuple[Any, ...]:
    if make_inputs is None:
        raise BadInputError(
            "A Linen module has parameters once it is called. Got no `--inputs`. Pass a function "
            "of the width that returns example inputs, such as package.module:make_inputs."
        )
    try:
        inputs = make_inputs(width)
    except Exception as error:  # whatever the user's function raises
        raise failed(f"The inputs of width {width} could not be made", error) from error
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def _parametrization(
    specs: Any, name: str, family: str, gauge: str | None, depth_alpha: float | None
) -> Any:
    import jax

    import jaxmup

    applied = [spec.applied for spec in jax.tree.leaves(specs)]
    if (
        gauge is None
        and name == "mup"
        and any(a is not None and a.init_gain is None for a in applied)
    ):
        gauge = "table3"  # a plain layer applies no multiplier
    names = cast(Any, (name, family))  # `parametrization` checks them
    return jaxmup.parametrization(*names, gauge=cast(Any, gauge), depth_alpha=depth_alpha)


def _show(explanation: "Explanation", findings: list["Finding"]) -> None:
    console = Console(highlight=False)
    title, body, legend = explanation.text(console.width).split("\n\n")
    table = _table(explanation)
    wide = console.options.update(max_width=10_000)
    fits = console.measure(table, options=wide).maximum <= console.width
    shown = table if fits else Text(body, no_wrap=True, overflow="ignore")
    console.print(Text(title), "", shown, "", Text(legend, style="dim"), sep="\n")
    for finding in findings:
        console.print("", Text(finding.text(console.width), style="yellow"), sep="\n")


def _table(explanation: "Explanation") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns = explanation.columns()
    for column in columns:
        justify = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, no_wrap=True)
    cells_of_rows = zip(*(column.cells for column in columns), strict=True)
    for row, cells in zip(explanation.rows, cells_of_rows, strict=True):
        styles = (_COLORS[row.role] if column.title == "role" else "" for column in columns)
        table.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
    return table
