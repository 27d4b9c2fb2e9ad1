"""A command whose options may stand once each, and whose help says what its exit codes mean."""

from typing import Any

import typer
from typer.core import TyperCommand

EXIT_CODES = (
    "Exit code: 0 if all went well and every check passed, 1 if a check failed, 2 if the command "
    "could not run, 130 if it was interrupted."
)


def given_options(ctx: typer.Context) -> set[str]:
    """The names of the options that stand on the command line, and not those of defaults."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


class Command(TyperCommand):
    """A command that refuses an option that stands twice, of which one would be ignored."""

    # The types of typer's own copy of click have no public names.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses what follows the command's name."""
        order: list[Any]
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        seen = set()
        for one in order:
            if one.param_type_name == "option" and one.name in seen and not one.multiple:
                raise typer.BadParameter("It must be given once.", ctx=ctx, param=one)
            seen.add(one.name)
        return super().parse_args(ctx, args)
