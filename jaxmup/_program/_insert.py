"""Programs that run with factors on some of their values, wherever in calls and loops these are."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxmup._program._calls import is_call, is_checkpoint, is_plain_call
from jaxmup._program._evaluate import evaluate, run_inside
from jaxmup._program._flatten import Node
from jaxmup._program._jax import ClosedJaxpr, Equation, bind
from jaxmup._program._loops import Choice, is_choice, is_scan, is_while
from jaxmup.functional import scale

_Path = tuple[int, ...]  # equations by their ids: the same equation twice has two paths


def is_open(node: Node) -> bool:
    """True if a factor can be put on a value.

    An equation must make it, and not inside of a function that has derivatives of its own, which
    would know nothing of the factor, nor in what runs on each device by itself.
    """
    *outer, _ = node.path or (None,)
    return bool(node.equations) and all(map(_can_enter, outer))


def evaluate_with_factors(
    program: ClosedJaxpr, inputs: Sequence[Any], factors: Iterable[tuple[Node, float]]
) -> list[Any]:
    """The outputs of a program, with some of its values multiplied.

    Args:
      program: The program.
      inputs: Its inputs.
      factors: Values of `flatten(program)`, each open, with the factor on each.

    Example:
      >>> import jax
      >>> from jaxmup._program import flatten
      >>> program = jax.make_jaxpr(lambda x: jax.jit(jax.numpy.sin)(x) + 1)(0.0)
      >>> sine = next(node for node in flatten(program).nodes if node.op == "sin")
      >>> evaluate_with_factors(program, [jax.numpy.pi / 2], [(sine, 3.0)])
      [Array(4., dtype=float32)]
    """
    found: dict[_Path, dict[int, float]] = {}
    for node, factor in factors:
        found.setdefault(tuple(map(id, node.path)), {})[node.output] = factor
    return _Inserted(found).run(program, list(inputs), ())


class _Inserted:
    """Factors by the path of the equation and the position of its result."""

    def __init__(self, factors: dict[_Path, dict[int, float]]):
        self.factors = factors
        self.around = {path[:depth] for path in factors for depth in range(1, len(path))}

    def run(self, program: ClosedJaxpr, inputs: list[Any], path: _Path) -> list[Any]:
        """The outputs of a program inside of the equations of a path."""

        def hook(equation: Equation, read: list[Any]) -> list[Any] | None:
            here = (*path, id(equation))
            if here in self.around:
                ran = run_inside(equation, read, lambda p, xs: (self.run(p, xs, here), ()))
                assert ran is not None  # `is_open` has seen to it
                results = list(ran[0])
            elif here in self.factors:
                results = bind(equation, read)
            else:
                return None
            for output, factor in self.factors.get(here, {}).items():
                results[output] = scale(results[output], factor)
            return results

        return evaluate(program, inputs, hook)


def _can_enter(equation: Equation | None) -> bool:
    if equation is None:
        return False
    if is_call(equation):
        return is_plain_call(equation) or is_checkpoint(equation)
    if is_choice(equation):
        return not Choice(equation).is_of_platform
    return is_scan(equation) or is_while(equation)
