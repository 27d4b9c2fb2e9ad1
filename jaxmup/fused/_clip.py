"""Clipping by a global norm that is measured in a backward pass of its own."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._scaling import Scaling
from jaxmup._tree import Params, PathName, Scalings, leaves_by_path, require_leaves


class GlobalNormClip(NamedTuple):
    """The clip that `global_norm_clip` makes.

    Args:
      max_norm: Largest norm that is left as it is.
      weights: Factor on the norm of each parameter, by name; `None` for 1.
    """

    max_norm: ArrayLike
    weights: dict[PathName, float] | None

    def factor(self, params: Params, squared_norms: list[Array]) -> Array:
        """The factor on all gradients.

        Args:
          params: Tree of the parameters, for their names.
          squared_norms: Squared norm of the gradient of each, in the order of the leaves.

        Raises:
          ValueError: if a parameter has no weight, naming it.
        """
        names = list(leaves_by_path(params))
        weights = dict.fromkeys(names, 1.0) if self.weights is None else self.weights
        missing = [name for name in names if name not in weights]
        if missing:
            raise ValueError(
                f"`scalings` must have the paths of the parameters. It lacks{listed(missing)}\n"
                "Make the specs from the model that is trained, and resolve those."
            )
        rows = zip(names, squared_norms, strict=True)
        norm = jnp.sqrt(sum(square * weights[name] ** 2 for name, square in rows))
        # A norm of NaN compares as false and leaves the gradients as they are, as in optax.
        return jnp.where(norm > self.max_norm, self.max_norm / norm, 1.0)


def global_norm_clip(max_norm: ArrayLike, scalings: Scalings | None = None) -> GlobalNormClip:
    r"""Clips by the norm of all gradients, for the `clip` of `value_and_update`.

    With g the gradients, and n their `Scaling.norm` or 1, all are multiplied by

    .. math::
      \min\left(1, \frac{max\_norm}{N}\right), \qquad N^2 = \sum_i n_i^2\, \|g_i\|^2 ,

    before the optimizer sees them. So would `optax.clip_by_global_norm`, or with scalings
    `jaxmup.optim.clip_by_global_norm`, as the first of a chain. N is known only when the backward
    pass is over, and by then the gradients are gone; so there are two passes, the first of which
    measures N. It costs the time of a backward pass, and no memory.

    Args:
      max_norm: Largest norm that is left as it is, in units of the gradients; a number or a scalar
        array.
      scalings: Tree of `Scaling` with the paths of the parameters; `None` for the plain norm.

    Raises:
      TypeError: if `max_norm` is no real number, or a leaf of `scalings` is no `Scaling`.
      ValueError: if `max_norm` is not a finite positive number; at the step, if a parameter has no
        scaling, naming it.

    Example:
      >>> from jaxmup import fused
      >>> clip = fused.global_norm_clip(2.5)
      >>> float(clip.factor({"b": 0, "w": 0}, [jnp.array(9.0), jnp.array(16.0)]))
      0.5

    References:
      Pascanu et al., "On the difficulty of training recurrent neural networks", arXiv:1211.5063,
      Algorithm 1.
    """
    remedy = "It is the largest norm that is left as it is."
    _check.number("max_norm", max_norm, above=0, remedy=remedy)
    if scalings is None:
        return GlobalNormClip(max_norm, None)
    remedy = "Use `jaxmup.resolve(specs, parametrization)`."
    by_name = require_leaves("scalings", scalings, Scaling, remedy)
    return GlobalNormClip(max_norm, {name: scaling.norm for name, scaling in by_name.items()})


def squared_norm(x: Array) -> Array:
    """The sum of squares of an array, in float32 at least."""
    return jnp.sum(jnp.square(jnp.abs(x.astype(jnp.promote_types(x.dtype, jnp.float32)))))
