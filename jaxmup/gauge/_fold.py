"""Multipliers folded into the weights, for a model that applies none."""

from jaxmup._scaling import Scaling
from jaxmup._tree import Params, PathName, Scalings, require_leaves
from jaxmup.gauge._parameters import entries_of, map_parameters, require_parameters
from jaxmup.optim._reference import over_multiplier, times_multiplier


def fold(params: Params, scalings: Scalings) -> Params:
    """The effective weights `multiplier · w`, for a plain model that applies no multipliers.

    For export, for inference, and for fine-tuning in the layers of Flax: with
    `reference_scalings(scalings)` the same chain of `jaxmup.optim` goes on training them.

    Args:
      params: Tree of arrays, such as `nnx.state(model, nnx.Param)` or `variables["params"]`.
      scalings: Tree of `Scaling` with the same paths.

    Returns:
      A tree like `params`, rounded once in its dtypes. Leaves without a scaling that are no
      floating-point arrays stay as they are.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`, or its parameter no array of
        floating-point numbers.
      ValueError: if a parameter has no scaling, a scaling no parameter, or their shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 4, base=1),))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}
      >>> fold({"w": jnp.ones(4)}, scalings)
      {'w': Array([0.25, 0.25, 0.25, 0.25], dtype=float32)}
    """
    by_name = _by_name(scalings, params)
    return map_parameters(lambda w, scaling: times_multiplier(scaling, w), params, by_name)


def unfold(params: Params, scalings: Scalings) -> Params:
    """The stored weights `w / multiplier` of a model that applies multipliers; undoes `fold`.

    Args:
      params: Tree of effective weights.
      scalings: Tree of `Scaling` with the same paths.

    Raises:
      TypeError, ValueError: as `fold`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 4, base=1),))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}
      >>> unfold({"w": jnp.ones(4)}, scalings)
      {'w': Array([4., 4., 4., 4.], dtype=float32)}
    """
    by_name = _by_name(scalings, params)
    return map_parameters(lambda w, scaling: over_multiplier(scaling, w), params, by_name)


def _by_name(scalings: Scalings, params: Params) -> dict[PathName, Scaling]:
    remedy = "Use `jaxmup.resolve(specs, parametrization)`."
    by_name = require_leaves("scalings", scalings, Scaling, remedy)
    require_parameters(by_name, params)
    return entries_of("scalings", by_name, params)
