"""The size of every value of a model's program, at each step of a training run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmup._infer._parametrized import Parametrized
from jaxmup._model import Parts
from jaxmup._program import (
    ClosedJaxpr,
    Equation,
    Node,
    bind,
    evaluate,
    flatten,
    is_choice,
    is_inexact,
    run_inside,
)
from jaxmup.coord_check._batches import Batches

# What is larger is a mask, or the logits that one has written: it says nothing of the others.
MASK = 1e9
Place: TypeAlias = tuple[tuple[int, ...], int]
"""The equations that a value is inside of and its own, by identity, and its position there."""


class Run(NamedTuple):
    """The training run of one model.

    Args:
      loss_fn: Loss of outputs and targets, a scalar.
      tx: Transform that turns gradients into updates.
      steps: Number of steps of the optimizer.
      batches: Data of all steps.
    """

    loss_fn: Callable[[Any, Any], Array]
    tx: optax.GradientTransformation
    steps: int
    batches: Batches

    def of(self, model: Parametrized, seeds: Sequence[int]) -> np.ndarray:
        """The root mean square of every value of the model's program on the first batch.

        Returns:
          An array of shape `(seeds, steps + 1, nodes)`, the first step before any update and the
          nodes those of `flatten`; not a number where a value was not measured.
        """

        def of_seed(seed: Array) -> Array:
            return self._squares(model, jax.random.key(seed))

        squares = jax.jit(lambda seeds: jax.lax.map(of_seed, seeds))(jnp.asarray(seeds, jnp.uint32))
        return np.sqrt(np.asarray(squares, float))

    def _squares(self, model: Parametrized, key: Array) -> Array:
        batches, instance = self.batches, model.instance
        program = instance.program()
        places = places_of(program)
        number = len(flatten(program).nodes)
        probe = batches.arrays if batches.repeated else jax.tree.map(lambda x: x[0], batches.arrays)

        def measured(params: Any, rest: Any) -> Array:
            found = mean_squares(program, jax.tree.leaves((params, rest, probe[0])), places)
            return (
                jnp.full(number, jnp.nan)
                .at[jnp.array(list(found), int)]
                .set(jnp.stack([jnp.mean(value) for value in found.values()]))
            )

        def objective(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
            outputs, rest = instance.call(Parts(params, rest), batches.static.joined(batch[0]))
            return self.loss_fn(outputs, batch[1]), rest

        def step(carry: Any, batch: Any) -> Any:
            params, rest, state = carry
            before = measured(params, rest)
            batch = batches.arrays if batches.repeated else batch
            gradients, rest = jax.grad(objective, has_aux=True)(params, rest, batch)
            updates, state = self.tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), rest, state), before

        params, rest = model.draw(key)
        every = None
        if not batches.repeated:
            every = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:]]), batches.arrays)
        # What the last step makes is measured as one step more begins, whose update is for nothing:
        # the program is compiled once.
        start = (params, rest, self.tx.init(params))
        return jax.lax.scan(step, start, every, length=self.steps + 1)[1]


def places_of(program: ClosedJaxpr) -> dict[Place, int]:
    """The index among the nodes of `flatten` of every value that an equation makes."""

    def place(node: Node) -> Place:
        return tuple(map(id, node.path)), node.output

    nodes = enumerate(flatten(program).nodes)
    return {place(node): i for i, node in nodes if node.equations and is_inexact(node.types[0])}


def mean_squares(
    program: ClosedJaxpr, inputs: Sequence[Array], places: Mapping[Place, int]
) -> dict[int, Array]:
    """The mean square of every value of a program, by its index among the nodes of `flatten`.

    Of a value inside of a scan there is one for each iteration. What is inside of a while, of
    branches or of an opaque call is not measured.
    """

    def run(
        program: ClosedJaxpr, inputs: Sequence[Any], path: tuple[int, ...]
    ) -> tuple[list[Any], dict[int, Array]]:
        found: dict[int, Array] = {}

        def hook(equation: Equation, inputs: list[Any]) -> list[Any]:
            here = (*path, id(equation))
            entered = None
            if not is_choice(equation):  # its branches hold other values each
                entered = run_inside(equation, inputs, lambda p, xs: run(p, xs, here))
            results, inside = (bind(equation, inputs), None) if entered is None else entered
            found.update(inside or {})
            for output, value in enumerate(results):
                if (here, output) in places:
                    found[places[here, output]] = _mean_square(value)
            return results

        return evaluate(program, inputs, hook), found

    return run(program, inputs, ())[1]


def _mean_square(value: Array) -> Array:
    size = jnp.abs(value).astype(jnp.float32)
    counts = size < MASK  # false of what is not finite
    mean = jnp.sum(jnp.where(counts, size, 0) ** 2) / jnp.maximum(jnp.sum(counts), 1)
    return jnp.where(jnp.isnan(size).any(), jnp.nan, mean)
