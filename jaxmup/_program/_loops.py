"""Equations that run a program several times, or one of several: scan, while and cond, opened."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from jax import lax

from jaxmup._program._jax import ClosedJaxpr, Equation, closed, scan_counts

T = TypeVar("T")


class Loop(NamedTuple):
    """A `jax.lax.scan`, its inputs and outputs told apart.

    Args:
      equation: The scan.
      constants: Number of inputs that every iteration sees.
      carry: Number of values that one iteration hands to the next.
    """

    equation: Equation
    constants: int
    carry: int

    @classmethod
    def of(cls, equation: Equation) -> "Loop":
        """The loop that a scan is."""
        return cls(equation, *scan_counts(equation))

    @property
    def body(self) -> ClosedJaxpr:
        """An iteration: from constants, carry and its slices to carry and what it puts out."""
        return closed(self.equation.params["jaxpr"])

    @property
    def length(self) -> int:
        """Number of iterations."""
        return self.equation.params["length"]

    @property
    def is_reversed(self) -> bool:
        """True if the last slices come first."""
        return self.equation.params["reverse"]

    @property
    def order(self) -> dict[str, Any]:
        """The arguments of `jax.lax.scan` that say in which order the iterations come."""
        return {name: self.equation.params[name] for name in ("length", "reverse", "unroll")}

    @property
    def scanned(self) -> list[Any]:
        """The atoms of which each iteration sees a slice."""
        return self.split(self.equation.invars)[2]

    def split(self, inputs: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
        """One entry for each input, as those of constants, of the carry and of scanned inputs."""
        end = self.constants + self.carry
        return (
            list(inputs[: self.constants]),
            list(inputs[self.constants : end]),
            list(inputs[end:]),
        )

    def run(self, block: Callable[..., tuple[list[Any], T]], inputs: Sequence[Any]) -> Any:
        """The results of the loop with another body, and what its iterations collect, stacked.

        Args:
          block: Takes a list of constants, carry and slices to a list of results as those of the
            body, and anything to collect.
          inputs: What the equation reads.
        """
        constants, carry, scanned = self.split(inputs)

        def iteration(carry: list[Any], slices: list[Any]) -> tuple[list[Any], Any]:
            results, collected = block([*constants, *carry, *slices])
            return results[: self.carry], (results[self.carry :], collected)

        last, (outputs, collected) = lax.scan(iteration, carry, scanned, **self.order)
        return [*last, *outputs], collected


class While(NamedTuple):
    """A `jax.lax.while_loop`, opened.

    Args:
      equation: The loop.
    """

    equation: Equation

    @property
    def test(self) -> ClosedJaxpr:
        """From its own constants and the carry to whether another iteration follows."""
        return closed(self.equation.params["cond_jaxpr"])

    @property
    def body(self) -> ClosedJaxpr:
        """From its own constants and the carry to the carry."""
        return closed(self.equation.params["body_jaxpr"])

    def split(self, inputs: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
        """One entry for each input, as those of the test's constants, the body's, and the carry."""
        test = self.equation.params["cond_nconsts"]
        end = test + self.equation.params["body_nconsts"]
        return list(inputs[:test]), list(inputs[test:end]), list(inputs[end:])

    def run(
        self, run: Callable[[ClosedJaxpr, list[Any]], list[Any]], inputs: Sequence[Any]
    ) -> list[Any]:
        """The results of the loop; `run` takes the test or the body and inputs to results."""
        of_test, of_body, carry = self.split(inputs)
        return lax.while_loop(
            lambda carry: run(self.test, [*of_test, *carry])[0],
            lambda carry: run(self.body, [*of_body, *carry]),
            carry,
        )


class Choice(NamedTuple):
    """A `jax.lax.cond` or `jax.lax.switch`, opened.

    Args:
      equation: The choice.
    """

    equation: Equation

    @property
    def branches(self) -> list[ClosedJaxpr]:
        """The programs that it chooses among, all of one type."""
        return [closed(branch) for branch in self.equation.params["branches"]]

    @property
    def is_of_platform(self) -> bool:
        """True if the compiler chooses: `jax.lax.platform_dependent`."""
        return self.equation.params.get("branches_platforms") is not None

    def split(self, inputs: Sequence[T]) -> tuple[T, list[T]]:
        """One entry for each input, as that of the index and those of what all branches read."""
        return inputs[0], list(inputs[1:])

    def run(
        self, run: Callable[[ClosedJaxpr, list[Any]], tuple[list[Any], T]], inputs: Sequence[Any]
    ) -> Any:
        """The results of the branch that is chosen, and what it collects, alike in all branches."""
        index, operands = self.split(inputs)
        ways = [lambda xs, branch=branch: run(branch, xs) for branch in self.branches]
        return lax.switch(index, ways, operands)


def is_scan(equation: Equation) -> bool:
    """True if an equation is a `jax.lax.scan`."""
    return equation.primitive.name == "scan"


def is_while(equation: Equation) -> bool:
    """True if an equation is a `jax.lax.while_loop`."""
    return equation.primitive.name == "while"


def is_choice(equation: Equation) -> bool:
    """True if an equation is a `jax.lax.cond` or `jax.lax.switch`."""
    return equation.primitive.name == "cond"
