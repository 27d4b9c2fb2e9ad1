"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer


def path_of(text: str | Path) -> Path:
    """The path that an option names; an empty text would be the current folder."""
    if isinstance(text, Path):  # a default
        return text
    if not text or "\0" in text:
        raise typer.BadParameter(f"It must be a path. Got {text!r}.")
    return Path(text)


MakeModel = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FUNCTION",
        help="What makes the model: a function of the width that returns an NNX module, a Linen "
        "module or a tree of parameters. The module is looked for here first.",
    ),
]
MakeInputs = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME",
        help="What the model is called with, an array or a tuple, or a function of the width that "
        "returns it: for a Linen module, and for a model of other layers than jaxmup's.",
    ),
]
ParametrizationName = Annotated[
    str, typer.Option(help="Name of the parametrization.", metavar="NAME")
]
DepthAlpha = Annotated[
    float | None, typer.Option(help="Exponent of depth in residual blocks; 1 is CompleteP.")
]
