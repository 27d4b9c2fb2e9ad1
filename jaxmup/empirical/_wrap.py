"""Modules wrapped before anything is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxmup.empirical._subject import called, make_subject


def wrap(
    model: Any,
    inputs: Any,
    *,
    variables: Mapping[str, Any] | None = None,
    modules: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Any:
    """The model with scales of 1, which change nothing; a new one.

    Args:
      model: an NNX model, or a Linen module.
      inputs: what it is called with; only their shapes and dtypes count.
      variables: of a Linen module.
      modules: as of `calibrate`.
      arguments: keyword arguments of the model's call.

    Returns:
      An NNX model, or the variables of the Linen module.

    Example:
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.relu)
      >>> float(wrap(model, jnp.ones((1, 2))).layers[0].scale_actv_y[...])
      1.0
    """
    subject, _ = make_subject(model, variables, modules, inputs, arguments, _no_loss)
    ones = {name: jnp.ones(one.lead, one.dtype) for name, one in called(subject).items()}
    fields = ("scale_actv_y", "scale_grad_x", "scale_grad_y")
    return subject.scaled({name: dict.fromkeys(fields, one) for name, one in ones.items()})


def _no_loss(outputs: Any) -> Any:
    return outputs
