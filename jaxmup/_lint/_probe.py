"""Running an optax transform on a model of tiny parameters, to see what it does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._tree import path_name

_UPDATES = 8  # that are made before one is measured: RAdam's first five are another optimizer's
_LONGEST_WAIT = 256  # calls until so many updates: warm-up from zero, accumulated gradients


class Trial(NamedTuple):
    """The inputs of a transform in one run, each as the size of the entries of each parameter.

    Args:
      gradients: at every call up to the one whose update is measured first.
      weights: the parameters at those calls, and at `init`.
      then: gradients and parameters at the calls after it, up to the next update; `None` for the
        same as before.
    """

    gradients: np.ndarray
    weights: np.ndarray
    then: tuple[np.ndarray, np.ndarray] | None = None


class Probe(NamedTuple):
    """A transform on parameters that have the paths and ranks of the model's, and 1 or 2 elements.

    The signs of the entries of a parameter alternate; an update is measured as the mean of its
    entries with those signs.

    Args:
      tx: the transform.
      structure: of the tree of parameters.
      signs: those of the entries of each parameter.
    """

    tx: Any
    structure: Any
    signs: tuple[jax.Array, ...]

    @classmethod
    def of(cls, tx: Any, tree: Any, ranks: Mapping[str, int]) -> "Probe":
        """A probe of `tx` on tiny parameters of the structure of `tree`, with ranks by path."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        return cls(tx, structure, tuple(_signs(ranks[path_name(path)]) for path, _ in leaves))

    def run(self, trials: Mapping[Any, Trial]) -> dict[Any, np.ndarray] | None:
        """Runs all trials side by side.

        Returns:
          For each trial two updates, shape `(2, parameters)`, one with what is given first and one
          with what is given then. Each is half the difference to the update with all signs turned:
          what a transform adds whatever it is given, such as an initial moment, is not seen. `None`
          if next to nothing is updated within 256 calls.

        Raises:
          Exception: whatever the transform raises.
        """
        calls = list(range(_UPDATES))
        updates, moved = self._run(list(trials.values()), calls)
        if not all(moved):
            # Nothing is updated at some calls, so that the right ones must be found first.
            found = self._calls_that_update()
            if len(found) < 2:
                return None
            updates, _ = self._run(list(trials.values()), found)
        return dict(zip(trials, updates, strict=True))

    def _run(self, trials: Sequence[Trial], calls: Sequence[int]) -> tuple[np.ndarray, list[bool]]:
        """The updates of all trials at the last two of `calls`, and which calls update anything."""
        before = np.stack([[trial.gradients, trial.weights] for trial in trials])
        after = np.stack([trial.then or (trial.gradients, trial.weights) for trial in trials])
        # One more trial, whose zero weights do not decay: it shows which calls update anything.
        shown = np.stack([np.ones_like(before[0, 0]), np.zeros_like(before[0, 0])])[None]
        before, after = (np.concatenate([x, -x, shown]) for x in (before, after))
        init, update = (_compiled(jax.vmap(f)) for f in (self._init, self._update))
        state = init(_array(before[:, 1]))
        measured, moved = [], []
        for call in range(calls[-1] + 1):
            gradients, weights = _array(before if call <= calls[-2] else after).swapaxes(0, 1)
            updates, state = update(gradients, state, weights)
            moved.append(bool(jnp.any(updates[-1] != 0)))
            if call in calls[-2:]:
                measured.append(np.asarray(updates[:-1], np.float64))
        ahead, turned = np.split(np.stack(measured, axis=1), 2)
        return (ahead - turned) / 2, moved

    def _calls_that_update(self) -> list[int]:
        ones, zeros = _array(np.ones(len(self.signs))), _array(np.zeros(len(self.signs)))
        update, state = _compiled(self._update), _compiled(self._init)(zeros)
        calls: list[int] = []
        for call in range(_LONGEST_WAIT):
            updates, state = update(ones, state, zeros)
            if jnp.any(updates != 0):
                calls.append(call)
            if len(calls) == _UPDATES:
                break
        return calls

    def _filled(self, sizes: jax.Array) -> Any:
        leaves = [sizes[i] * signs for i, signs in enumerate(self.signs)]
        return jax.tree_util.tree_unflatten(self.structure, leaves)

    def _init(self, weights: jax.Array) -> Any:
        return self.tx.init(self._filled(weights))

    def _update(
        self, gradients: jax.Array, state: Any, weights: jax.Array
    ) -> tuple[jax.Array, Any]:
        updates, state = self.tx.update(self._filled(gradients), state, self._filled(weights))
        leaves = zip(jax.tree.leaves(updates), self.signs, strict=True)
        return jnp.stack([jnp.mean(update * signs) for update, signs in leaves]), state


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that is made quickly rather than well: it runs a few times."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=quick if jax.default_backend() == "cpu" else None)


def _array(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def elements(rank: int) -> int:
    """Number of elements of a parameter of this rank in a probe."""
    return 1 if rank == 0 else 2  # two, so that a transform that subtracts a mean leaves something


def _signs(rank: int) -> jax.Array:
    signs = jnp.asarray([1.0, -1.0], jnp.float32)[: elements(rank)]
    return signs.reshape((1,) * (rank - 1) + (2,) if rank else ())
