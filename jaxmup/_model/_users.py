"""The code of a user: whatever it raises becomes one kind of error, which says what was wanted."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def call_users(what: str, function: Callable[..., T], *args: Any) -> T:
    """Calls a function of the user's; an error says what was wanted of it if it raises."""
    try:
        return function(*args)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{what}. It raised {type(error).__name__}: {error}") from error
