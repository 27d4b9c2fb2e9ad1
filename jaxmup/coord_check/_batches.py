"""The data of a coordinate check: one batch for every step, or one batch a step."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._check import listed
from jaxmup._inputs import Call, Static, as_call, take_arrays
from jaxmup._tree import Tree

Data: TypeAlias = tuple[Any, Tree] | Iterable[tuple[Any, Tree]]
"""One batch `(inputs, targets)` for every step, or an iterable of one batch a step."""
Batch: TypeAlias = tuple[list[Array], Tree]
"""The arrays of the inputs, and the targets; or those of several batches stacked."""


class Batches(NamedTuple):
    """The data of all steps.

    Args:
      arrays: Arrays of the batch of every step, or those of all steps stacked.
      static: Arguments of the model's call without their arrays.
      repeated: Whether every step has the same batch.
    """

    arrays: Batch
    static: Static
    repeated: bool

    @property
    def first_call(self) -> Call:
        """The arguments of the model's call at the first step."""
        arrays = self.arrays[0] if self.repeated else [leaf[0] for leaf in self.arrays[0]]
        return self.static.joined(arrays)


def batches_of(data: Data, steps: int) -> Batches:
    """The data of all steps.

    Raises:
      TypeError: if the data are no batch and no iterable of batches.
      ValueError: if they run out, have no examples, are not finite, or differ in shape or in what
        is no array.
    """
    if isinstance(data, tuple):
        return Batches(*_taken_apart(data, 0), repeated=True)
    if not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be a batch `(inputs, targets)` or an iterable of such batches. Got "
            f"{type(data).__name__}."
        )
    taken = [_taken_apart(batch, i) for i, batch in enumerate(itertools.islice(data, steps))]
    if len(taken) < steps:
        raise ValueError(
            f"`data` must hold a batch for each of the {steps} steps. It ran out after "
            f"{len(taken)}. Pass one batch as a tuple to train on it at every step."
        )
    batches, statics = zip(*taken, strict=True)
    shapes = [jax.tree.map(np.shape, batch) for batch in batches]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"All batches must have one shape. Got {listed(map(str, shapes))}")
    if any(static != statics[0] for static in statics):
        flags = listed(str(static.values) for static in statics)
        raise ValueError(f"All batches must have the same flags. Got {flags}")
    return Batches(jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches), statics[0], False)


def _taken_apart(batch: Any, step: int) -> tuple[Batch, Static]:
    """The arrays of a batch, and what is no array of its inputs; once they are as they must be."""
    if not (isinstance(batch, tuple) and len(batch) == 2):
        raise TypeError(f"A batch must be a tuple `(inputs, targets)`. Got {type(batch).__name__}.")
    inputs, targets = batch
    arrays, static = take_arrays(as_call(inputs))
    if not arrays:
        raise ValueError(f"The inputs must hold an array. Batch {step} has none in {inputs!r}.")
    for leaf in jax.tree.leaves((arrays, targets)):
        _check_array(leaf, step)
    return jax.tree.map(jnp.asarray, (arrays, targets)), static


def _check_array(leaf: Any, step: int) -> None:
    if 0 in np.shape(leaf):
        raise ValueError(
            f"The data must hold examples. Batch {step} has none in an array of shape "
            f"{np.shape(leaf)}."
        )
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all():
        raise ValueError(
            f"The data must be finite. Batch {step} has {np.sum(~np.isfinite(leaf))} entries "
            f"that are not, in an array of shape {np.shape(leaf)}."
        )
