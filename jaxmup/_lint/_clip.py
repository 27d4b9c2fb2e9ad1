"""Check: a norm over all parameters weighs them alike at every width."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmup._finding import Finding
from jaxmup._lint._chain import Asked, Check, Updates, moving
from jaxmup._lint._probe import Trial, elements

_QUIET = 1e-6  # size of the other gradients, far below any threshold
_EXPONENTS = tuple(np.arange(-6.0, 6.01, 0.25))  # of ten, for the size of the one that is loud
_CHANGE = 0.01  # of an update; rounding changes less, even in bfloat16


def _trials(asked: Asked) -> dict[Any, Trial]:
    """One gradient becomes loud, by as much for each in the gauge in which norms transfer.

    The others turn round, so that a momentum shows how much they weigh beside it.
    """
    quiet = _QUIET * asked.gradients
    loudness = 1 / (asked.of("norm") * np.sqrt([elements(len(s.axes)) for s in asked.specs]))
    trials: dict[Any, Trial] = {"undisturbed": Trial(quiet, asked.weights, (-quiet, asked.weights))}
    for loud in _one_of_each(asked):
        others = np.arange(len(quiet)) != loud
        for exponent in _EXPONENTS:
            then = np.where(others, -quiet, 10**exponent * loudness[loud])
            trials[loud, exponent] = Trial(quiet, asked.weights, (then, asked.weights))
    return trials


def _one_of_each(asked: Asked) -> list[int]:
    """The first parameter of each `Scaling.norm`: the others of it weigh as much."""
    first: dict[float, int] = {}
    for i, scaling in enumerate(asked.scalings):
        first.setdefault(scaling.norm, i)
    return list(first.values())


def _findings(asked: Asked, updates: Updates) -> Iterator[Finding]:
    undisturbed = updates["undisturbed"][1]
    move = moving(undisturbed)
    reference = np.where(move, undisturbed, 1.0)
    loud = [i for i in _one_of_each(asked) if move[i]]
    if len(loud) < 2:
        return
    # By how much the updates of the others change at most if one is loud (first axis), of this size
    # (second axis).
    changes = np.stack(
        [
            [np.max(np.abs(_others(i, updates[i, e][1] / reference - 1)[move])) for e in _EXPONENTS]
            for i in loud
        ]
    )
    clips = changes > _CHANGE
    acts = np.flatnonzero(clips.any(axis=1))
    if len(acts) < 2 or np.all(np.ptp(changes[acts], axis=0) <= _CHANGE):
        return
    first = {loud[i]: int(np.argmax(clips[i])) for i in acts}
    heavy, light = min(first, key=first.__getitem__), max(first, key=first.__getitem__)
    yield Finding(
        "global-clip",
        "Gradients are clipped by a norm over all parameters whose weights change with the width: "
        f"{asked.paths[heavy]} gains on {asked.paths[light]}, relative to the base model.",
        (),
        "A threshold that clips now and then in the small model clips always or never in the "
        "large one.",
        "Use `jaxmup.optim.clip_by_global_norm(max_norm, scalings)`, first in the chain.",
    )


def _others(position: int, changes: np.ndarray) -> np.ndarray:
    """Changes without that of one parameter."""
    return np.where(np.arange(len(changes)) == position, 0.0, changes)


GLOBAL_CLIP = Check(_trials, _findings)
