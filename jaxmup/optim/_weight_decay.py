"""Weight decay, by the name of what its coefficient is multiplied by."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import optax
from jax import Array
from jax.typing import ArrayLike

from jaxmup import _check
from jaxmup._families import FAMILIES
from jaxmup._scaling import Scaling
from jaxmup._tree import OptState, Params, Updates
from jaxmup.functional import scale
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

    coefficient: optax.ScalarOrSchedule | None
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
    mask = checked_mask("mask", decay.mask)
    if decay.peak_learning_rate is not None:
        remedy = "It is the schedule's largest value."
        _check.number("peak_learning_rate", decay.peak_learning_rate, above=0, remedy=remedy)
    if coefficient is None:
        return None
    if not callable(coefficient):
        remedy = "It is the base model's, as a number or a schedule."
        _check.number("weight_decay", coefficient, at_least=0, remedy=remedy)
    if mode == "coupled":
        _require_l2(scalings)
    peak = _peak(decay.peak_learning_rate, learning_rate) if mode == "independent" else 1.0
    transform = _decay(scalings, coefficient, _FACTORS[mode], peak)
    return transform if mask is None else optax.masked(transform, mask)


def _decay(
    scalings: CheckedScalings,
    coefficient: optax.ScalarOrSchedule,
    factor: Callable[[Scaling], float],
    peak: ArrayLike,
) -> optax.GradientTransformation:
    stock = optax.add_decayed_weights(coefficient)  # for its state, which counts for a schedule

    def init(params: Params) -> OptState:
        scalings.require_parameters(params)
        return stock.init(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, OptState]:
        if params is None:
            raise ValueError(
                "Weight decay needs the parameters. Got none. Call `update(grads, state, params)`."
            )
        now = coefficient(state.count) if callable(coefficient) else coefficient
        if callable(coefficient):
            state = state._replace(count=optax.safe_increment(state.count))

        def decayed(scaling: Scaling, u: Array, w: Array) -> Array:
            return u + scale(w, now / peak * factor(scaling)).astype(u.dtype)

        return scalings.map(decayed, updates, params), state

    return optax.GradientTransformation(init, update)


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
