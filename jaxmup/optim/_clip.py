"""Clipping by a global norm that is the same in every gauge and at every width."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmup._spec import require_positive
from jaxmup.functional import scale
from jaxmup.optim._checks import Scalings, is_plain_number


class ClipByGlobalNormState(NamedTuple):
    """State of `clip_by_global_norm`, which has none; the type says what stands in the chain."""


def clip_by_global_norm(max_norm: Any, scalings: Any) -> optax.GradientTransformation:
    r"""Clips gradients by a global norm that does not depend on the gauge, nor on the width.

    With g the gradient of a stored parameter and n its `Scaling.norm`, all gradients are multiplied
    by

    .. math::
      \min\left(1, \frac{max\_norm}{N}\right), \qquad N^2 = \sum_i n_i^2\, \|g_i\|^2.

    N is the norm in the gauge of Table 9, the one in which the gradient of every layer has the same
    norm at every width. In the other gauges a plain norm grows with the width, so a threshold that
    was tuned on a small model clips a large one at every step.

    It goes first in a chain, before `scale_gradients`: it measures gradients of stored parameters.

    Args:
      max_norm: the base model's threshold: at base width N is the plain norm, unless `lr_scale`
        acts on the multiplier or the gauge is `unit`. A number or a scalar array.
      scalings: a tree of `Scaling` with the paths of the parameters.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`, or `max_norm` no number.
      ValueError: if `max_norm` is not a finite positive number; at `init` and `update`, if a leaf
        has no scaling or a scaling no leaf, naming the paths.

    Example:
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("output", 256, base=64),))
      >>> scalings = {"b": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}  # n = √(256 / 64)
      >>> tx = clip_by_global_norm(3.0, scalings)
      >>> tx.update({"b": jnp.array([3.0, 4.0])}, tx.init({"b": jnp.zeros(2)}))[0]["b"]
      Array([0.90000004, 1.2       ], dtype=float32)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.3 and Table 9.
      Pascanu et al., "On the difficulty of training recurrent neural networks", arXiv:1211.5063,
      Algorithm 1.
    """
    if is_plain_number(max_norm):
        require_positive("max_norm", max_norm, "It is the largest norm that is left as it is.")
    checked = Scalings(scalings)

    def init(params: Any) -> ClipByGlobalNormState:
        checked.require_match(params)
        return ClipByGlobalNormState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        squares = checked.map(lambda s, g: _square_norm(g) * s.norm**2, updates)
        norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        factor = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: scale(g, factor), updates), state

    return optax.GradientTransformation(init, update)


def _square_norm(x: jax.Array) -> jax.Array:
    """Summed in float32 at least."""
    return jnp.sum(jnp.square(jnp.abs(x.astype(jnp.promote_types(x.dtype, jnp.float32)))))
