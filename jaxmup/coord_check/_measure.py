"""Runs of the models of all sizes: one program each, compiled and run side by side."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmup.coord_check._batches import Batch
from jaxmup.coord_check._effective import effective
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._sums import Measured
from jaxmup.coord_check._training import Training, run_seeds


@dataclasses.dataclass(frozen=True)
class TracedRun:
    """The run of every seed of the model of one size, traced, but neither compiled nor started.

    Args:
      subject: Model.
      lowered: Program of its run.
      arguments: Arguments of that program.
    """

    subject: Subject
    lowered: jax.stages.Lowered
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, subject: Subject, training: Training, batches: Batch) -> "TracedRun":
        """The run of a model.

        Args:
          subject: Model.
          training: How it trains.
          batches: `(inputs, targets)`; with a leading axis of steps unless the batch is repeated.
        """
        # One model keeps a CPU busy and fits its cache; an accelerator runs all at once.
        run = partial(run_seeds, subject, training, jax.default_backend() != "cpu")
        arguments = (jnp.asarray(training.seeds, jnp.uint32), batches)
        return cls(subject, jax.jit(run).lower(*arguments), arguments)

    def measured(self) -> list[Measured]:
        """Compiles and runs it: every quantity of the run."""
        sums, eps = self.lowered.compile()(*self.arguments).unpacked()
        return list(effective(sums, eps, self.subject.scaling_of))


def run_all(runs: Iterable[TracedRun]) -> list[list[Measured]]:
    """Every quantity of each run, in order.

    While Python traces the next model, XLA compiles and runs those before it in other threads.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(TracedRun.measured, runs))


class Runs:
    """The runs of a check, each of which runs once however often it is asked for.

    Args:
      batches: `(inputs, targets)`, as for `TracedRun.of`.
      training: How models train, but for the transform and the seeds.
      transform_of: Function from a model to its transform.
    """

    def __init__(
        self,
        batches: Batch,
        training: Training,
        transform_of: Callable[[Subject], optax.GradientTransformation],
    ):
        self.batches, self.training, self.transform_of = batches, training, transform_of
        self._of_size: dict[int, tuple[int, list[Measured]]] = {}

    def of(
        self, subjects: Sequence[Subject], sizes: Sequence[int], seeds: Sequence[int]
    ) -> list[list[Measured]]:
        """Every quantity of the model of each size; the seeds begin with those run before."""
        wanted = {
            size: (subject, seeds[self._of_size.get(size, (0, []))[0] :])
            for subject, size in zip(subjects, sizes, strict=True)
        }
        # The largest model is commonly the last, and takes longest: it starts first.
        missing = [(size, *what) for size, what in reversed(wanted.items()) if what[1]]
        found = run_all(
            TracedRun.of(subject, self._training(subject, some), self.batches)
            for _, subject, some in missing
        )
        for (size, *_), new in zip(missing, found, strict=True):
            number, old = self._of_size.get(size, (0, []))
            self._of_size[size] = (len(seeds), joined(old, new) if number else new)
        return [self._of_size[size][1] for size in sizes]

    def _training(self, subject: Subject, seeds: Sequence[int]) -> Training:
        return dataclasses.replace(self.training, tx=self.transform_of(subject), seeds=tuple(seeds))


def joined(old: Sequence[Measured], new: Sequence[Measured]) -> list[Measured]:
    """The quantities of some seeds and of others as those of all."""

    def both(one: Any, other: Any) -> Any:
        return None if one is None else np.concatenate([one, other])

    return [
        dataclasses.replace(
            one, rms=both(one.rms, other.rms), mean_abs=both(one.mean_abs, other.mean_abs)
        )
        for one, other in zip(old, new, strict=True)
    ]
