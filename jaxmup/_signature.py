"""What a function that a user passes can be told."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def open_parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function, a class or a `functools.partial` that are not given yet.

    Example:
      >>> def make(width, rngs, depth=2): ...
      >>> list(open_parameters(functools.partial(make, depth=3)))
      ['width', 'rngs']
    """
    given: set[str] = set()
    while isinstance(function, functools.partial):
        given |= function.keywords.keys()
        function = function.func
    if isinstance(function, type):  # the metaclass of NNX hides the signature
        function = function.__init__
    parameters = inspect.signature(function).parameters
    return {name: one for name, one in parameters.items() if name not in given}
