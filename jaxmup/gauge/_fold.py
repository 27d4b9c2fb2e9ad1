"""Multipliers folded into the weights, for a model that applies none."""

from typing import Any

from jaxmup.optim._checks import Scalings
from jaxmup.optim._reference import over_multiplier, times_multiplier


def fold(params: Any, scalings: Any) -> Any:
    """The effective weights `multiplier · w`, for a plain model that applies no multipliers.

    For export, for inference, and for fine-tuning in the layers of Flax: with
    `reference_scalings(scalings)` the same chain of `jaxmup.optim` goes on training them.

    Args:
      params: a tree of arrays, such as `nnx.state(model, nnx.Param)` or `variables["params"]`.
      scalings: a tree of `Scaling` with the same paths.

    Returns:
      A tree like `params`, rounded once in its dtypes.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`.
      ValueError: if a leaf has no scaling or a scaling no leaf, naming the paths.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}
      >>> fold({"w": jnp.ones(2)}, scalings)
      {'w': Array([0.25, 0.25], dtype=float32)}
    """
    return Scalings(scalings).map(times_multiplier, params)


def unfold(params: Any, scalings: Any) -> Any:
    """The stored weights `w / multiplier` of a model that applies multipliers; undoes `fold`.

    Args:
      params: a tree of effective weights.
      scalings: a tree of `Scaling` with the same paths.

    Raises:
      TypeError, ValueError: as `fold`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}
      >>> unfold({"w": jnp.ones(2)}, scalings)
      {'w': Array([4., 4.], dtype=float32)}
    """
    return Scalings(scalings).map(over_multiplier, params)
