"""Random bits that XLA for CPUs compiles quickly, the same as JAX's."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._program._calls import called, is_plain_call
from jaxmup._program._evaluate import evaluate
from jaxmup._program._jax import ClosedJaxpr, Equation, as_function, bind, define_prng_impl
from jaxmup._program._types import type_of

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def with_quick_bits(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program with the same results, whose bits XLA for CPUs compiles quickly.

    Those are the bits that Threefry draws, outside of loops; the others are drawn as they were.

    Example:
      >>> key = jax.random.key(0)
      >>> program = jax.make_jaxpr(lambda key: jax.random.normal(key, (2,)))(key)
      >>> as_function(with_quick_bits(program))(key)[0] == as_function(program)(key)[0]
      Array([ True,  True], dtype=bool)

    References:
      Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 3.2 and Table 1.
    """
    # JAX's own for CPUs loops over the rounds with rotations that are data, and LLVM compiles every
    # nest of loops over an array again for each combination of what it has to check of them: tiles
    # on a grid, of four axes, take twenty times as long as these rounds one after another.
    is_of_use = jax.default_backend() == "cpu" and jax.threefry_partitionable.value
    return _rewritten(program) if is_of_use and _draws(program) else program


def _rewritten(program: ClosedJaxpr) -> ClosedJaxpr:
    types = [type_of(v.aval) for v in program.jaxpr.invars]
    return jax.make_jaxpr(lambda *inputs: evaluate(program, inputs, _quickly))(*types)


def _quickly(equation: Equation, inputs: list[Any]) -> list[Any] | None:
    if is_plain_call(equation) and _draws(called(equation)):
        return _rewritten_call(called(equation))(*inputs)
    if not _is_threefry(equation):
        return None
    keys = jax.random.wrap_key_data(jax.random.key_data(inputs[0]), impl=_WRITTEN_OUT)
    return bind(equation, [keys])


@functools.lru_cache(maxsize=512)  # as JAX keeps the programs of calls: each is compiled once
def _rewritten_call(program: ClosedJaxpr) -> Callable[..., list[Any]]:
    return jax.jit(as_function(_rewritten(program)))


def _draws(program: ClosedJaxpr) -> bool:
    return any(
        _draws(called(equation)) if is_plain_call(equation) else _is_threefry(equation)
        for equation in program.jaxpr.eqns
    )


def _is_threefry(equation: Equation) -> bool:
    if equation.primitive.name != "random_bits":
        return False
    is_small = math.prod(equation.params["shape"]) < 2**32  # positions are of one word
    return is_small and str(getattr(equation.invars[0].aval, "dtype", None)) == "key<fry>"


def _bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    """Random bits of a key of two words, as unsigned integers of this width."""
    high, low = _threefry(key[0], key[1], _positions(shape))
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


def _unused(*_: Any) -> Array:
    raise NotImplementedError("Keys of this kind draw bits, and nothing else.")


_WRITTEN_OUT = define_prng_impl(
    key_shape=(2,),
    seed=_unused,
    split=_unused,
    fold_in=_unused,
    random_bits=_bits,
    name="threefry2x32, its rounds written out",
    tag="fry, written out",
)
