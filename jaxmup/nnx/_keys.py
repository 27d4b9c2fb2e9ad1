"""Random keys for Flax's constructors, each drawn once, at a price that does not grow."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx
from jax import Array


class Keys:
    """The keys that `nnx.Rngs` gives, for one of Flax's constructors.

    Args:
      rngs: Random keys that the user gave.
    """

    def __init__(self, rngs: nnx.Rngs):
        self._rngs = rngs
        self._drawn: list[Array] = []

    def params(self) -> Array:
        """The next key of a parameter."""
        self._drawn.append(_next(self._rngs.params))
        return self._drawn[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rngs, name)  # other streams, such as that of dropout

    def again(self) -> "Replayed":
        """The keys of the parameters once more, in the same order.

        A layer that takes the place of one of Flax's draws with them what that would have drawn.
        """
        return Replayed(iter(self._drawn))


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Keys of parameters that have been drawn.

    Args:
      keys: The keys, in their order.
    """

    keys: Iterator[Array]

    def params(self) -> Array:
        """The next key of a parameter."""
        return next(self.keys)


def _next(stream: Any) -> Array:
    """The next key of a stream of `nnx.Rngs`, which counts it."""
    if type(stream) is not nnx.RngStream or not isinstance(stream.count[...], jax.Array):
        return stream()
    # As the stream itself does, but that Flax asks the count for its sharding. To say that a traced
    # one has none, JAX goes through all that was traced before: seconds in a model of many layers.
    count = stream.count
    key = jax.random.fold_in(stream.key[...], count[...])
    count.set_value(count[...] + 1)
    return key
