"""Updates that act on each number alone, done to a few rows of a layer at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxmup._program import (
    ClosedJaxpr,
    Equation,
    ShapedArray,
    aval_of,
    called,
    evaluate,
    is_call,
    trace,
)
from jaxmup.fused._apart import ELEMENTWISE
from jaxmup.fused._loop import Arrays

Shape = tuple[int, ...]
State = tuple[Arrays, Arrays, ArrayLike]  # stacks, new rows that are still to write, where


class _MixesNumbersError(ValueError):
    """An equation that does more than act on each number alone."""


def rows_of(shape: Shape, size: int) -> int | None:
    """The number of rows of one layer to take at a time; `None` for all at once.

    Args:
      shape: Shape of the layer, with a leading axis of length 1.
      size: Largest number of elements to take, unless a single row has more; 0 for all at once.

    Example:
      >>> rows_of((1, 512, 2048), 2**16)
      32
      >>> rows_of((1, 512), 2**16) is None
      True
      >>> rows_of((1, 9973, 8), 2**16) is None  # a prime number of short rows
      True
    """
    if len(shape) < 2 or not size:
        return None
    row = math.prod(shape[2:])
    divisors = (r for r in range(1, shape[1] + 1) if shape[1] % r == 0)
    rows = max(r for r in divisors if r == 1 or r * row <= size)
    # Only a divisor leaves no rest. That of a prime number of short rows is 1, and a loop over so
    # little is slower than the whole layer at once.
    few = 8 * rows * row < size
    return None if rows == shape[1] or few else rows


def for_rows(program: ClosedJaxpr, own: Sequence[bool], rows: int) -> ClosedJaxpr | None:
    """The update of a layer, of one parameter's shape, for some rows of it.

    Args:
      program: From arrays of that shape, and scalars that all share, to such arrays.
      own: True for each of its inputs that is an array of that shape.
      rows: Number of rows, the length of the second axis of the arrays of the new program.

    Returns:
      The program for that many rows, or `None` if it does not treat each number by itself.
    """
    inputs: list[ShapedArray] = program.in_avals
    # Traced anew for the smaller shape, a transform that asks for the shape would do another thing.
    # So the program of the whole layer is taken, which did what it should, and run on less of it.
    old: Shape = program.out_avals[0].shape  # type: ignore[union-attr]
    new = (1, rows, *old[2:])
    if any(x.shape != (old if is_own else ()) for x, is_own in zip(inputs, own, strict=True)):
        return None
    types = [jax.ShapeDtypeStruct(new if x.shape else (), x.dtype) for x in inputs]
    try:
        return trace(lambda *args: _run(program, args, old, new), *types).program
    except _MixesNumbersError:
        return None


def update_rows(
    arrays: Arrays,
    gradients: Arrays,
    layer: ArrayLike,
    rows: int,
    run: Callable[[Arrays, Arrays], Arrays],
) -> Arrays:
    """Updates one layer of stacks in place, some rows at a time.

    As with layers, new rows are written one iteration after they were read; see `run_backward`.

    Args:
      arrays: Stacks by key, each with a leading axis of layers.
      gradients: Gradients of this layer, with a leading axis of length 1.
      layer: Index of the layer.
      rows: Number of rows to update at a time; it divides the second axis.
      run: Takes some rows of the gradients and of the stacks to the new rows of the stacks.
    """

    def start(x: Array, layer: ArrayLike, k: ArrayLike) -> tuple[ArrayLike, ...]:
        return (layer, k * rows, *[0] * (x.ndim - 2))

    def read(arrays: Arrays, layer: ArrayLike, k: ArrayLike) -> Arrays:
        sizes = {key: (1, rows, *x.shape[2:]) for key, x in arrays.items()}
        return {
            key: lax.dynamic_slice(x, start(x, layer, k), sizes[key]) for key, x in arrays.items()
        }

    def write(arrays: Arrays, new: Arrays, k: ArrayLike) -> Arrays:
        return {
            key: lax.dynamic_update_slice(x, new[key], start(x, layer, k))
            for key, x in arrays.items()
        }

    def body(state: State, k: Array) -> tuple[State, None]:
        arrays = write(*state)
        return (arrays, run(read(gradients, 0, k), read(arrays, layer, k)), k), None

    ks = jnp.arange(next(iter(arrays.values())).shape[1] // rows)
    # The first iteration writes what it then reads, unchanged.
    state, _ = lax.scan(body, (arrays, read(arrays, layer, 0), ks[0]), ks)
    return write(*state)


def _run(program: ClosedJaxpr, args: Sequence[Any], old: Shape, new: Shape) -> list[Any]:
    """Runs a program that was traced for arrays of one shape on arrays of another."""
    # An array that the program holds is of the old shape, and which rows of it are meant is not
    # known here.
    if any(aval_of(v).shape for v in program.jaxpr.constvars):
        raise _MixesNumbersError

    def step(equation: Equation, inputs: list[Any]) -> list[Any] | None:
        name = equation.primitive.name
        shapes = {aval_of(atom).shape for atom in [*equation.invars, *equation.outvars]}
        if not shapes <= {(), old} or equation.params.get("sharding") is not None:
            raise _MixesNumbersError
        if is_call(equation):
            return _run(called(equation), inputs, old, new)
        if name in ELEMENTWISE or shapes == {()}:
            return None
        if name == "broadcast_in_dim":
            # Of parameters, this one alone holds a shape, and the shape is the old one.
            (x,) = inputs
            return [x if jnp.ndim(x) else lax.broadcast(x, new)]
        raise _MixesNumbersError

    return evaluate(program, args, step)
