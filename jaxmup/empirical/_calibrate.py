"""Measured scales for a whole model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxmup.empirical import _record
from jaxmup.empirical._linen import linen_subject
from jaxmup.empirical._nnx import nnx_subject
from jaxmup.empirical._record import Record, Seen
from jaxmup.empirical._redraw import redrawn
from jaxmup.empirical._require import require_called, require_change, require_inputs
from jaxmup.empirical._solve import Solution, solve
from jaxmup.empirical._use import Settings

Gradients = Literal["scaled", "true"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A calibrated model.

    Args:
      model: the NNX model, or the variables of the Linen module, with scales; a new one.
      scales: of each module, by name and in the order of the calls: a dict of scalars, or of one
        entry for each module of a stack.
      passes: how many forward and backward passes it took: 1, unless a module is used several
        times.
      warnings: what could not be measured, a sentence each.
    """

    model: Any
    scales: Mapping[str, Mapping[str, Array]]
    passes: int
    warnings: tuple[str, ...]


def calibrate(
    model: Any,
    inputs: Any,
    loss_fn: Callable[..., Array],
    *,
    variables: Mapping[str, Any] | None = None,
    modules: Sequence[str] | None = None,
    redraw: bool = True,
    key: Array | None = None,
    gradients: Gradients = "scaled",
    num_examples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Calibration:
    """A model whose modules have activations, gradients and updates of RMS 1, from one pass.

    DOC
    """
    if gradients not in get_args(Gradients):
        raise ValueError(f"`gradients` must be one of {get_args(Gradients)}. Got {gradients!r}.")
    subject, _ = make_subject(model, variables, modules, inputs, arguments, loss_fn)
    seen = observed(subject, inputs)
    if redraw:
        subject = redrawn(subject, jax.random.key(0) if key is None else key, seen)
    settings = Settings(count_examples(inputs, num_examples), gradients == "scaled")
    solution = solve(subject, settings, seen)
    require_change(solution.records)
    scales = {name: _scales(record, gradients) for name, record in solution.records.items()}
    arrays = {
        name: {field: jnp.asarray(value, seen[name].dtype) for field, value in fields.items()}
        for name, fields in scales.items()
    }
    found = subject.scaled(arrays)
    return Calibration(found, arrays, solution.passes, warnings_of(solution, seen))


def make_subject(
    model: Any,
    variables: Mapping[str, Any] | None,
    modules: Sequence[str] | None,
    inputs: Any,
    arguments: Mapping[str, Any] | None,
    loss_fn: Callable[..., Array],
) -> tuple[Any, dict[str, dict[str, Array]]]:
    """What is measured, of either API, and the scales that it has already.

    Raises:
      TypeError: if the model is of neither API, or `variables` and it do not fit each other.
    """
    args = as_arguments(inputs)
    keywords = {} if arguments is None else arguments
    if isinstance(model, nnx.Module) and variables is None:
        return nnx_subject(model, modules, args, keywords, loss_fn)
    if isinstance(model, nn.Module) and variables is not None:
        return linen_subject(model, variables, modules, args, keywords, loss_fn)
    raise TypeError(
        "`model` must be an NNX module, or a Linen module with its `variables`. Got "
        f"{type(model).__name__} and variables of type {type(variables).__name__}."
    )


def as_arguments(inputs: Any) -> tuple[Any, ...]:
    """What a model is called with: a tuple is several arguments, anything else is one."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def observed(subject: Any, inputs: Any) -> dict[str, Seen]:
    """What an abstract run says of each module, once inputs and calls are as they must be."""
    seen = subject.observe()
    require_called(subject.names.values(), seen)
    require_inputs(as_arguments(inputs), next(iter(seen)))
    return seen


def count_examples(inputs: Any, given: int | None) -> int:
    """Over how many examples the loss is a mean: the length of the first axis, if not given.

    Raises:
      ValueError: if it is not positive, or there is no such axis.
    """
    if given is None:
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs) if getattr(leaf, "ndim", 0)]
        given = shapes[0][0] if shapes else 0
    if given < 1:
        raise ValueError(
            "`num_examples` must be the number of examples that the loss is a mean over, at least "
            f"1; by default it is the length of the inputs' first axis. Got {given}."
        )
    return given


def warnings_of(solution: Solution, seen: Mapping[str, Seen]) -> tuple[str, ...]:
    """What could not be measured, or is no good sign: a sentence for each module."""
    found: list[str] = []
    for name, record in solution.records.items():
        for index, row in _record.rows(name, seen[name].lead):
            at = Record(*(field[index] for field in record))
            found += [f"{row}: {problem}" for problem in _problems(at, seen[name])]
    return tuple(found)


def _problems(record: Record, seen: Seen) -> list[str]:
    values = {
        "outputs": record.activation,
        "gradients": record.gradient if seen.gradient else 1.0,
        "updates": record.update,
    }
    infinite = [what for what, value in values.items() if not np.isfinite(value)]
    zero = [what for what, value in values.items() if value == 0]
    dead = float(record.dead / max(record.uses, 1))
    return [
        *(f"{what} are not finite" for what in infinite),
        *(f"{what} are zero; their scale is left at 1" for what in zero),
        *([f"{dead:.0%} of the features are dead: no gradient in the whole batch"] * (0 < dead < 1)),
    ]


def _scales(record: Record, gradients: Gradients) -> dict[str, np.ndarray]:
    """The scales that a record stands for; `uses` of it had the same."""
    uses = record.uses
    size = np.sqrt(record.update / uses)
    update = np.where(size > 0, record.update_scale / uses / np.where(size > 0, size, 1), 1.0)
    activation = record.activation_scale / uses
    if gradients == "true":
        return {"scale_actv_y": activation, "learning_rate": update}
    gradient = record.gradient_scale / uses
    return {
        "scale_actv_y": activation,
        "scale_grad_x": gradient / update,
        "scale_grad_y": update,
    }
