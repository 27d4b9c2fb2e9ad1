"""The data of a coordinate check: one batch for every step, or one batch a step."""

import itertools
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._check import listed
from jaxmup._tree import Tree

Batch: TypeAlias = tuple[Tree, Tree]
"""Inputs and targets."""
Data: TypeAlias = Batch | Iterable[Batch]
"""One batch for every step, or an iterable of one batch a step."""


def batches_of(data: Data, steps: int) -> tuple[Batch, bool]:
    """The batch of every step, or those of all steps stacked, and whether it is the former.

    Raises:
      TypeError: if the data are no batch and no iterable of batches.
      ValueError: if they run out, have no examples, are not finite, or differ in shape.
    """
    if isinstance(data, tuple):
        _check_batch(data, 0)
        return jax.tree.map(jnp.asarray, data), True
    if not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be a batch `(inputs, targets)` or an iterable of such batches. Got "
            f"{type(data).__name__}."
        )
    batches = list(itertools.islice(data, steps))
    if len(batches) < steps:
        raise ValueError(
            f"`data` must hold a batch for each of the {steps} steps. It ran out after "
            f"{len(batches)}. Pass one batch as a tuple to train on it at every step."
        )
    for i, batch in enumerate(batches):
        _check_batch(batch, i)
    shapes = [jax.tree.map(np.shape, batch) for batch in batches]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"All batches must have one shape. Got {listed(map(str, shapes))}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches), False


def _check_batch(batch: Any, step: int) -> None:
    if not (isinstance(batch, tuple) and len(batch) == 2):
        raise TypeError(f"A batch must be a tuple `(inputs, targets)`. Got {type(batch).__name__}.")
    if not jax.tree.leaves(batch[0]):
        raise ValueError(f"The inputs must hold an array. Batch {step} has none in {batch[0]!r}.")
    for leaf in jax.tree.leaves(batch):
        _check_array(np.asarray(leaf), step)


def _check_array(values: np.ndarray, step: int) -> None:
    if values.size == 0:
        raise ValueError(
            f"The data must hold examples. Batch {step} has none in an array of shape "
            f"{values.shape}."
        )
    if jnp.issubdtype(values.dtype, jnp.inexact) and not np.isfinite(values).all():
        raise ValueError(
            f"The data must be finite. Batch {step} has {np.sum(~np.isfinite(values))} entries "
            f"that are not, in an array of shape {values.shape}."
        )
