"""The code of a user: whatever it raises becomes one kind of error, which says what was wanted."""

from collections.abc import Callable
from typing import Any, TypeVar

from jaxmup._program import line_of_error

T = TypeVar("T")


def call_users(what: str, function: Callable[..., T], *args: Any) -> T:
    """Calls a function of the user's; an error says what was wanted of it, and the line."""
    try:
        return function(*args)
    except Exception as error:  # the user's code may raise anything
        line = line_of_error(error)
        place = "" if line is None else f" at {line}"
        raise ValueError(f"{what}. It raised {type(error).__name__}{place}: {error}") from error
