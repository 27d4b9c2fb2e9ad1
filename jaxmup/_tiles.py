"""Initial values for any width, tiled with independent draws of those at base width."""

import dataclasses
import functools
import math
import types
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmup import _check
from jaxmup._program import as_function, traced, with_quick_bits
from jaxmup.functional import scale

Initializer: TypeAlias = Callable[..., Any]
"""From key, shape and dtype to an array, or to a box around one such as Flax's for partitioning."""


@dataclasses.dataclass(frozen=True)
class Grown:
    """An initializer for any width from one for the base width, its values multiplied by `gain`.

    `init` is only ever called with `drawn_shape`: a larger array is tiled with independent draws, a
    smaller one is cut out of one draw. So its standard deviation at base width, whatever it is and
    however it depends on the shape, is the σ that the parametrization scales; no initializer has to
    be known or taken apart. At base width the values are those of `init`, bit for bit.

    Args:
      init: Initializer `(key, shape, dtype) -> array`; it may return a box such as
        `nn.with_partitioning`'s.
      base_shape: Shape of the parameter in the base model.
      drawn_shape: Shape that `init` is called with, of as many entries.
      gain: Factor on the values; dimensionless.

    Example:
      >>> ones = Grown(jax.nn.initializers.ones, (2, 2), (2, 2), gain=0.5)
      >>> ones(jax.random.key(0), (2, 4), jnp.float32)
      Array([[0.5, 0.5, 0.5, 0.5],
             [0.5, 0.5, 0.5, 0.5]], dtype=float32)
    """

    init: Initializer
    base_shape: tuple[int, ...]
    drawn_shape: tuple[int, ...]
    gain: float

    def __call__(
        self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> Any:
        """The initial values of this shape and dtype."""
        if _check.is_traced(key) and _is_fixed(self.init):
            return _traced_once(self, shape, jnp.dtype(dtype))(key)
        return self.draw(key, shape, dtype)

    def draw(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """The initial values, traced again at every call where there is a trace."""
        tiles = tuple(-(-size // base) for size, base in zip(shape, self.base_shape, strict=True))
        draw = functools.partial(self._draw_one, dtype=dtype)
        if math.prod(tiles) == 1:  # the key as it is: at base width the bits are those of `init`
            drawn = draw(key)
        else:
            keys = jax.random.split(key, math.prod(tiles))
            drawn = _draw_tiles(_quick(draw, key), keys, tiles)
            drawn = jax.tree.map(lambda x: join_tiles(x, tiles, self.base_shape), drawn)
        window = tuple(slice(size) for size in shape)
        return jax.tree.map(lambda x: scale(x if x.shape == shape else x[window], self.gain), drawn)

    def _draw_one(self, key: jax.Array, dtype: DTypeLike) -> Any:
        drawn = self.init(key, self.drawn_shape, dtype)
        return jax.tree.map(lambda x: x.reshape(self.base_shape), drawn)


@functools.lru_cache(maxsize=512)
def _traced_once(grown: Grown, shape: tuple[int, ...], dtype: np.dtype) -> Callable[..., Any]:
    """The values as a function of the key that JAX traces once and writes out at each call."""
    return jax.jit(functools.partial(grown.draw, shape=shape, dtype=dtype), inline=True)


@functools.lru_cache(maxsize=512)
def _is_fixed(value: Any) -> bool:
    """True for a function of JAX or Flax, and for what it holds, that cannot draw otherwise later.

    A function of the user's may read what he changes in between, and must be called to see it.
    """
    if isinstance(value, types.FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        room = value.__globals__["__name__"].partition(".")[0]
        return room in ("jax", "flax") and all(map(_is_fixed, held))
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return value is None or isinstance(value, (str, int, float, np.generic, np.dtype, type))


def _quick(draw: Callable[[jax.Array], Any], key: jax.Array) -> Callable[[jax.Array], Any]:
    """The same draws, quick to compile."""
    program, result = traced(draw, key)
    run, structure = as_function(with_quick_bits(program)), jax.tree.structure(result)
    return lambda key: jax.tree.unflatten(structure, run(key))


def _draw_tiles(draw: Callable[..., Any], keys: jax.Array, tiles: tuple[int, ...]) -> Any:
    """The draws of a grid of tiles, with an axis for each axis along which there are several."""
    # On one axis of all tiles they could be sharded over devices by the first factor alone, and
    # every device would draw the whole of the others.
    several = tuple(n for n in tiles if n > 1)
    for _ in several:
        draw = jax.vmap(draw)
    return draw(keys.reshape(several + keys.shape[1:]))


def join_tiles(x: jax.Array, tiles: tuple[int, ...], base_shape: tuple[int, ...]) -> jax.Array:
    """The tiles `x[i]` or `x[i, j, ...]` laid out on a grid of `tiles`, as one array."""
    rank = len(tiles)
    grid = x.reshape(tiles + base_shape)
    interleaved = grid.transpose([axis for i in range(rank) for axis in (i, rank + i)])
    return interleaved.reshape([n * b for n, b in zip(tiles, base_shape, strict=True)])
