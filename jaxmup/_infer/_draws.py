"""The initial values of a model as a program of a random key, and more draws of them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._check import is_traced
from jaxmup._infer._meshes import Place, is_on_mesh
from jaxmup._program import (
    ClosedJaxpr,
    Equation,
    Flat,
    Node,
    Primitive,
    Same,
    as_function,
    bind,
    bind_primitive,
    dependencies,
    flatten,
    interpret,
    no_mesh,
    part,
    parts,
    split,
    unsharded,
    variables,
    with_quick_bits,
)
from jaxmup._tiles import join_tiles
from jaxmup._tree import PathName
from jaxmup.functional import scale

T = TypeVar("T")


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


def quick(function: Callable[..., T]) -> Callable[..., T]:
    """`jax.jit(function)` for random numbers, quick to compile."""
    # LLVM takes seven times as long to optimize random numbers to the end, for the same bits;
    # without any optimization they would differ. Only XLA for CPUs is known to, and a program
    # inside of another has no options of its own.
    options = {"xla_backend_optimization_level": 1}
    inside, alone = jax.jit(function), jax.jit(function, compiler_options=options)

    def run(*inputs: Any) -> T:
        is_alone = jax.default_backend() == "cpu" and not any(map(is_traced, inputs))
        return (alone if is_alone else inside)(*inputs)

    return run


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
    def of(cls, names: Sequence[PathName], program: ClosedJaxpr) -> "Draws":
        """The draws of a program whose first outputs are the parameters of these names.

        Those of equal programs are one object, which finds out once what follows from the program.
        """
        jaxpr = program.jaxpr
        program = ClosedJaxpr(jaxpr.replace(outvars=jaxpr.outvars[: len(names)]), program.consts)
        if is_on_mesh():  # because the factory names its axes, which need not divide these sizes
            program = unsharded(program)
        same = Same(program)
        return _draws(tuple(names), same) if same.can_be_kept else cls(tuple(names), program)

    def values(self, names: Collection[PathName], key: Any) -> dict[PathName, Array]:
        """Some of the parameters with the bits that the factory gives them."""
        wanted = [i for i, name in enumerate(self.names) if name in names]
        values = in_turn(self.program, wanted, jax.tree.leaves(key))
        return dict(zip((self.names[i] for i in wanted), values, strict=True))

    @functools.cached_property
    def random(self) -> frozenset[PathName]:
        """The parameters that the key has a part in."""
        following = _following(self._flat)
        return frozenset(name for name, node in self._outputs.items() if node in following)

    def is_constant(self, name: PathName, axes: Collection[int]) -> bool:
        """True if a parameter that is not random does not change along these axes."""
        if self._constant_axes[name].issuperset(axes):
            return True
        with jax.ensure_compile_time_eval():  # what is compared must be there, also under `jit`
            program, _ = part(self.program, [self.names.index(name)])
            (value,) = map(np.asarray, as_function(program)())
        first = tuple(slice(1) if i in axes else slice(None) for i in range(value.ndim))
        return bool((value == value[first]).all())

    def keys(self, key: Any, number: int) -> "Keys":
        """The keys that draws of the whole model by `number` keys give each parameter."""
        first, _, needed = self._split
        # Put on a device, they are traced where `rescale` is, though the key may be a constant.
        draws = jax.device_put(np.arange(number))
        folded = [_folded(leaf, draws) for leaf in jax.tree.leaves(key)]
        return Keys(self, _for_each_draw(first, folded), needed)

    def program_from_keys(self, output: int) -> tuple[Same, list[int]]:
        """The program from keys to one parameter, and which of the values of `Keys` it needs."""
        if output not in self._from_keys:
            program, needed = self._split.second[output]
            self._from_keys[output] = Same(program), needed
        return self._from_keys[output]

    @functools.cached_property
    def _split(self) -> "_Split":
        count = len(self.program.jaxpr.invars)
        first, second = split(self.program, [True] * count, _is_of_keys)
        drawn = dependencies(first, ["key"] * count)
        return _Split(first, parts(second), [bool(found) for found in drawn])

    @functools.cached_property
    def _from_keys(self) -> dict[int, tuple[Same, list[int]]]:
        return {}

    @functools.cached_property
    def _constant_axes(self) -> dict[PathName, frozenset[int]]:
        return {name: _constant_axes(node) for name, node in self._outputs.items()}

    @functools.cached_property
    def _outputs(self) -> dict[PathName, Node]:
        return dict(zip(self.names, self._flat.outputs, strict=True))

    @functools.cached_property
    def _flat(self) -> Flat:
        return flatten(self.program)


@functools.lru_cache(maxsize=16)
def _draws(names: tuple[PathName, ...], same: Same) -> Draws:
    return Draws(names, same.program)


class _Split(NamedTuple):
    """A program of draws in two.

    Args:
      first: From the leaves of the key to all keys that parameters are drawn with, and counts.
      second: For each parameter the program from some of these, and which.
      are_keys: True for those that follow from the key.
    """

    first: ClosedJaxpr
    second: list[tuple[ClosedJaxpr, list[int]]]
    are_keys: list[bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Keys:
    """The keys of many draws of a model.

    Args:
      draws: The draws of the model.
      values: Inputs of the programs from keys; keys with an axis of draws in front.
      are_keys: True for the keys.
    """

    draws: Draws
    values: list[Array]
    are_keys: list[bool]

    def grown(self, output: int, start: int, grid: Grid, gain: float, place: Place) -> Array:
        """One parameter, laid out of its draws from `start` on, times `gain`."""
        same, needed = self.draws.program_from_keys(output)
        mapped = tuple(self.are_keys[i] for i in needed)
        make = _grown if same.can_be_kept else _grown.__wrapped__
        grown = make(same, mapped, grid, gain, place)
        return grown(np.int32(start), *(self.values[i] for i in needed))


_folded = quick(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


def _for_each_draw(program: ClosedJaxpr, keys: Sequence[Array]) -> list[Array]:
    """The outputs of a program of keys, with an axis of draws in front where they follow from one.

    One operation after another: those of many keys are compiled once, a program of all would take
    longer the more parameters there are.
    """

    def step(equation: Equation, inputs: list[tuple[Array, bool]]) -> Sequence[tuple[Array, bool]]:
        values = [value for value, _ in inputs]
        axes = tuple(0 if is_mapped else None for _, is_mapped in inputs)
        if not any(is_mapped for _, is_mapped in inputs):
            return [(value, False) for value in bind(equation, values)]
        params = tuple(equation.params.items())
        try:
            run = _mapped(equation.primitive, params, axes)
        except TypeError:  # a parameter that has no hash
            run = _mapped.__wrapped__(equation.primitive, params, axes)
        return [(value, True) for value in run(*values)]

    outputs = interpret(
        program,
        [(key, True) for key in keys],
        step,
        literal=lambda atom: (atom.val, False),
        constants=[(value, False) for value in program.consts],
    )
    return [value for value, _ in outputs]


@functools.lru_cache(maxsize=512)
def _mapped(
    primitive: Primitive, params: tuple[tuple[str, Any], ...], axes: tuple[int | None, ...]
) -> Callable[..., list[Array]]:
    def run(*values: Array) -> list[Array]:
        return bind_primitive(primitive, dict(params), values)

    return quick(jax.vmap(run, in_axes=axes))


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


@functools.lru_cache(maxsize=512)
def _grown(
    same: Same, mapped: tuple[bool, ...], grid: Grid, gain: float, place: Place
) -> Callable[..., Array]:
    with no_mesh():  # in one of explicit axes, each device would be told to make all of it
        run = as_function(with_quick_bits(same.program))

    def draw(*inputs: Array) -> Array:
        return run(*inputs)[0]

    # One axis of draws for each axis of the parameter: a single one could be sharded over devices
    # by the first axis alone, and every device would draw the whole of the others.
    for _ in (n for n in grid.tiles if n > 1):
        draw = jax.vmap(draw, in_axes=tuple(0 if is_key else None for is_key in mapped))

    def grown(start: Array, *inputs: Array) -> Array:
        of_draws = [
            _on_grid(x, start, grid) if is_key else x
            for x, is_key in zip(inputs, mapped, strict=True)
        ]
        with no_mesh():
            whole = join_tiles(draw(*of_draws), grid.tiles, grid.base_shape)
            scaled = scale(whole[tuple(map(slice, grid.shape))], gain)
        return place(scaled)

    return quick(grown)


def _on_grid(keys: Array, start: Array, grid: Grid) -> Array:
    """The keys of some draws, with an axis for each axis along which there are several."""
    several = tuple(n for n in grid.tiles if n > 1)
    own = jax.lax.dynamic_slice_in_dim(keys, start, grid.number)
    return own.reshape(several + keys.shape[1:])


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
