"""Any optax direction under a parametrization, run as if the model had base width."""

from typing import Any, NamedTuple

import optax

from jaxmup._families import Family, OptimizerName, family_of
from jaxmup._scaling import Scaling
from jaxmup.functional import scale
from jaxmup.optim._chains import chain
from jaxmup.optim._checks import Scalings
from jaxmup.optim._weight_decay import WeightDecay, WeightDecayMode


class BaseUnitsState(NamedTuple):
    """State of a direction that sees everything in units of the base model, in every gauge."""

    inner_state: Any


def from_direction(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    scalings: Any,
    *,
    optimizer: OptimizerName | Family,
    weight_decay: float | None = None,
    weight_decay_mode: WeightDecayMode = "decoupled",
    mask: Any = None,
    peak_learning_rate: float | None = None,
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
    parameters, as clipping by a global norm does.

    Args:
      direction: what turns gradients into updates, before the learning rate: an optax `scale_by_*`
        or a chain of them, without weight decay.
      learning_rate: the base model's; a number or a schedule.
      scalings: a tree of `Scaling` for the family.
      optimizer: the optimizer that the direction belongs to, by name or as a `Family`; what the
        scalings were resolved for.
      weight_decay: see `adamw`; `None` for none.
      weight_decay_mode: see `adamw`.
      mask: see `adamw`.
      peak_learning_rate: see `adamw`.

    Raises:
      TypeError, ValueError: as `adamw`; also if `optimizer` is unknown, or weight decay is coupled
        in a family other than `sgd` and `adam`.

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
    family = family_of(optimizer)
    checked = Scalings(scalings, family)
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    at_base = _at_base_width(optax.with_extra_args_support(direction), checked, family)
    if family.eps is not None:  # otherwise gradients come in the units of the gauge
        at_base = _with_named_state(at_base)
    return optax.with_extra_args_support(chain(checked, at_base, decay, learning_rate))


def _at_base_width(
    direction: optax.GradientTransformationExtraArgs, scalings: Scalings, family: Family
) -> optax.GradientTransformationExtraArgs:
    """`direction` on gradients and parameters brought to their sizes at base width, and back."""

    def shrink(params: Any) -> Any:
        return scalings.map(lambda s, w: scale(w, 1 / s.init_gain), params)

    def back(s: Scaling) -> float:
        if s.family != family:  # Adam, for what the family does not train: degree 0 in both
            return 1.0
        return s.eps**family.gradient_degree * s.init_gain**family.weight_degree

    def init(params: Any) -> Any:
        return direction.init(shrink(params))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        gradients = scalings.map(lambda s, g: scale(g, 1 / s.eps), updates)
        params = None if params is None else shrink(params)
        updates, state = direction.update(gradients, state, params, **extra_args)
        return scalings.map(lambda s, u: scale(u, back(s)), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _with_named_state(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """`tx`, whose state says by its type that it is the same in every gauge."""

    def init(params: Any) -> BaseUnitsState:
        return BaseUnitsState(tx.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        updates, inner = tx.update(updates, state.inner_state, params, **extra_args)
        return updates, BaseUnitsState(inner)

    return optax.GradientTransformationExtraArgs(init, update)
