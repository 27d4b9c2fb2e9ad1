"""Modules whose outputs are tagged with their paths, by the means of their framework.

Neither the user's model nor any class is changed: an NNX model is a copy already when it comes
here, and Linen intercepts calls itself.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from flax import nnx

from jaxmup._tree import Tree
from jaxmup.coord_check._tags import scope, tag


def tag_nnx(model: nnx.Module) -> nnx.Module:
    """`model`, a copy that nobody else holds, with every call of a module in it tagged."""
    for path, module in list(nnx.iter_modules(model)):
        if callable(module):
            # Python looks up `__call__` on the class, so that the instance gets a class of its own.
            name = "/".join(map(str, path))
            object.__setattr__(module, "__class__", _tagged(type(module), name))
    return model


@functools.cache  # JAX keeps every class that it has seen, so that a new one each time would leak
def _tagged(cls: type, name: str) -> type:
    """A class like `cls` whose calls return tagged outputs."""

    @functools.wraps(cls.__call__)
    def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Tree:
        with scope(name):
            return tag(name, cls.__call__(self, *args, **kwargs))

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


def tagging_linen() -> contextlib.AbstractContextManager[Any]:
    """A context in which every call of a Linen module returns tagged outputs."""

    def interceptor(
        call: Callable[..., Tree],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Tree:
        # What other methods return is a part of what is computed, as are the products of an
        # embedding's `attend` before they are divided.
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        name = "/".join(context.module.path)
        with scope(name):
            return tag(name, call(*args, **kwargs))

    return nn.intercept_methods(interceptor)
