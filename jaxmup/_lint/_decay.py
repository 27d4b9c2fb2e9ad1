"""Check: weight decay takes the same share off all weights, or the share that scalings ask for."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmup._finding import Finding
from jaxmup._lint._chain import TOLERANCE, USUAL, Asked, Check, Updates, most_common, moving, same
from jaxmup._lint._probe import Trial

_RATIOS = (1e-1, 1e-3, 1e-5)  # of the gradient to the weights, for decay that is added to it


def _trials(asked: Asked) -> dict[Any, Trial]:
    gradients, zeros = asked.gradients, asked.zeros
    alone = {("alone", w): Trial(zeros, zeros + w) for w in (1.0, 2.0)}
    with_gradient = {
        ("with gradient", w): Trial(USUAL * gradients, zeros + w) for w in (0.0, 1.0, 2.0)
    }
    # Weights come in at the second update, when the first moment is no longer the gradient alone.
    weights = 1 / asked.of("weight_decay")
    coupled = {
        ("coupled", r): Trial(r * gradients, zeros, (r * gradients, weights)) for r in _RATIOS
    }
    return {**alone, **with_gradient, **coupled}


def _findings(asked: Asked, updates: Updates) -> Iterator[Finding]:
    if asked.family.weight_degree:
        return  # the step itself follows the weight
    shrink, doubled = (_shrinkage(updates, weight) for weight in (1.0, 2.0))
    decays = moving(shrink) & moving(doubled)
    if not decays.any():
        return
    if np.median(doubled[decays] / shrink[decays]) < 1.5:
        yield from _coupled(asked, updates)  # normalized, as the gradient that it is added to
        return
    shrink, paths = shrink[decays], np.array(asked.paths, object)[decays]
    if np.any(shrink < 0):
        what, why, mend = _GROWTH
        yield Finding("weight-decay", what, tuple(paths[shrink < 0]), why, mend)
        return
    lr = asked.of("lr")[decays]
    asked_for = lr * asked.of("weight_decay")[decays]
    if same(shrink) or same(shrink / asked_for):
        return
    why, mend = _SHARE
    if same(shrink / lr):
        yield Finding("weight-decay", _INSIDE, tuple(paths[lr != 1]), why, mend)
        return
    relative = shrink / asked_for
    for path, ratio in zip(paths, relative / most_common(relative), strict=True):
        if abs(ratio - 1) > TOLERANCE:
            yield Finding("weight-decay", _OTHER.format(ratio), (path,), why, mend)


def _shrinkage(updates: Updates, weight: float) -> np.ndarray:
    """The share that one step takes off weights of this size."""
    shrink = -updates["alone", weight][0]
    if np.isfinite(shrink).all():
        return shrink
    # Without eps an optimizer divides zero by zero: take what the weights add to a step.
    return updates["with gradient", 0.0][0] - updates["with gradient", weight][0]


def _coupled(asked: Asked, updates: Updates) -> Iterator[Finding]:
    for ratio in _RATIOS:
        step = updates["coupled", ratio][1] / asked.of("lr")
        if not same(step[moving(step)]):
            what, why, mend = _COUPLED
            yield Finding("weight-decay", what, (), why, mend)
            return


_GROWTH = (
    "Weights grow where there is no gradient.",
    "The learning rate turns the sign of what comes before it; this decay comes after it.",
    "Use `weight_decay` of `jaxmup.optim.adamw`, with weight_decay_mode='absolute' for a decay "
    "that follows no learning rate.",
)
_INSIDE = "Weight decay is multiplied by the factor on the learning rate."
_OTHER = "A step takes {:.3g} times the share off its weights that it takes off the others'."
_SHARE = (
    "Weight decay transfers if it takes the same share at every width; within the learning-rate "
    "factor that of hidden layers fades away as they grow.",
    "Use `weight_decay` of `jaxmup.optim.adamw`, or put `optax.add_decayed_weights` after "
    "`scale_updates` and before the learning rate.",
)
_COUPLED = (
    "Weight decay is added to the gradient before the optimizer, with one coefficient for all.",
    "Gradients shrink with the width, each layer's at its own rate, so that decay takes over in "
    "some layers of the large model.",
    "Use decoupled decay, `weight_decay` of `jaxmup.optim.adamw`, or its "
    "weight_decay_mode='coupled', which scales the coefficient.",
)

DECAY = Check(_trials, _findings)
