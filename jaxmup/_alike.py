"""Programs of several widths that do the same operations."""

import contextlib
import contextvars
from collections.abc import Iterator

ALIKE = contextvars.ContextVar("ALIKE", default=False)
"""True where a factor of 1 is multiplied by, and always the same operand."""


@contextlib.contextmanager
def same_operations() -> Iterator[None]:
    """A context in which what is traced does the same operations at every width.

    Elsewhere layers leave out a factor of 1, and multiply the smaller of two operands, so that the
    programs of two widths differ in more than their sizes.
    """
    token = ALIKE.set(True)
    try:
        yield
    finally:
        ALIKE.reset(token)
