"""Clipping by a global norm that is the same in every gauge and at every width."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._tree import OptState, Params, Scalings, Updates, wide
from jaxmup.functional import scale
from jaxmup.optim._checks import CheckedScalings
from jaxmup.optim._leaves import without_float0


class ClipByGlobalNormState(NamedTuple):
    """State of `clip_by_global_norm`, which has none; the type says what stands in the chain."""


def clip_by_global_norm(max_norm: ArrayLike, scalings: Scalings) -> optax.GradientTransformation:
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
      max_norm: Largest norm that is left as it is, of the base model: at base width N is the plain
        norm, unless `lr_scale` acts on the multiplier or the gauge is `unit`. A number, or an array
        of rank 0.
      scalings: Tree of `Scaling` with the names of the parameters.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`, or `max_norm` no number.
      ValueError: if `max_norm` is not finite and above 0; at `init` and `update`, if a leaf has no
        scaling or a scaling no leaf, naming them; at `init`, if their shapes differ.

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
    remedy = "It is the largest norm that is left as it is."
    _check.number("max_norm", max_norm, above=0, remedy=remedy)
    checked = CheckedScalings(scalings)

    def init(params: Params) -> ClipByGlobalNormState:
        checked.require_parameters(params)
        return ClipByGlobalNormState()

    def update(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, ClipByGlobalNormState]:
        del params
        updates = without_float0(updates)
        squares = checked.map(lambda s, g: _square_norm(g) * s.norm**2, updates)
        norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        factor = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: scale(g, factor), updates), state

    return optax.GradientTransformation(init, update)


def _square_norm(x: jax.Array) -> jax.Array:
    """Summed in float32 at least."""
    return jnp.sum(jnp.square(jnp.abs(x.astype(wide(x.dtype)))))
