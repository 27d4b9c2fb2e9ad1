"""Running an optax transform on a model of tiny parameters, to see what it does."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._tree import path_name

_UPDATES = 8  # that are made: RAdam's first five are another optimizer's
_LONGEST_WAIT = 256  # calls until so many updates: warm-up from zero, accumulated gradients


@dataclasses.dataclass(frozen=True)
class Probe:
    """A transform on parameters that have the paths and ranks of the model's, and 1 or 2 elements.

    A gradient or parameter is given as one number, the size of its entries, whose signs alternate;
    an update is measured as the mean of its entries with those signs.

    Args:
      paths: those of the parameters.
      init: size of each parameter to the transform's state.
      update: sizes of gradients, state and sizes of parameters to those of updates and a state.
      first: the call whose update is measured first.
      second: the call of the next update; not the next call, if gradients are accumulated.
    """

    paths: tuple[str, ...]
    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    first: int = 0
    second: int = 1

    def run(self, steps: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The updates of two periods, each with its own gradients and parameters.

        Half the difference to the updates with all signs turned, so that what a transform adds
        whatever it is given, such as an initial moment, is not seen.

        Args:
          steps: gradients and parameters of the first period, up to the first update, and of the
            second, up to the second; of one period alone, if that is enough.

        Returns:
          Sizes of the updates, shape `(periods, parameters)`.
        """
        turned = [(-gradients, -params) for gradients, params in steps]
        return (self._run(steps) - self._run(turned)) / 2

    def _run(self, steps: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        state = self.init(steps[0][1])
        measured: list[np.ndarray] = []
        call = 0
        for last, (gradients, params) in zip((self.first, self.second), steps, strict=False):
            updates = None
            while call <= last:
                updates, state = self.update(gradients, state, params)
                call += 1
            measured.append(np.asarray(updates, np.float64))
        return np.stack(measured)


def probe(tx: Any, tree: Any, ranks: dict[str, int]) -> Probe | None:
    """A probe of `tx` on tiny parameters in the structure of `tree`.

    Args:
      tx: the optax transform.
      tree: parameters or specs; only its structure and paths are used.
      ranks: number of axes of each parameter, by path.

    Returns:
      The probe, or `None` if nothing is updated within 256 calls.

    Raises:
      Exception: whatever the transform raises.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = tuple(path_name(path) for path, _ in leaves)
    patterns = [_signs(ranks[path]) for path in paths]

    def filled(sizes: jax.Array) -> Any:
        arrays = [sizes[i] * pattern for i, pattern in enumerate(patterns)]
        return jax.tree_util.tree_unflatten(structure, arrays)

    @jax.jit
    def init(params: jax.Array) -> Any:
        return tx.init(filled(params))

    @jax.jit
    def update(gradients: jax.Array, state: Any, params: jax.Array) -> tuple[jax.Array, Any]:
        updates, state = tx.update(filled(gradients), state, filled(params))
        sizes = [jnp.mean(u * p) for u, p in zip(jax.tree.leaves(updates), patterns, strict=True)]
        return jnp.stack(sizes), state

    def as_array(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: function(
            *(jnp.asarray(x, jnp.float32) if isinstance(x, np.ndarray) else x for x in args)
        )

    found = Probe(paths, as_array(init), as_array(update))
    calls = _calls_that_update(found)
    return None if calls is None else dataclasses.replace(found, first=calls[0], second=calls[1])


def _signs(rank: int) -> jax.Array:
    if rank == 0:
        return jnp.ones((), jnp.float32)
    # Two elements, so that a transform that subtracts a mean leaves something.
    return jnp.asarray([1.0, -1.0], jnp.float32).reshape((1,) * (rank - 1) + (2,))


def _calls_that_update(found: Probe) -> tuple[int, int] | None:
    """The last two of the first calls whose gradients update anything; `None` if there are none."""
    ones = np.ones(len(found.paths))
    state = found.init(0 * ones)
    calls: list[int] = []
    for call in range(_LONGEST_WAIT):
        updates, state = found.update(ones, state, 0 * ones)  # zeros, which do not decay
        if np.any(np.asarray(updates) != 0):
            calls.append(call)
        if len(calls) == _UPDATES:
            break
    return (calls[-2], calls[-1]) if len(calls) > 1 else None
