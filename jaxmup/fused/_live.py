"""The gradients that exist at one time in a compiled program, read from its schedule."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax.stages import Wrapped

from jaxmup._tree import Params, leaves_by_path
from jaxmup.fused._devices import element_counts, size_on_device

_LINE = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{$")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|called_computations|branch_computations)=\{?([^,}\s]+)")
_IN_PLACE = frozenset({"bitcast", "while", "optimization-barrier"})
_COPIES = frozenset({"copy", "copy-start", "copy-done", "bitcast"})


class LiveGradients(NamedTuple):
    """The bytes of gradients that exist at one time in a compiled step, on one device.

    Args:
      peak: Most bytes at any point of its schedule. It is an upper bound: whatever the backward
        pass makes that is as large as a parameter, or as a layer of one in a loop, counts as a
        gradient.
      total: Bytes of the gradients of all parameters.
      largest: Bytes of those of the two largest layers. A layer is what the path of a parameter
        names up to its first component that ends in a digit, such as `blocks/0`, or else up to its
        last but one.
    """

    peak: int
    total: int
    largest: int

    @property
    def is_fused(self) -> bool:
        """True if no more exist than those of the two largest layers."""
        return self.peak <= self.largest


class _Instruction(NamedTuple):
    name: str
    operation: str
    sizes: list[tuple[int, int]]  # elements and bytes of each array that it makes
    operands: list[str]
    rest: str
    is_root: bool

    @property
    def scope(self) -> str:
        """The names of JAX's transformations and primitives that it comes from."""
        return self.rest.partition('op_name="')[2].partition('"')[0]


def live_gradients(step: Wrapped, params: Params, *args: Any) -> LiveGradients:
    """Reads from the compiled program how many bytes of gradients exist at one time.

    For an unrolled model under `jax.jit` with donated arguments it proves that XLA has fused the
    backward pass with the update by itself: it applies each update as its gradient appears.

    Args:
      step: Function compiled by `jax.jit`, whose first argument is the parameters.
      params: Parameters, or their shapes and dtypes.
      *args: Other arguments of the function, or their shapes and dtypes.

    Raises:
      TypeError: if `step` is not compiled by `jax.jit`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxmup import fused
      >>> def step(params, x):
      ...     def loss(params):
      ...         for i in range(6):
      ...             x_ = jnp.tanh((x if i == 0 else x_) @ params[f"layer{i}"])
      ...         return jnp.sum(x_)
      ...     gradients = jax.grad(loss)(params)
      ...     return jax.tree.map(lambda w, g: w - 0.1 * g, params, gradients)
      >>> params = {f"layer{i}": jnp.ones((64, 64)) for i in range(6)}
      >>> found = fused.live_gradients(jax.jit(step, donate_argnums=0), params, jnp.ones((2, 64)))
      >>> found.is_fused, found.total
      (True, 98304)
    """
    if not hasattr(step, "lower"):
        raise TypeError(
            "`step` must be compiled, since what exists at one time is XLA's choice. Got "
            f"{step!r}. Pass `jax.jit(step, donate_argnums=(0, 1))`."
        )
    return read_live_gradients(step.lower(params, *args).compile().as_text() or "", params)


def read_live_gradients(text: str, params: Params) -> LiveGradients:
    """`live_gradients` of a compiled program's text."""
    leaves = leaves_by_path(params)
    sizes = {name: size_on_device(x) for name, x in leaves.items()}
    whole = frozenset().union(*map(element_counts, leaves.values()))
    sliced = whole.union(
        *(element_counts(x, without_first=True) for x in leaves.values() if len(x.shape) > 1)
    )
    layers: dict[str, int] = {}
    for name, size in sizes.items():
        layers[_layer(name)] = layers.get(_layer(name), 0) + size
    computations, entry = _parse(text)
    peak = _peak(computations, entry, whole, sliced)
    return LiveGradients(peak, sum(sizes.values()), sum(sorted(layers.values())[-2:]))


def _peak(
    computations: Mapping[str, list[_Instruction]],
    name: str,
    counted: frozenset[int],
    in_loops: frozenset[int],
) -> int:
    """The most bytes that are live during any instruction of a computation."""
    instructions = computations.get(name, [])
    # The text of a compiled program is in the order of its schedule, so that counting what has been
    # made and is still to be used gives what is live.
    buffers = _follow(instructions, counted)
    change = [0] * (len(instructions) + 1)
    for buffer in buffers:
        change[buffer.made] += buffer.size
        change[buffer.last_use] -= buffer.size
    live, most = 0, 0
    for at, line in enumerate(instructions):
        # What a loop makes inside of an iteration lives beside what is live around the loop.
        called = _CALLED.findall(line.rest) if line.operation in ("while", "call") else []
        inside = (_peak(computations, c.lstrip("%"), in_loops, in_loops) for c in called)
        most = max(most, live + change[at], live + max(inside, default=0))
        live += change[at]
    return most


class _Buffer:
    """The array that one instruction made, from then to its last use."""

    def __init__(self, made: int, size: int, scope: str):
        self.made, self.size, self.scope = made, size, scope
        self.last_use = made

    def used_at(self, at: int, scope: str) -> None:
        """Takes over the scope of its first user if it has none, as zeros that a loop fills."""
        self.last_use, self.scope = at, self.scope or scope


def _follow(instructions: Sequence[_Instruction], counted: frozenset[int]) -> list[_Buffer]:
    """The buffers of a computation that may be gradients, without those that it returns."""
    values: dict[str, list[_Buffer]] = {}
    given: set[str] = set()
    found: list[_Buffer] = []
    for at, line in enumerate(instructions):
        operands = [values.get(operand, []) for operand in line.operands]
        for buffer in itertools.chain.from_iterable(operands):
            buffer.used_at(at, line.scope)
        values[line.name] = _values(line, operands)
        if values[line.name]:
            continue
        # A copy of an argument is no gradient, though it is as large as a parameter.
        copied = line.operation in _COPIES and given.issuperset(line.operands)
        if line.operation in ("parameter", "constant") or copied:
            given.add(line.name)
        sizes = [0 if line.name in given or n not in counted else size for n, size in line.sizes]
        values[line.name] = [_Buffer(at, size, line.scope) for size in sizes]
        found += values[line.name]
    kept = {id(b) for line in instructions if line.is_root for b in values[line.name]}
    return [b for b in found if b.size and id(b) not in kept and _is_backward(b.scope)]


def _values(line: _Instruction, operands: Sequence[list[_Buffer]]) -> list[_Buffer]:
    """The buffers of its operands that an instruction passes on, if it makes none."""
    if line.operation == "tuple":
        return [buffer for operand in operands for buffer in operand[:1]]
    if line.operation == "get-tuple-element" and operands and operands[0]:
        index = int(line.rest.rpartition("index=")[2].split(",")[0])
        return operands[0][index : index + 1]
    if line.operation in _IN_PLACE and operands and len(operands[0]) == len(line.sizes):
        return operands[0]
    return []


def _is_backward(scope: str) -> bool:
    # JAX names its transposes; a rematerialized forward pass stands inside of one. What XLA made by
    # itself has no name, and counts: this is an upper bound.
    return not scope or ("transpose(" in scope and "rematted_computation" not in scope)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            root, name, shape, operation, rest = found.groups()
            operands = re.findall(r"%([\w.-]+)", rest.partition("), ")[0])
            sizes = list(_sizes(shape))
            current.append(_Instruction(name, operation, sizes, operands, rest, root is not None))
    return computations, entry


def _sizes(shape: str) -> Iterator[tuple[int, int]]:
    for dtype, dims in _SHAPE.findall(shape):
        elements = math.prod(int(d) for d in dims.split(",") if d)
        bits = re.search(r"\d+", dtype)
        yield elements, elements * max(int(bits[0]) // 8, 1) if bits else elements


def _layer(name: str) -> str:
    parts = name.split("/")
    numbered = (i for i, part in enumerate(parts) if part[-1:].isdigit())
    return "/".join(parts[: next(numbered, max(len(parts) - 2, 0)) + 1])
