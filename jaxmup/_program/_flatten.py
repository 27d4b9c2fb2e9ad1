"""Programs of one model at several sizes, walked in lockstep into one list of values.

Calls are inlined and loops opened, so that whoever asks how a value came about finds no inside that
it must know how to enter: a call is nothing but its equations, the body of a loop stands there
once, with its carry as a value that follows from itself.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxmup._program._calls import called, is_call
from jaxmup._program._jax import Atom, ClosedJaxpr, Equation, Literal, Var, closed
from jaxmup._program._loops import Choice, Loop, While, is_choice, is_scan, is_while
from jaxmup._program._source import Line, line_of

Lockstep = tuple[Equation, ...]  # the same equation of each program


@dataclasses.dataclass(eq=False)
class Node:
    """One value of the programs.

    Args:
      op: What makes it: the name of a primitive, or one of

        - `input`: of the programs.
        - `constant`: an array or a number that the programs hold.
        - `slice`: what an iteration of a scan sees of what is scanned over.
        - `stack`: what the iterations of a scan put out, with an axis of iterations in front.
        - `carry`: of a loop, before and after an iteration; of its two parents, the start and what
          an iteration makes of it, the second stands after it.
        - `test`: whether another iteration of a while follows.
        - `choice`: of one of several branches; its parents are the index and a value of each.
        - `shard`, `unshard`: what a device sees of an array in a `shard_map`, and back.
      parents: The values that it is made of, which stand before it, but for a `carry`.
      types: Its type in each program, with a `shape` and mostly a `dtype`.
      path: The calls and loops of the first program that it is inside of, the outermost first, and
        the equation that makes it.
      equations: The equation that makes it in each program; empty for inputs and constants.
      output: Its position among the results of the equation.
      value: The constant in each program.
    """

    op: str
    parents: list["Node"]
    types: tuple[Any, ...]
    path: tuple[Equation, ...] = ()
    equations: Lockstep = ()
    output: int = 0
    value: tuple[Any, ...] | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Its shape in each program."""
        return tuple(kind.shape for kind in self.types)

    @property
    def line(self) -> Line | None:
        """The user's line that it comes from."""
        return line_of(self.path)


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """A scan of the programs.

    Args:
      lengths: The number of its iterations in each program.
      carry: The values that an iteration hands to the next.
      path: The calls and loops that it is inside of, and the scan itself.
    """

    lengths: tuple[int, ...]
    carry: list[Node]
    path: tuple[Equation, ...]

    @property
    def line(self) -> Line | None:
        """The user's line that it comes from."""
        return line_of(self.path)


class Repeat(NamedTuple):
    """A while loop of the programs.

    Args:
      test: Whether another iteration follows.
      carry: The values that an iteration hands to the next.
    """

    test: Node
    carry: list[Node]


@dataclasses.dataclass(frozen=True, eq=False)
class Flat:
    """Programs as one list of values.

    Args:
      nodes: Every value once, each after those that it is made of, but for carries.
      inputs: The values that go in.
      outputs: The values that come out.
      scans: The scans, in whose place the values of one iteration stand.
      whiles: The while loops, likewise.
    """

    nodes: list[Node]
    inputs: list[Node]
    outputs: list[Node]
    scans: list[Scan]
    whiles: list[Repeat]


def flatten(*programs: ClosedJaxpr) -> Flat:
    """Walks programs that differ in their sizes alone.

    Args:
      *programs: One, or the same function traced at several sizes.

    Raises:
      ValueError: if they do other things; names the first equation that differs and its line.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> loss = jax.jit(lambda w, x: jnp.tanh(x @ w).sum())
      >>> traced = [jax.make_jaxpr(loss)(jnp.ones((n, 3)), jnp.ones(n)) for n in (4, 8)]
      >>> flat = flatten(*traced)
      >>> [(node.op, *node.shapes) for node in flat.nodes][:3]
      [('input', (4, 3), (8, 3)), ('input', (4,), (8,)), ('dot_general', (3,), (3,))]
    """
    walk = _Walk(len(programs))
    types = zip(*(program.jaxpr.invars for program in programs), strict=True)
    inputs = [walk.add("input", [], tuple(v.aval for v in vs)) for vs in types]
    outputs = walk.run(programs, inputs, ())
    return Flat(walk.nodes, inputs, outputs, walk.scans, walk.whiles)


class _Walk:
    """Programs on their way to a list of nodes.

    Args:
      number: Number of programs.
    """

    def __init__(self, number: int):
        self.number = number
        self.nodes: list[Node] = []
        self.scans: list[Scan] = []
        self.whiles: list[Repeat] = []

    def add(self, op: str, parents: Sequence[Node], types: tuple[Any, ...], **more: Any) -> Node:
        """A new node; takes more fields of `Node` by name."""
        self.nodes.append(Node(op, list(parents), types, **more))
        return self.nodes[-1]

    def run(
        self, programs: Sequence[ClosedJaxpr], inputs: Sequence[Node], path: tuple[Equation, ...]
    ) -> list[Node]:
        """The values that come out of programs, inside of the calls and loops of a path."""
        # The variables of the first program stand for those of all: the equations are the same.
        jaxprs = [program.jaxpr for program in programs]
        values: dict[Var, Node] = dict(zip(jaxprs[0].invars, inputs, strict=True))
        for position, variable in enumerate(jaxprs[0].constvars):
            held = tuple(program.consts[position] for program in programs)
            types = tuple(jaxpr.constvars[position].aval for jaxpr in jaxprs)
            values[variable] = self.add("constant", [], types, path=path, value=held)

        def read(atoms: tuple[Atom, ...]) -> Node:
            first = atoms[0]
            if not isinstance(first, Literal):
                return values[first]
            held = tuple(atom.val for atom in atoms if isinstance(atom, Literal))
            types = tuple(atom.aval for atom in atoms)
            return self.add("constant", [], types, path=path, value=held)

        for equations in _in_lockstep([jaxpr.eqns for jaxpr in jaxprs], path):
            atoms = zip(*(equation.invars for equation in equations), strict=True)
            results = self.step(equations, [read(each) for each in atoms], path)
            values.update(zip(equations[0].outvars, results, strict=True))
        return [read(atoms) for atoms in zip(*(j.outvars for j in jaxprs), strict=True)]

    def step(
        self, equations: Lockstep, inputs: list[Node], path: tuple[Equation, ...]
    ) -> list[Node]:
        """The values that one equation makes."""
        first = equations[0]
        path = (*path, first)
        if is_call(first):
            return self.run([called(equation) for equation in equations], inputs, path)
        for is_one, opened in _OPENED:
            if is_one(first):
                return opened(self, equations, inputs, path)
        op = first.primitive.name
        return [self.made(op, inputs, equations, i, path) for i in range(len(first.outvars))]

    def made(
        self,
        op: str,
        parents: Sequence[Node],
        equations: Lockstep,
        output: int,
        path: tuple[Equation, ...],
    ) -> Node:
        """One result of an equation."""
        types = tuple(equation.outvars[output].aval for equation in equations)
        return self.add(op, parents, types, path=path, equations=equations, output=output)

    def seen(
        self,
        op: str,
        parents: Sequence[Node],
        programs: Sequence[ClosedJaxpr],
        first: int,
        path: tuple[Equation, ...],
    ) -> list[Node]:
        """The inputs of inner programs, from the position `first` on, each made of a parent."""
        variables = [program.jaxpr.invars[first : first + len(parents)] for program in programs]
        return [
            self.add(op, [parent], tuple(v.aval for v in vs), path=path)
            for parent, *vs in zip(parents, *variables, strict=True)
        ]

    def scan(
        self, equations: Lockstep, inputs: list[Node], path: tuple[Equation, ...]
    ) -> list[Node]:
        loops = [Loop.of(equation) for equation in equations]
        bodies, loop = [each.body for each in loops], loops[0]
        constants, start, scanned = loop.split(inputs)
        carry = self.seen("carry", start, bodies, loop.constants, path)
        self.scans.append(Scan(tuple(each.length for each in loops), carry, path))
        slices = self.seen("slice", scanned, bodies, loop.constants + loop.carry, path)
        results = self.run(bodies, [*constants, *carry, *slices], path)
        _close(carry, results[: loop.carry])
        # The carry stands for its last value too. Whoever looks for a fixpoint finds one for both.
        outputs = enumerate(results[loop.carry :], start=loop.carry)
        return [*carry, *(self.made("stack", [y], equations, i, path) for i, y in outputs)]

    def repeat(
        self, equations: Lockstep, inputs: list[Node], path: tuple[Equation, ...]
    ) -> list[Node]:
        loops = [While(equation) for equation in equations]
        bodies, tests = [each.body for each in loops], [each.test for each in loops]
        of_test, of_body, start = loops[0].split(inputs)
        carry = self.seen("carry", start, bodies, len(of_body), path)
        # Nothing follows from the test, but parameters may be used in it.
        (goes_on,) = self.run(tests, [*of_test, *carry], path)
        test = self.add("test", [goes_on], goes_on.types, path=path)
        self.whiles.append(Repeat(test, carry))
        _close(carry, self.run(bodies, [*of_body, *carry], path))
        return carry

    def choose(
        self, equations: Lockstep, inputs: list[Node], path: tuple[Equation, ...]
    ) -> list[Node]:
        index, operands = Choice(equations[0]).split(inputs)
        branches = zip(*(Choice(equation).branches for equation in equations), strict=True)
        results = [self.run(programs, operands, path) for programs in branches]
        return [
            self.made("choice", [index, *ways], equations, i, path)
            for i, ways in enumerate(zip(*results, strict=True))
        ]

    def per_device(
        self, equations: Lockstep, inputs: list[Node], path: tuple[Equation, ...]
    ) -> list[Node]:
        programs = [closed(equation.params["jaxpr"]) for equation in equations]
        results = self.run(programs, self.seen("shard", inputs, programs, 0, path), path)
        outputs = enumerate(results)
        return [self.made("unshard", [y], equations, i, path) for i, y in outputs]


def _is_per_device(equation: Equation) -> bool:
    return equation.primitive.name == "shard_map"


_OPENED: list[tuple[Callable[[Equation], bool], Callable[..., list[Node]]]] = [
    (is_scan, _Walk.scan),
    (is_while, _Walk.repeat),
    (is_choice, _Walk.choose),
    (_is_per_device, _Walk.per_device),
]


def _close(carry: Sequence[Node], results: Sequence[Node]) -> None:
    for node, result in zip(carry, results, strict=True):
        node.parents.append(result)


def _in_lockstep(lists: Sequence[Sequence[Equation]], path: tuple[Equation, ...]) -> Any:
    """The equations of several programs side by side.

    Raises:
      ValueError: if they are not the same.
    """
    for equations in zip(*lists, strict=False):
        if len({_signature(equation) for equation in equations}) > 1:
            raise ValueError(_differ(equations, (*path, equations[0])))
        yield equations
    shortest = min(map(len, lists))
    if any(len(equations) > shortest for equations in lists):
        # The next equation of each, of which some programs have none.
        rest = [next(iter(equations[shortest:]), None) for equations in lists]
        found = next(equation for equation in rest if equation is not None)
        raise ValueError(_differ(rest, (*path, found)))


def _signature(equation: Equation) -> tuple[Any, ...]:
    """Everything but shapes and numbers, which alone may differ between sizes."""
    # A number in one program and a variable in the other is another program, though the primitive
    # is the same: something is computed there that here Python knows.
    literals = tuple(isinstance(atom, Literal) for atom in equation.invars)
    branches = len(Choice(equation).branches) if is_choice(equation) else 0
    counts = Loop.of(equation)[1:] if is_scan(equation) else ()
    return equation.primitive.name, literals, len(equation.outvars), branches, counts


def _differ(equations: Sequence[Equation | None], path: tuple[Equation, ...]) -> str:
    line = line_of(path)
    where = f" at {line.file}:{line.line}" if line else ""
    return (
        "The model must do the same at all sizes, so that only its shapes differ. At the first "
        f"equation that differs{where} it does {' and '.join(map(_described, equations))}. Take "
        "out of the model what Python decides by the size, as the number of layers, or hold it "
        "fixed."
    )


def _described(equation: Equation | None) -> str:
    if equation is None:
        return "nothing more"
    return f"`{equation.primitive.name}` of {len(equation.invars)}"
