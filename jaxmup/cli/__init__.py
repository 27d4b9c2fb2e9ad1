"""The command line; this module needs no other package, so that it can say which is missing."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 if all went well, 2 on bad input, with one line on stderr.

    Args:
      arguments: what follows the command's name; `None` for those of the process.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; without arguments it shows the help."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        from jaxmup import _extras

        _extras.require("rich", "The command line")
        typer = _extras.require("typer", "The command line")
    except ModuleNotFoundError as error:
        return _fail(str(error))

    from jaxmup.cli._app import app
    from jaxmup.cli._errors import BadInputError

    try:
        return app(args=arguments, prog_name="jaxmup", standalone_mode=False) or 0
    except typer.TyperException as error:
        return _fail(error.format_message())
    except BadInputError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted.", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    return 2
