"""Runs of the models of all sizes: one program each, compiled and run side by side."""

import dataclasses
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

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
