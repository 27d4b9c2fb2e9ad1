"""Programs as a canonical text: the same for equal programs, wherever their code stands."""

import enum
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._program._jax import Atom, ClosedJaxpr, Equation, Jaxpr, Literal, Var, closed

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|\bid=\d+")
# Parameters that are for people, or say where a function stands, or hold what other parameters say.
_FOR_PEOPLE = frozenset({"name", "debug_info", "source_info", "name_and_src_info", "ctx_mesh"})


def digest(program: ClosedJaxpr) -> str:
    """A digest of what a program computes: its equations, their parameters, and its constants.

    Names of functions, comments and lines of the source do not change it. A function of Python that
    the program calls back is not looked into.

    Example:
      >>> program = jax.make_jaxpr(lambda x: 2 * x)(1.0)
      >>> digest(program) == digest(jax.make_jaxpr(lambda renamed: 2 * renamed)(1.0))
      True
      >>> digest(program) == digest(jax.make_jaxpr(lambda x: 3 * x)(1.0))
      False
    """
    return hashlib.sha256("\n".join(_lines(program)).encode()).hexdigest()[:16]


def digest_of_arrays(tree: Any) -> str:
    """A digest of the arrays of a tree: structure, shapes, dtypes and values."""
    leaves, structure = jax.tree.flatten(tree)
    text = hashlib.sha256(_plain(str(structure)).encode())
    for leaf in leaves:
        text.update(_constant(leaf).encode())
    return text.hexdigest()[:16]


def _lines(program: ClosedJaxpr) -> list[str]:
    jaxpr = program.jaxpr
    names: dict[Var, str] = {}

    def new(variable: Any) -> str:
        names[variable] = f"v{len(names)}"
        return f"{names[variable]}:{variable.aval.str_short(short_dtypes=True)}"

    def read(atom: Atom) -> str:
        if isinstance(atom, Literal):
            return f"{_constant(atom.val)}:{atom.aval.str_short(short_dtypes=True)}"
        return names[atom]

    def line(equation: Equation) -> str:
        inputs = " ".join(map(read, equation.invars))
        outputs = " ".join(map(new, equation.outvars))
        return f"{outputs} = {equation.primitive.name} {_parameters(equation.params)} {inputs}"

    constants = [
        f"{new(v)} = {_constant(x)}" for v, x in zip(jaxpr.constvars, program.consts, strict=True)
    ]
    inputs = " ".join(map(new, jaxpr.invars))
    equations = [line(equation) for equation in jaxpr.eqns]
    return [*constants, f"in {inputs}", *equations, f"out {' '.join(map(read, jaxpr.outvars))}"]


def _parameters(params: Mapping[str, Any]) -> str:
    shown = (f"{name}={_text(params[name])}" for name in sorted(params) if name not in _FOR_PEOPLE)
    return f"[{' '.join(shown)}]"


def _text(value: Any) -> str:
    """A parameter of an equation as text, without where anything stands in memory or on disk."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        return "{" + "; ".join(_lines(closed(value))) + "}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _constant(value)
    if isinstance(value, enum.Enum) or value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, Mapping):
        items = sorted((_text(name), _text(held)) for name, held in value.items())
        return "{" + ", ".join(f"{name}: {held}" for name, held in items) + "}"
    if isinstance(value, frozenset | set):
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(_text, value))})"
    if callable(value) or hasattr(
        value, "call_wrapped"
    ):  # its program stands beside it where it has one
        return "function"
    return _plain(repr(value))


def _constant(value: Any) -> str:
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"key {_constant(jax.random.key_data(value))}"
    array = np.asarray(value)
    content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"{array.dtype}{list(array.shape)}#{content}"


def _plain(text: str) -> str:
    return _ADDRESS.sub("", text)
