"""The errors of a command that cannot do what was asked for."""

import contextlib
from collections.abc import Iterator


class BadInputError(Exception):
    """A request that cannot be met; the message says why, and what can be done."""


class UsersCodeError(BaseException):
    """Code of the user's that has failed; the message says which, and where.

    It is no `Exception`: between that code and the command stand others that catch those, and say
    of them what is wrong.
    """


@contextlib.contextmanager
def bad_input(*kinds: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turns errors of these kinds, whose messages are made for users, into bad input.

    It serves as a decorator too, of a function that raises nothing else of these kinds.
    """
    try:
        yield
    except kinds as error:
        raise BadInputError(f"{prefix}{error}") from error
