"""A function of the user's, named on the command line."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmup.cli._errors import BadInputError


def function(reference: str, option: str) -> Callable[..., Any]:
    """The function that `package.module:name` names."""
    found = named(reference, option)
    if not callable(found):
        raise BadInputError(f"{reference!r} must be a function. Got {found!r}.")
    return found


def named(reference: str, option: str) -> Any:
    """The object that `package.module:name` names.

    Args:
      reference: Module and name, joined by a colon.
      option: Option that the reference was given for, for errors.

    Raises:
      BadInputError: if there is no such object, or its module cannot be imported.
    """
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
