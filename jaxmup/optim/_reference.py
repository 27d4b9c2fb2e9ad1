"""Any optax transform, run as if the parameters were the effective weights."""

from typing import Any, NamedTuple

import optax
from jax import Array

from jaxmup import _check
from jaxmup._scaling import Scaling
from jaxmup._tree import OptState, Params, Scalings, Updates
from jaxmup.functional import scale
from jaxmup.optim._checks import CheckedScalings
from jaxmup.optim._leaves import alongside, standing_still


class ReferenceGaugeState(NamedTuple):
    """State of `in_reference_gauge`: that of the inner transform, the same in every gauge."""

    inner_state: OptState


def in_reference_gauge(
    tx: optax.GradientTransformation, scalings: Scalings
) -> optax.GradientTransformationExtraArgs:
    r"""Runs `tx` on effective weights, whatever the gauge that the parameters are stored in.

    With m the `Scaling.multiplier` of a parameter w, and g its gradient,

    .. math::
      u = \frac{1}{m}\, tx\!\left(\frac{g}{m},\ state,\ m w\right).

    `tx` sees the gradients and the values of `m w`, as in a model without multipliers. So it is
    exact for every transform, also for those that mix parameters or that have no gauge movement of
    their own: clipping by global norm, LAMB, Adafactor, Prodigy. Its state is the same in every
    gauge: a move of the gauge leaves it alone.

    Only the multipliers are taken from `scalings`. The learning rates that go with them are those
    of `jaxmup.gauge.reference_scalings(scalings)`, to be given to the chain inside.

    Args:
      tx: Any optax transform.
      scalings: Tree of `Scaling` with the names of the parameters.

    Returns:
      A transform that passes extra arguments on to `tx`. It needs the parameters at `update` only
      if `tx` does, or where a parameter has no gradient; that one is left as it is.

    Raises:
      TypeError: if `tx` is no transform, or a leaf of `scalings` no `Scaling`; at `init` and
        `update`, if a leaf with a scaling is no array of floating-point numbers.
      ValueError: at `init` and `update`, if a leaf has no scaling or a scaling no leaf, naming
        them; at `init`, if their shapes differ; at `update`, if a parameter has no gradient and
        the parameters are missing.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}  # m = 1/4
      >>> tx = in_reference_gauge(optax.sgd(1.0), scalings)
      >>> tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.zeros(1)}))[0]["w"]
      Array([-16.], dtype=float32)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Lemma J.1.
    """
    _check.transform("tx", tx)
    checked = CheckedScalings(scalings)
    tx = optax.with_extra_args_support(tx)

    def init(params: Params) -> ReferenceGaugeState:
        checked.require_parameters(params)
        weights = checked.map(times_multiplier, checked.trained(params))
        return ReferenceGaugeState(tx.init(weights))

    def update(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[Updates, ReferenceGaugeState]:
        params = alongside(updates, params)
        weights = None if params is None else checked.map(times_multiplier, params)
        gradients = checked.map(over_multiplier, updates)
        steps, inner = tx.update(gradients, state.inner_state, weights, **extra_args)
        return checked.map(over_multiplier, steps), ReferenceGaugeState(inner)

    return standing_still(optax.GradientTransformationExtraArgs(init, update), checked.by_name)


def times_multiplier(scaling: Scaling, x: Array) -> Array:
    """A stored weight as an effective one."""
    return scale(x, scaling.multiplier)


def over_multiplier(scaling: Scaling, x: Array) -> Array:
    """An effective weight or step as a stored one, or a stored gradient as the effective one."""
    return scale(x, 1.0 / scaling.multiplier)
