"""Arguments by name: a function of the user's gets those that it has a parameter for."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxmup._tree import Size

KEYS = ("key", "rngs")  # the names by which a function asks for a random key


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


def asked_for(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `offered` arguments that `function` has an open parameter for, by name.

    A function with `**kwargs` gets none for them: what a library offers, it must be asked for.

    Example:
      >>> asked_for(lambda width, rngs: None, {"rngs": 1, "depth": 2})
      {'rngs': 1}
    """
    return {name: offered[name] for name in open_parameters(function) if name in offered}


def call_with_size(function: Callable[..., Any], size: Size, offered: Mapping[str, Any]) -> Any:
    """Calls a function of a size, with those of the `offered` arguments that it asks for.

    A mapping is keyword arguments, which win over what is offered. Where the function has no
    parameter of any of those names, and one that it must be given, the mapping is that argument, as
    a configuration is.

    Example:
      >>> call_with_size(lambda width, depth: (width, depth), {"width": 8}, {"depth": 2})
      (8, 2)
      >>> call_with_size(lambda config: config["width"], {"width": 8}, {})
      8
    """
    asked = asked_for(function, offered)
    if not isinstance(size, Mapping):
        return function(size, **asked)
    keywords = asked | dict(size)
    is_configuration = not (size.keys() & open_parameters(function).keys())
    if is_configuration and not _binds(function, **keywords) and _binds(function, size, **asked):
        return function(size, **asked)
    return function(**keywords)


def _binds(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """True if `function` can be called with these arguments, as far as its signature says."""
    if isinstance(function, type):
        function = functools.partial(function.__init__, None)  # None for self
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True
