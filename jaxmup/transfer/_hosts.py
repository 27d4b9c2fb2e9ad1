"""Sharing a sweep between the processes that `jax.distributed` has joined."""

import json
from collections.abc import Iterable

import jax
import numpy as np

from jaxmup.transfer._store import trial_from_json, trial_to_json
from jaxmup.transfer._trial import Trial


def is_mine(index: int) -> bool:
    """True if the work of this index is for this process: they take turns."""
    return index % jax.process_count() == jax.process_index()


def exchanged(trials: Iterable[Trial]) -> list[Trial]:
    """The trials of all processes; each passes in its own, and all get the same.

    A process that has failed is noticed here by the others.
    """
    if jax.process_count() == 1:
        return list(trials)
    text = json.dumps([trial_to_json(trial) for trial in trials])
    return [trial_from_json(x) for part in _gathered(text.encode()) for x in json.loads(part)]


def _gathered(content: bytes) -> list[bytes]:
    """The contents of all processes, in their order."""
    from jax.experimental.multihost_utils import process_allgather

    # JAX gathers arrays of one shape alone, so all learn the largest size first and pad to it.
    sizes = np.ravel(process_allgather(np.array([len(content)], np.int32)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]
