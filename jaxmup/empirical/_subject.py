"""What is measured: a model of either API with its data, once all is as it must be."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxmup.empirical._linen import linen_subject
from jaxmup.empirical._nnx import nnx_subject
from jaxmup.empirical._record import Seen
from jaxmup.empirical._require import require_called, require_inputs


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
    seen = called(subject)
    require_inputs(as_arguments(inputs), next(iter(seen)))
    return seen


def called(subject: Any) -> dict[str, Seen]:
    """The same without a look at the values of the inputs."""
    seen = subject.observe()
    require_called(subject.names.values(), seen)
    return seen


def count_examples(inputs: Any, given: int | None) -> int:
    """Over how many examples the loss is a mean: the length of the first axis, if not given.

    Raises:
      ValueError: if it is not positive, or there is no such axis.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(inputs) if getattr(leaf, "ndim", 0)]
    count = given if given is not None else shapes[0][0] if shapes else 0
    if count < 1:
        raise ValueError(
            "`num_examples` must be the number of examples that the loss is a mean over, at least "
            f"1; by default it is the length of the inputs' first axis. Got {count}."
        )
    return count
