"""Programs that are equal if they do the same, so that what is made of one is made once."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._check import is_traced
from jaxmup._program._calls import is_call
from jaxmup._program._jax import Atom, ClosedJaxpr, Equation, Jaxpr, Literal, Var, closed


class Same:
    """A program that is equal to others of the same equations, numbers and constants.

    Args:
      program: The program.

    Attributes:
      program: The program.
      can_be_kept: True if a cache may hold it: its constants are arrays, and small.

    Example:
      >>> one, other = (jax.make_jaxpr(lambda x: 2 * jnp.sin(x))(1.0) for _ in range(2))
      >>> Same(one) == Same(other), Same(one) == Same(jax.make_jaxpr(lambda x: jnp.sin(x))(1.0))
      (True, False)
    """

    def __init__(self, program: ClosedJaxpr):
        self.program = program
        self.can_be_kept = all(map(_can_be_kept, program.consts))
        self._does = _Description().of(program)
        self._hash = hash(self._does)

    def __hash__(self) -> int:
        """That of what the program does."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """True for a program that does the same."""
        return isinstance(other, Same) and self._does == other._does


class _Description:
    """Programs by number, each described once however often it is called."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._described: list[Hashable] = []

    def of(self, program: ClosedJaxpr) -> Hashable:
        self._number(program)
        return tuple(self._described)

    def _number(self, program: Jaxpr | ClosedJaxpr) -> int:
        # By identity: whoever holds the outermost program holds all inside of it.
        number = self._numbers.get(id(program))
        if number is None:
            described = tuple(self._lines(closed(program)))
            number = self._numbers[id(program)] = len(self._described)
            self._described.append(described)
        return number

    def _lines(self, program: ClosedJaxpr) -> Iterator[Hashable]:
        numbers: dict[Var, int] = {}

        def new(variables: Any) -> Hashable:
            start = len(numbers)
            numbers.update((v, start + i) for i, v in enumerate(variables))
            return tuple(v.aval for v in variables)

        def read(atom: Atom) -> Hashable:
            is_literal = isinstance(atom, Literal)
            return (atom.aval, _bytes(atom.val)) if is_literal else numbers[atom]

        yield tuple(map(_bytes, program.consts))
        yield new(program.jaxpr.constvars)
        yield new(program.jaxpr.invars)
        for equation in program.jaxpr.eqns:
            inputs = tuple(map(read, equation.invars))
            yield equation.primitive, self._parameters(equation), inputs, new(equation.outvars)
        yield tuple(map(read, program.jaxpr.outvars))

    def _parameters(self, equation: Equation) -> Hashable:
        # A call has its program; the functions beside it, made anew at each trace, are derivatives.
        left_out = _is_function if is_call(equation) else lambda value: False
        return tuple(
            (name, self._value(value))
            for name, value in equation.params.items()
            if not left_out(value)
        )

    def _value(self, value: Any) -> Hashable:
        if isinstance(value, Jaxpr | ClosedJaxpr):
            return "program", self._number(value)
        if isinstance(value, tuple | list):
            return type(value), tuple(map(self._value, value))
        if isinstance(value, dict):
            return "dict", tuple((name, self._value(held)) for name, held in value.items())
        if isinstance(value, np.ndarray | jax.Array):
            return _bytes(value)
        try:
            hash(value)
        except TypeError:
            return type(value), repr(value)
        return type(value), value


def _is_function(value: Any) -> bool:
    return isinstance(value, Callable) or hasattr(value, "call_wrapped")  # type: ignore[arg-type]


def _bytes(value: Any) -> Hashable:
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.dtype, _bytes(jax.random.key_data(value))
    if is_traced(value):
        return "traced", id(value)
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()


def _can_be_kept(constant: Any) -> bool:
    return not is_traced(constant) and constant.size <= _MOST_NUMBERS


_MOST_NUMBERS = 2**16  # of a constant in a program that a cache may hold
