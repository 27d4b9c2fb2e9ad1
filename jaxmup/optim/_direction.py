"""Any optax direction under a parametrization, run as if the model had base width."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._families import Family, OptimizerName, family_of
from jaxmup._scaling import Scaling
from jaxmup._tree import OptState, Params, Scalings, Updates
from jaxmup.functional import scale
from jaxmup.optim._chains import chain
from jaxmup.optim._checks import CheckedScalings, Mask
from jaxmup.optim._leaves import standing_still
from jaxmup.optim._weight_decay import WeightDecay, WeightDecayMode


class BaseUnitsState(NamedTuple):
    """State of a direction that sees everything in units of the base model, in every gauge."""

    inner_state: OptState


def from_direction(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    *,
    optimizer: OptimizerName | Family,
    weight_decay: optax.ScalarOrSchedule | None = None,
    weight_decay_mode: WeightDecayMode = "decoupled",
    mask: Mask | None = None,
    peak_learning_rate: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer under a parametrization from any direction, such as `optax.scale_by_lion()`.

    The direction sees gradients and parameters of the sizes that they have in the base model, so
    that its one `eps` (clipping threshold, floor, initial accumulator) is right for every parameter
    at every width, in every gauge. With s the scaling of a parameter, k and j the family's degrees
    and D the direction, the update is

    .. math::
      -\eta_t\, s_{lr}\, s_{eps}^k\, s_{init\_gain}^j\,
      D(g \cdot s_{grad} / s_{eps},\; w / s_{init\_gain}) .

    Its state is the direction's own, in units of the base model. The direction may not mix
    parameters, as clipping by a global norm does. A parameter whose gradient is `None` is left as
    it is, and the direction sees zeros for it.

    Args:
      direction: Transform from gradients to updates, before the learning rate: an optax
        `scale_by_*` or a chain of them, without learning rate and weight decay.
      learning_rate: Learning rate of the base model; a number or a schedule.
      scalings: Tree of `Scaling` for the family of the optimizer.
      optimizer: Optimizer that the direction belongs to, by name or as a `Family`: the one that the
        scalings were resolved for.
      weight_decay: Coefficient λ at base width, as in `adamw`; `None` for no decay.
      weight_decay_mode: Quantity that the coefficient is multiplied by; see `adamw`.
      mask: Leaves that decay; see `adamw`.
      peak_learning_rate: Largest value of a schedule, for `"independent"`; see `adamw`.

    Raises:
      TypeError: as `adamw`; also if `direction` is no transform.
      ValueError: as `adamw`; also if `optimizer` is unknown, weight decay is coupled in a family
        other than `sgd` and `adam`, or `direction` steps against the gradient, as one with a
        learning rate does.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 256, base=64))
      >>> rule = jaxmup.parametrization("mup", "lion")
      >>> scalings = {"w": jaxmup.resolve(jaxmup.ParamSpec(axes), rule)}
      >>> tx = from_direction(optax.scale_by_lion(), 0.5, scalings, optimizer="lion")
      >>> tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))[0]["w"]
      Array([-0.125], dtype=float32)
    """
    _check.transform("direction", direction, remedy="Use `optax.scale_by_adam()`, say.")
    checked = CheckedScalings(scalings, family_of(optimizer))
    _require_ahead(direction, scalings)
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    return chain_at_base(direction, learning_rate, checked, family_of(optimizer), decay)


def chain_at_base(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    scalings: CheckedScalings,
    family: Family,
    decay: WeightDecay,
) -> optax.GradientTransformationExtraArgs:
    """See `from_direction`; the direction is not tried."""
    at_base = _at_base_width(optax.with_extra_args_support(direction), scalings, family)
    if family.eps is not None:  # otherwise gradients come in the units of the gauge
        at_base = _with_named_state(at_base)
    return standing_still(chain(scalings, at_base, decay, learning_rate), scalings.by_name)


def _require_ahead(direction: optax.GradientTransformation, scalings: Scalings) -> None:
    """Raises a `ValueError` if a step of `direction` goes against the gradient everywhere.

    It is tried on a model of the paths of `scalings` and one or two elements a parameter; what
    refuses so small a model, or needs more than gradients, is not judged.
    """
    try:
        with jax.ensure_compile_time_eval():
            ones = jax.tree.map(_miniature, scalings)
            updates, _ = direction.update(ones, direction.init(ones), ones)
            signs = [float(jnp.sum(leaf)) for leaf in jax.tree.leaves(updates)]
    except Exception:  # whatever a transform of the user's raises
        return
    if signs and all(sign < 0 for sign in signs):
        raise ValueError(
            "`direction` must be what comes before the learning rate, so that its updates have the "
            f"sign of the gradients. Got {direction!r}, whose updates have the other sign. Use a "
            "transform such as `optax.scale_by_adam()` instead of an optimizer such as "
            "`optax.adam(learning_rate)`."
        )


def _miniature(scaling: Scaling) -> jax.Array:
    rank = len(scaling.shape or ())
    return jnp.ones((1,) * (rank - 1) + (2,) if rank else ())


def _at_base_width(
    direction: optax.GradientTransformationExtraArgs, scalings: CheckedScalings, family: Family
) -> optax.GradientTransformationExtraArgs:
    """`direction` on gradients and parameters brought to their sizes at base width, and back."""

    def shrink(params: Params) -> Params:
        return scalings.map(lambda s, w: scale(w, 1 / s.init_gain), params)

    def back(s: Scaling) -> float:
        if s.family != family:  # Adam, for what the family does not train: degree 0 in both
            return 1.0
        return s.eps**family.gradient_degree * s.init_gain**family.weight_degree

    def init(params: Params) -> OptState:
        return direction.init(shrink(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        gradients = scalings.map(lambda s, g: scale(g, 1 / s.eps), updates)
        params = None if params is None else shrink(params)
        updates, state = direction.update(gradients, state, params, **extra_args)
        return scalings.map(lambda s, u: scale(u, back(s)), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _with_named_state(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """`tx`, whose state says by its type that it is the same in every gauge."""

    def init(params: Params) -> BaseUnitsState:
        return BaseUnitsState(tx.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, BaseUnitsState]:
        updates, inner = tx.update(updates, state.inner_state, params, **extra_args)
        return updates, BaseUnitsState(inner)

    return optax.GradientTransformationExtraArgs(init, update)
