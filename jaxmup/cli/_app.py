"""The commands. What is slow to import is imported by the command that needs it."""

import typer

from jaxmup.cli._command import EXIT_CODES, Command
from jaxmup.cli._convert import convert
from jaxmup.cli._coord_check import coord_check
from jaxmup.cli._explain import explain
from jaxmup.cli._parity import parity
from jaxmup.cli._transfer import transfer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (transfer, coord_check, explain, convert, parity):
    app.command(cls=Command, epilog=EXIT_CODES)(command)


@app.callback()
def root() -> None:
    """Maximal-update parametrization for JAX: tune on a small network, use on a large one.

    A command exits with 0 if all went well and every check passed, with 1 if a check failed, with 2
    if it could not run, and with 130 if it was interrupted.
    """
