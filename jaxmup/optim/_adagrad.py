"""The direction of Adagrad, with eps where torch and the paper have it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxmup.optim._checks import require_not_negative, values_of_leaves


def scale_by_adagrad(
    eps: Any = 1e-10, *, initial_accumulator_value: float = 0.0
) -> optax.GradientTransformation:
    r"""Adagrad's direction as torch computes it: :math:`g / (\sqrt{\sum g^2} + eps)`.

    `optax.scale_by_rss` has eps inside the root, in units of the squared gradient: with torch's
    eps of 1e-10 it divides by at least 1e-5, which matters where gradients are rare, such as in an
    embedding, and another eps doesn't mend it.

    Args:
      eps: added to the root, in units of the gradient: a number, or a tree of numbers with the
        paths of the parameters.
      initial_accumulator_value: what the sum of squares starts from.

    Returns:
      A transform with the state of `optax.scale_by_rss`, `optax.ScaleByRssState`.

    Raises:
      ValueError: if `eps` or `initial_accumulator_value` is negative; at `update`, if a tree of eps
        has other paths than the updates.

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
    require_not_negative("initial_accumulator_value", initial_accumulator_value)

    def init(params: Any) -> optax.ScaleByRssState:
        values_of_leaves("eps", eps, params)
        return optax.ScaleByRssState(optax.tree.full_like(params, initial_accumulator_value))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        total = jax.tree.map(lambda g, s: s + jnp.square(g), updates, state.sum_of_squares)
        leaves, structure = jax.tree.flatten(updates)
        columns = zip(
            leaves, jax.tree.leaves(total), values_of_leaves("eps", eps, updates), strict=True
        )
        directions = [_direction(g, s, e) for g, s, e in columns]
        return jax.tree.unflatten(structure, directions), optax.ScaleByRssState(total)

    return optax.GradientTransformation(init, update)


def _direction(gradient: Array, total: Array, eps: Any) -> Array:
    root = jnp.sqrt(total) + jnp.asarray(eps, total.dtype)
    return jnp.where(gradient == 0, 0.0, gradient / jnp.where(gradient == 0, 1.0, root))
