"""The command line; this module needs no other package, so that it can say which is missing."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with the code that `run` returns.

    Args:
      arguments: what follows the command's name; `None` for those of the process.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; without arguments it shows the help.

    The code is 0 if all went well and every check passed, 1 if a check failed, 2 if the command
    could not run, with one line on stderr that says why, and 130 if it was interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _interrupted()


def _run(arguments: Sequence[str]) -> int:
    try:
        from jaxmup import _extras

        _extras.require("rich", "The command line")
        typer = _extras.require("typer", "The command line")
    except ModuleNotFoundError as error:
        return _fail(str(error))

    from jaxmup.cli._app import app
    from jaxmup.cli._errors import BadInputError, UsersCodeError
    from jaxmup.cli._terminal import cleaned, showing_what_it_can

    with showing_what_it_can():
        try:
            code = app(args=arguments, prog_name="jaxmup", standalone_mode=False) or 0
        except typer.TyperException as error:
            return _fail(cleaned(error.format_message()))
        except (BadInputError, UsersCodeError) as error:
            return _fail(cleaned(str(error)))
        except typer.Abort:
            return _interrupted()
        except SystemExit:  # from typer, which has seen that nobody reads what is printed
            return _fail("The output was closed before all of it was written.")
        return _interrupted() if code == 130 else code


def _interrupted() -> int:
    print("Interrupted.", file=sys.stderr)
    return 130


def _fail(message: str) -> int:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    return 2
