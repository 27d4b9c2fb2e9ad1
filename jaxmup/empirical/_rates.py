"""The learning rates that belong to a calibrated model."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

from jaxmup._tree import Tree
from jaxmup.empirical._measurable import ModulePath
from jaxmup.empirical._scaled import scaled_modules
from jaxmup.empirical._variables import Variables, scales_by_path


def learning_rates(model: nnx.Module | Variables) -> Tree:
    """The factor on the learning rate of each parameter of a calibrated model.

    With `calibrate(..., gradients="true")` it is the module's `learning_rate`, under which a step
    changes its outputs by RMS 1; everywhere else it is 1. Multiply the updates by it:
    `jax.tree.map(jnp.multiply, updates, rates)`.

    Args:
      model: NNX model, or variables of a Linen module.

    Returns:
      A tree like `nnx.state(model, nnx.Param)`, or `variables["params"]`, of arrays that
      broadcast to the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmup.empirical import Scaled
      >>> one, rate = jnp.array(1.0), jnp.array(0.25)
      >>> layer = Scaled(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), one, learning_rate=rate)
      >>> float(learning_rates(layer)["module"]["kernel"][0, 0])
      0.25
    """
    if not isinstance(model, nnx.Module | Mapping):
        raise TypeError(
            "`model` must be an NNX module, or the variables of a Linen module. Got "
            f"{type(model).__name__}."
        )
    if isinstance(model, nnx.Module):
        state = nnx.state(model, nnx.Param)
        found = {
            (*path, "module"): wrapper.learning_rate[...]
            for path, wrapper in scaled_modules(model).items()
            if wrapper.learning_rate is not None
        }
        return nnx.from_flat_state(
            (path, variable.replace(_rate(found, path, variable[...])))
            for path, variable in nnx.to_flat_state(state)
        )
    rates = {
        path: scales["learning_rate"]
        for path, scales in scales_by_path(model).items()
        if "learning_rate" in scales
    }
    return jax.tree_util.tree_map_with_path(
        lambda key, leaf: _rate(rates, tuple(getattr(k, "key", None) for k in key), leaf),
        model["params"],
    )


def _rate(rates: Mapping[ModulePath, Array], path: tuple[Any, ...], values: Array) -> Array:
    for end in range(len(path)):
        if path[:end] in rates:
            rate = rates[path[:end]].astype(values.real.dtype)
            return rate.reshape(rate.shape + (1,) * (values.ndim - rate.ndim))
    return jax.numpy.ones((1,) * values.ndim, values.real.dtype)
