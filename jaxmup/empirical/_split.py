"""The arguments of a call, taken apart into the arrays that a gradient passes to and the rest."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import Array

from jaxmup._inputs import Call, Static, take_arrays

Args: TypeAlias = tuple[Any, ...]
"""Positional arguments of a call."""
Kwargs: TypeAlias = Mapping[str, Any]
"""Keyword arguments of a call."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A call without its arrays; compared by its fields.

    Args:
      static: Call without its arrays.
      is_input: For each array, True if it is floating-point or complex.
    """

    static: Static
    is_input: tuple[bool, ...]

    def joined(self, inputs: Sequence[Array], others: Sequence[Array]) -> Call:
        """The call with these arrays in their places."""
        sources = {True: iter(inputs), False: iter(others)}
        return self.static.joined([next(sources[kind]) for kind in self.is_input])


def split_call(args: Args, kwargs: Kwargs) -> tuple[Split, list[Array], list[Array]]:
    """A call without its arrays, those that a gradient passes to, and the other ones."""
    arrays, static = take_arrays(Call(args, kwargs))
    kinds = tuple(bool(jnp.issubdtype(one.dtype, jnp.inexact)) for one in arrays)
    inputs = [one for one, kind in zip(arrays, kinds, strict=True) if kind]
    others = [one for one, kind in zip(arrays, kinds, strict=True) if not kind]
    return Split(static, kinds), inputs, others
