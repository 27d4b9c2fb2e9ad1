"""The initial values of a model as a program of a random key, and more draws of them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._check import is_traced
from jaxmup._infer._meshes import Place, is_on_mesh
from jaxmup._model import Instance
from jaxmup._parameter import join_tiles
from jaxmup._program import (
    Atom,
    ClosedJaxpr,
    Equation,
    Literal,
    Node,
    as_function,
    dependencies,
    flatten,
    inner_programs,
    no_mesh,
    part,
    split,
    unsharded,
    variables,
)
from jaxmup._tree import PathName, leaves_by_path
from jaxmup.functional import scale


@dataclasses.dataclass(frozen=True)
class Grid:
    """A parameter laid out of draws of another one's shape.

    Args:
      base_shape: Shape of a draw.
      shape: Shape of the parameter.
    """

    base_shape: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def tiles(self) -> tuple[int, ...]:
        """Number of draws along each axis."""
        return tuple(-(-n // base) for n, base in zip(self.shape, self.base_shape, strict=True))

    @property
    def number(self) -> int:
        """Number of draws."""
        return math.prod(self.tiles)

    @property
    def changed(self) -> tuple[int, ...]:
        """The axes whose size is not that of a draw."""
        return tuple(i for i, n in enumerate(self.shape) if n != self.base_shape[i])


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """The parameters that a factory makes, as a program of a random key.

    Args:
      names: Names of the parameters, in the order of the program's outputs.
      program: From the leaves of the key to the parameters.
    """

    names: tuple[PathName, ...]
    program: ClosedJaxpr

    @classmethod
    def of(cls, instance: Instance, key: Any) -> "Draws":
        """The parameters of a model, drawn with keys like `key`; nothing is computed."""

        def values(key: Any) -> list[Array]:
            drawn = leaves_by_path(instance.draw(key).params)
            return [drawn[name] for name in instance.parameters]

        program = jax.make_jaxpr(values)(key)
        if is_on_mesh():  # because the factory names its axes, which need not divide these sizes
            program = unsharded(program)
        return cls(tuple(instance.parameters), program)

    def values(self, names: Collection[PathName], key: Any) -> dict[PathName, Array]:
        """Some of the parameters with the bits that the factory gives them."""
        wanted = [i for i, name in enumerate(self.names) if name in names]
        values = in_turn(self.program, wanted, jax.tree.leaves(key))
        return dict(zip((self.names[i] for i in wanted), values, strict=True))

    @functools.cached_property
    def random(self) -> frozenset[PathName]:
        """The parameters that the key has a part in."""
        following = _following(self._flat)
        outputs = zip(self.names, self._flat.outputs, strict=True)
        return frozenset(name for name, node in outputs if node in following)

    def is_constant(self, name: PathName, axes: Collection[int]) -> bool:
        """True if a parameter that is not random does not change along these axes."""
        node = self._flat.outputs[self.names.index(name)]
        if _constant_axes(node).issuperset(axes):
            return True
        with jax.ensure_compile_time_eval():  # what is compared must be there, also under `jit`
            program, _ = part(self.program, [self.names.index(name)])
            (value,) = map(np.asarray, as_function(program)())
        first = tuple(slice(1) if i in axes else slice(None) for i in range(value.ndim))
        return bool((value == value[first]).all())

    def keys(self, key: Any, number: int) -> "Keys":
        """The keys that draws of the whole model by `number` keys give each parameter."""
        count = len(self.program.jaxpr.invars)
        first, second = split(self.program, [True] * count, _is_of_keys)
        drawn = dependencies(first, ["key"] * count)
        mapped = [bool(found) for found in drawn]
        leaves = jax.tree.leaves(key)

        def of(index: Array) -> list[Array]:
            folded = [jax.random.fold_in(leaf, index) for leaf in leaves]
            program, needed = part(first, [i for i, is_key in enumerate(mapped) if is_key])
            return as_function(program)(*(folded[i] for i in needed))

        constants, _ = part(first, [i for i, is_key in enumerate(mapped) if not is_key])
        stacked, once = iter(jax.vmap(of)(jnp.arange(number))), iter(as_function(constants)())
        values = [next(stacked) if is_key else next(once) for is_key in mapped]
        return Keys(second, values, mapped)

    @functools.cached_property
    def _flat(self) -> Any:
        return flatten(self.program)


@dataclasses.dataclass(frozen=True, eq=False)
class Keys:
    """The keys of many draws of a model, and the program from those of one draw to its parameters.

    Args:
      program: From keys and constants to the parameters.
      values: Inputs of the program; keys with an axis of draws in front.
      mapped: True for the keys.
    """

    program: ClosedJaxpr
    values: list[Array]
    mapped: list[bool]

    def grown(self, output: int, start: int, grid: Grid, gain: float, place: Place) -> Array:
        """One parameter, laid out of its draws from `start` on, times `gain`."""
        program, needed = part(self.program, [output])
        mapped = tuple(self.mapped[i] for i in needed)
        inputs = [
            _on_grid(self.values[i], start, grid) if self.mapped[i] else self.values[i]
            for i in needed
        ]
        return _grown(_Same(program), mapped, grid, gain, place)(*inputs)


def in_turn(program: ClosedJaxpr, wanted: Sequence[int], inputs: Sequence[Array]) -> list[Array]:
    """Some outputs of a program, one operation after another, as Python would have run it.

    XLA may round an operation otherwise inside of a larger program, and inside of a loop or a call
    that lacks what nobody wants; so each equation is run whole, or not at all.
    """
    jaxpr = program.jaxpr
    outputs = [jaxpr.outvars[i] for i in wanted]
    needed = set(variables(outputs))
    equations = []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            equations.append(equation)
            needed.update(variables(equation.invars))
    smaller = jaxpr.replace(eqns=equations[::-1], outvars=outputs)
    return as_function(ClosedJaxpr(smaller, program.consts))(*inputs)


def cut(value: Array, grid: Grid, gain: float, place: Place) -> Array:
    """A parameter from one draw that is at least as large, times `gain`."""
    if not grid.changed and gain == 1.0:
        return place(value)
    return _cut(grid, gain, place)(value)


def repeated(value: Array, grid: Grid, gain: float, place: Place) -> Array:
    """A parameter that does not change along the axes which change their size, times `gain`."""
    if not grid.changed and gain == 1.0:
        return place(value)
    return _repeated(grid, gain, place)(value)


def _on_grid(keys: Array, start: int, grid: Grid) -> Array:
    """The keys of some draws, with an axis for each axis along which there are several."""
    several = tuple(n for n in grid.tiles if n > 1)
    return keys[start : start + grid.number].reshape(several + keys.shape[1:])


class _Same:
    """A program that is equal to others which do the same.

    Layers of one shape are drawn by equal programs from other keys, which are compiled once.
    """

    def __init__(self, program: ClosedJaxpr):
        self.program = program
        types = tuple(str(v.aval) for v in program.jaxpr.invars)
        self.does = (str(program.jaxpr), types, tuple(_held(program)))

    def __hash__(self) -> int:
        return hash(self.does)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.does == other.does


def _held(program: ClosedJaxpr) -> Iterator[bytes]:
    """The bytes of all arrays and numbers in a program, which its text may shorten."""
    atoms: list[Atom] = [x for equation in program.jaxpr.eqns for x in equation.invars]
    yield from (np.asarray(x.val).tobytes() for x in atoms if isinstance(x, Literal))
    yield from (np.asarray(x).tobytes() for x in program.consts)
    for equation in program.jaxpr.eqns:
        for inner in inner_programs(equation):
            yield from _held(inner)


@functools.lru_cache(maxsize=512)
def _grown(
    same: _Same, mapped: tuple[bool, ...], grid: Grid, gain: float, place: Place
) -> Callable[..., Array]:
    def draw(*inputs: Array) -> Array:
        return as_function(same.program)(*inputs)[0]

    # One axis of draws for each axis of the parameter: a single one could be sharded over devices
    # by the first axis alone, and every device would draw the whole of the others.
    for _ in (n for n in grid.tiles if n > 1):
        draw = jax.vmap(draw, in_axes=tuple(0 if is_key else None for is_key in mapped))

    def grown(*inputs: Array) -> Array:
        with no_mesh():  # in one of explicit axes, each device would be told to make all of it
            whole = join_tiles(draw(*inputs), grid.tiles, grid.base_shape)
            scaled = scale(whole[tuple(map(slice, grid.shape))], gain)
        return place(scaled)

    inside, alone = jax.jit(grown), jax.jit(grown, compiler_options=_QUICK)

    def run(*inputs: Array) -> Array:
        is_alone = jax.default_backend() == "cpu" and not any(map(is_traced, inputs))
        return (alone if is_alone else inside)(*inputs)

    return run


@functools.lru_cache(maxsize=512)
def _cut(grid: Grid, gain: float, place: Place) -> Callable[[Array], Array]:
    window = tuple(map(slice, grid.shape))
    return jax.jit(lambda value: place(scale(value[window], gain)))


@functools.lru_cache(maxsize=512)
def _repeated(grid: Grid, gain: float, place: Place) -> Callable[[Array], Array]:
    @jax.jit
    def whole(value: Array) -> Array:
        first = [slice(1) if i in grid.changed else slice(None) for i in range(value.ndim)]
        return place(scale(jnp.broadcast_to(value[tuple(first)], grid.shape), gain))

    return whole


# LLVM takes seven times as long to optimize random numbers to the end, for the same bits; without
# any optimization they would differ. Only XLA for CPUs is known to, and a program inside of another
# has no options of its own.
_QUICK = {"xla_backend_optimization_level": 1}

_MOST_NUMBERS = 16  # that are taken for a count or a raw key


def _is_of_keys(equation: Equation) -> bool:
    """True for an operation on keys, and on the counts that they are folded with."""
    return all(_is_key(v.aval) for v in equation.outvars)


def _is_key(aval: Any) -> bool:
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return True
    return jnp.issubdtype(aval.dtype, jnp.integer) and math.prod(aval.shape) <= _MOST_NUMBERS


def _following(flat: Any) -> set[Node]:
    """The values that follow from an input."""
    found = set(flat.inputs)
    while True:  # again for what a loop carries, which stands before what it is made of
        more = {n for n in flat.nodes if n not in found and not found.isdisjoint(n.parents)}
        if not more:
            return found
        found |= more


_ELEMENTWISE = frozenset(
    (
        *("abs", "add", "convert_element_type", "copy", "copy_p", "cos", "div", "exp", "exp2"),
        *("expm1", "integer_pow", "log", "log1p", "max", "min", "mul", "neg", "pow"),
        *("reduce_precision", "rsqrt", "sin", "sqrt", "square", "stop_gradient", "sub", "tanh"),
    )
)


def _constant_axes(node: Node) -> frozenset[int]:
    """The axes along which a value does not change, as far as the program says without its data."""
    shape = node.shapes[0]
    every = frozenset(range(len(shape)))
    if node.value is not None:
        value = np.asarray(node.value[0])
        return frozenset(i for i in every if (value == value.take([0], axis=i)).all())
    if node.op == "broadcast_in_dim":
        (parent, *_) = node.parents
        dimensions = node.equations[0].params["broadcast_dimensions"]
        inner = _constant_axes(parent)
        moved = {
            axis for i, axis in enumerate(dimensions) if i not in inner and parent.shapes[0][i] > 1
        }
        return every - moved
    if node.op in _ELEMENTWISE and all(p.shapes[0] in (shape, ()) for p in node.parents):
        found = [_constant_axes(p) for p in node.parents if p.shapes[0] == shape]
        return every.intersection(*found)
    return frozenset(i for i in every if shape[i] == 1)
