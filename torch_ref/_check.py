"""Argument checks: each error names the invariant, the value received and the remedy."""

import math
from collections.abc import Iterable


def positive(name: str, value: float, remedy: str) -> None:
    """Require `value` to be finite and above zero; NaN fails.

    Raises:
      ValueError: if it is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be positive and finite. Got {value!r}. {remedy}")


def non_negative(name: str, value: float, remedy: str) -> None:
    """Require `value` to be finite and at least zero; NaN fails.

    Raises:
      ValueError: if it is not.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be non-negative and finite. Got {value!r}. {remedy}")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Require `value` to be one of `choices`.

    Raises:
      ValueError: if it is not; the message lists the choices.
    """
    known = list(choices)
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"`{name}` must be one of {listed}. Got {value!r}. Pick one of these.")
