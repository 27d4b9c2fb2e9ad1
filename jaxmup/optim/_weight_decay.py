"""Weight decay, by the name of what its coefficient is multiplied by."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import optax

from jaxmup._scaling import Scaling
from jaxmup._spec import require_positive
from jaxmup.optim._checks import Scalings, is_plain_number, require_not_negative

WeightDecayMode = Literal["decoupled", "independent", "coupled", "absolute"]

# What a scaling adds to the coefficient at the mode's place in a chain. The learning rate turns the
# sign of everything before it, so only the mode after it has its own.
_FACTORS: dict[WeightDecayMode, Callable[[Scaling], float]] = {
    "coupled": lambda scaling: scaling.weight_decay * scaling.eps,
    "decoupled": lambda scaling: scaling.weight_decay,
    "independent": lambda _: 1.0,
    "absolute": lambda _: -1.0,
}


class WeightDecay(NamedTuple):
    """The weight-decay arguments of a chain."""

    coefficient: Any
    mode: WeightDecayMode
    mask: Any
    peak_learning_rate: Any


def decay_transform(
    scalings: Scalings, decay: WeightDecay, learning_rate: Any
) -> optax.GradientTransformation | None:
    """Adds to each update its parameter times the coefficient that the mode asks for, if any.

    Raises:
      ValueError: if the mode is unknown, the coefficient is negative or not finite, or the mode
        needs a peak learning rate that is not known.
    """
    coefficient, mode = decay.coefficient, decay.mode
    if mode not in get_args(WeightDecayMode):
        raise ValueError(
            f"`weight_decay_mode` must be one of {get_args(WeightDecayMode)}. Got {mode!r}."
        )
    if coefficient is None:
        return None
    require_not_negative("weight_decay", coefficient)
    if mode == "coupled":
        _require_l2(scalings)
    if mode == "independent":
        coefficient = coefficient / _peak(decay.peak_learning_rate, learning_rate)
    factor = _FACTORS[mode]

    def init(params: Any) -> optax.EmptyState:
        scalings.require_match(params)
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "Weight decay needs the parameters. Got none. Call `update(grads, state, params)`."
            )
        updates = scalings.map(
            lambda s, u, w: u + (coefficient * factor(s) * w).astype(u.dtype), updates, params
        )
        return updates, state

    transform = optax.GradientTransformation(init, update)
    return transform if decay.mask is None else optax.masked(transform, decay.mask)


def _require_l2(scalings: Scalings) -> None:
    others = {s.family.name for s in scalings.by_name.values()} - {"sgd", "adam"}
    if others:
        raise ValueError(
            "Weight decay of mode 'coupled' adds to the gradient, which the families 'sgd' and "
            f"'adam' alone turn into decay. Got the family {others.pop()!r}. Use 'decoupled'."
        )


def _peak(peak_learning_rate: Any, learning_rate: Any) -> Any:
    if peak_learning_rate is not None:
        if is_plain_number(peak_learning_rate):
            remedy = "It is the schedule's largest value."
            require_positive("peak_learning_rate", peak_learning_rate, remedy)
        return peak_learning_rate
    if not is_plain_number(learning_rate):
        raise ValueError(
            "Weight decay of mode 'independent' follows the learning rate relative to its peak, so "
            "the peak must be known. Got a learning rate that is not a plain number: "
            f"{learning_rate!r}. Pass the schedule's largest value as `peak_learning_rate`."
        )
    return learning_rate
