"""Random bits that XLA for CPUs compiles quickly, the same as JAX's."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._program._calls import called, is_plain_call
from jaxmup._program._evaluate import evaluate
from jaxmup._program._jax import ClosedJaxpr, Equation

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def quick_bits(equation: Equation, inputs: Sequence[Any]) -> list[Any] | None:
    """The results of an equation that draws bits by Threefry on a CPU; `None` for any other.

    A hook of `evaluate`. The bits are those of the equation itself, the calls inside of which it
    finds some stay calls; what a loop draws is left alone.

    Example:
      >>> draw = lambda key: jax.random.normal(key, (2,))
      >>> key = jax.random.key(0)
      >>> evaluate(jax.make_jaxpr(draw)(key), [key], quick_bits)[0] == draw(key)
      Array([ True,  True], dtype=bool)

    References:
      Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 3.2 and Table 1.
    """
    # JAX's own for CPUs loops over the rounds with rotations that are data, and LLVM compiles every
    # nest of loops over an array again for each combination of what it has to check of them: tiles
    # on a grid, of four axes, take twenty times as long as these rounds one after another.
    if jax.default_backend() != "cpu" or not jax.config.jax_threefry_partitionable:
        return None
    if is_plain_call(equation):
        run = _quick(called(equation))
        return None if run is None else run(*inputs)
    if not _is_threefry(equation):
        return None
    return [
        _bits(
            jax.random.key_data(inputs[0]), equation.params["shape"], equation.params["bit_width"]
        )
    ]


@functools.lru_cache(maxsize=512)  # as JAX keeps these programs, so each is compiled once
def _quick(program: ClosedJaxpr) -> Callable[..., list[Any]] | None:
    """A program that draws bits, as a function of its inputs; `None` if it draws none."""
    if not _draws(program):
        return None
    return jax.jit(lambda *inputs: evaluate(program, inputs, quick_bits))


def _draws(program: ClosedJaxpr) -> bool:
    return any(
        _draws(called(equation)) if is_plain_call(equation) else _is_threefry(equation)
        for equation in program.jaxpr.eqns
    )


def _is_threefry(equation: Equation) -> bool:
    if equation.primitive.name != "random_bits":
        return False
    is_small = math.prod(equation.params["shape"]) < 2**32  # positions are of one word
    return is_small and equation.invars[0].aval.dtype.name == "key<fry>"


@functools.partial(jax.jit, static_argnums=(1, 2))
def _bits(keys: Array, shape: tuple[int, ...], width: int) -> Array:
    """Random bits of each key `keys[..., :]`, as unsigned integers `(..., *shape)`."""
    ones = (1,) * len(shape)
    first, second = (keys[..., i].reshape(keys.shape[:-1] + ones) for i in range(2))
    high, low = _threefry(first, second, _positions(shape))
    if width == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{width}")


def _positions(shape: tuple[int, ...]) -> Array:
    """The position of each entry of an array, counted row by row."""
    # From a count along each axis, so that each device can make those of its part alone.
    positions = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        positions += stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return positions


def _threefry(first: Array, second: Array, low: Array) -> tuple[Array, Array]:
    """The 20 rounds of Threefry-2x32 on the words `(0, low)` with the key `(first, second)`."""
    keys = (first, second, first ^ second ^ np.uint32(_PARITY))
    x, y = jnp.zeros_like(low) + first, low + second
    for i in range(5):
        for turn in _ROTATIONS[i % 2]:
            x = x + y
            y = (y << np.uint32(turn)) | (y >> np.uint32(32 - turn))
            y = x ^ y
        x, y = x + keys[(i + 1) % 3], y + (keys[(i + 2) % 3] + np.uint32(i + 1))
    return x, y
