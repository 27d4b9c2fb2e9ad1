"""The direction of Adagrad, with eps where torch and the paper have it."""

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._tree import OptState, Params, Updates
from jaxmup.optim._adam import Eps, abs_square
from jaxmup.optim._checks import require_gradients, require_not_negative, values_of_leaves
from jaxmup.optim._leaves import leaves_with_none, like, without_float0, zeros_like


def scale_by_adagrad(
    eps: Eps = 1e-10, *, initial_accumulator_value: ArrayLike = 0.0
) -> optax.GradientTransformation:
    r"""Adagrad's direction as torch computes it: :math:`g / (\sqrt{\sum g^2} + eps)`.

    `optax.scale_by_rss` has eps inside the root, in units of the squared gradient: with torch's
    eps of 1e-10 it divides by at least 1e-5, which matters where gradients are rare, such as in an
    embedding, and another eps doesn't mend it. A complex gradient counts with :math:`|g|^2`, as in
    `optax.scale_by_rss`; torch takes its real and its imaginary part for two numbers.

    Args:
      eps: Constant added to the root, in units of the gradient: a number, or a tree of numbers with
        the names of the parameters.
      initial_accumulator_value: Start of the sum of squares, in units of the squared gradient.

    Returns:
      A transform with the state of `optax.scale_by_rss`, `optax.ScaleByRssState`.

    Raises:
      TypeError: if `eps` or `initial_accumulator_value` is no number.
      ValueError: if `eps` or `initial_accumulator_value` is negative; at `init` and `update`, if a
        tree of eps has other names than the parameters.

    Example:
      >>> tx = scale_by_adagrad()
      >>> updates, _ = tx.update(jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> updates
      Array([ 1., -1.], dtype=float32)

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
      Optimization", JMLR 12 (2011), Figure 1.
    """
    require_not_negative("eps", eps)
    _check.number("initial_accumulator_value", initial_accumulator_value, at_least=0)

    def init(params: Params) -> optax.ScaleByRssState:
        zeros = zeros_like(params)
        values_of_leaves("eps", eps, zeros)
        return optax.ScaleByRssState(optax.tree.full_like(zeros, initial_accumulator_value))

    def update(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, optax.ScaleByRssState]:
        del params
        updates = without_float0(updates)
        require_gradients(updates)
        gradients, sums = map(leaves_with_none, (updates, state.sum_of_squares))
        sums = [
            s if g is None else s + abs_square(g).astype(s.dtype)
            for g, s in zip(gradients, sums, strict=True)
        ]
        columns = zip(gradients, sums, values_of_leaves("eps", eps, updates), strict=True)
        directions = [None if g is None else _direction(g, s, e) for g, s, e in columns]
        return like(updates, directions), optax.ScaleByRssState(like(state.sum_of_squares, sums))

    return optax.GradientTransformation(init, update)


def _direction(gradient: Array, total: Array, eps: ArrayLike) -> Array:
    root = jnp.sqrt(total.real) + jnp.asarray(eps, total.real.dtype)
    return jnp.where(gradient == 0, 0.0, gradient / jnp.where(gradient == 0, 1.0, root))
