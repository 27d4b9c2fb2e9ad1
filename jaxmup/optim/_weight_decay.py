"""Weight decay, by the name of what its coefficient is multiplied by."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import optax
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._families import FAMILIES
from jaxmup._scaling import Scaling
from jaxmup._tree import OptState, Params, Updates
from jaxmup.optim._checks import CheckedScalings, Mask, checked_mask

WeightDecayMode = Literal["decoupled", "independent", "coupled", "absolute"]

# Factor on the coefficient at the place of the mode in a chain. The learning rate turns the sign of
# everything before it, so only the mode after it has a sign of its own.
_FACTORS: dict[WeightDecayMode, Callable[[Scaling], float]] = {
    "coupled": lambda scaling: scaling.weight_decay * scaling.eps,
    "decoupled": lambda scaling: scaling.weight_decay,
    "independent": lambda _: 1.0,
    "absolute": lambda _: -1.0,
}


class WeightDecay(NamedTuple):
    """The weight-decay arguments of a chain, as `jaxmup.optim.adamw` explains them."""

    coefficient: ArrayLike | None
    mode: WeightDecayMode
    mask: Mask | None
    peak_learning_rate: ArrayLike | None


def decay_transform(
    scalings: CheckedScalings, decay: WeightDecay, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation | None:
    """Adds to each update its parameter times the coefficient that the mode asks for, if any.

    Raises:
      TypeError: if the coefficient is no number, or the mask no tree of booleans.
      ValueError: if the mode is unknown, the coefficient is negative or not finite, or the mode
        needs a peak learning rate that is not known.
    """
    coefficient, mode = decay.coefficient, decay.mode
    _check.one_of("weight_decay_mode", mode, get_args(WeightDecayMode))
    mask = checked_mask(decay.mask)
    if decay.peak_learning_rate is not None:
        remedy = "It is the schedule's largest value."
        _check.number("peak_learning_rate", decay.peak_learning_rate, above=0, remedy=remedy)
    if coefficient is None:
        return None
    _check.number("weight_decay", coefficient, at_least=0)
    if mode == "coupled":
        _require_l2(scalings)
    if mode == "independent":
        coefficient = coefficient / _peak(decay.peak_learning_rate, learning_rate)
    factor = _FACTORS[mode]

    def init(params: Params) -> optax.EmptyState:
        scalings.require_parameters(params)
        return optax.EmptyState()

    def update(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, optax.EmptyState]:
        if params is None:
            raise ValueError(
                "Weight decay needs the parameters. Got none. Call `update(grads, state, params)`."
            )
        updates = scalings.map(
            lambda s, u, w: u + (coefficient * factor(s) * w).astype(u.dtype), updates, params
        )
        return updates, state

    transform = optax.GradientTransformation(init, update)
    return transform if mask is None else optax.masked(transform, mask)


def _require_l2(scalings: CheckedScalings) -> None:
    plain = (FAMILIES["sgd"], FAMILIES["adam"])
    others = [s.family.name for s in scalings.by_name.values() if s.family not in plain]
    if others:
        raise ValueError(
            "Weight decay of mode 'coupled' adds to the gradient, which the families 'sgd' and "
            f"'adam' alone turn into decay. Got the family {others[0]!r}. Use 'decoupled'."
        )


def _peak(peak_learning_rate: ArrayLike | None, learning_rate: optax.ScalarOrSchedule) -> ArrayLike:
    if peak_learning_rate is not None:
        return peak_learning_rate
    # An array may be one value of a schedule, as `optax.inject_hyperparams` passes them.
    if not isinstance(learning_rate, int | float):
        raise ValueError(
            "Weight decay of mode 'independent' follows the learning rate relative to its peak, so "
            "the peak must be known. Got a learning rate that is not a plain number: "
            f"{learning_rate!r}. Pass the schedule's largest value as `peak_learning_rate`."
        )
    remedy = "Weight decay of mode 'independent' is relative to it: pass `peak_learning_rate`."
    _check.number("learning_rate", learning_rate, above=0, remedy=remedy)
    return learning_rate
