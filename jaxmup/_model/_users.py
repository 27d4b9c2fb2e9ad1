"""The code of a user: whatever it raises becomes one kind of error, which says what was wanted."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

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


def as_loss(value: Any) -> Array:
    """The value of a loss function, once it is a number that can be differentiated.

    Raises:
      TypeError: if it is no array, or not of floating point.
      ValueError: if it is no scalar.
    """
    what = "`loss_fn` must return a scalar of floating point."
    try:
        shape, dtype = np.shape(value), jnp.result_type(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} Got a {type(value).__name__}.") from None
    if value is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{what} Got {'None' if value is None else f'one of dtype {dtype}'}.")
    if shape != ():
        raise ValueError(f"{what} Got an array of shape {shape}. Take its mean.")
    return jnp.asarray(value)
