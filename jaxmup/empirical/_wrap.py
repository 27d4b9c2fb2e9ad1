"""Modules wrapped before anything is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxmup._tree import Tree
from jaxmup.empirical._models import AnyModel, HeldArrays, called, held, measurable


def wrap(
    model: AnyModel,
    inputs: Tree,
    *,
    variables: HeldArrays = None,
    modules: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Any:
    """The model with scales of 1, which change nothing; a new one.

    Args:
      model: NNX model, Linen module, or `Instance` of either.
      inputs: Arguments of the call, as for `calibrate`; only their shapes and dtypes count.
      variables: Variables of a Linen module; of an `Instance` the model, or `None` to draw it.
      modules: Names of the modules to wrap, as for `calibrate`.
      arguments: Further keyword arguments of the call.

    Returns:
      An NNX model, or the variables of the Linen module.

    Example:
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.relu)
      >>> float(wrap(model, jnp.ones((1, 2))).layers[0].scale_actv_y[...])
      1.0
    """
    measured, _ = measurable(
        held(model, variables, inputs, arguments), modules, lambda outputs: outputs
    )
    ones = {name: jnp.ones(one.lead, one.dtype) for name, one in called(measured).items()}
    fields = ("scale_actv_y", "scale_grad_x", "scale_grad_y")
    return measured.scaled({name: dict.fromkeys(fields, one) for name, one in ones.items()})
