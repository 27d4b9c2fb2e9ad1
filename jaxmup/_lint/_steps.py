"""Check: steps are as large as the scalings ask for, whatever the size of gradients."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmup._finding import Finding
from jaxmup._lint._chain import TOLERANCE, USUAL, Asked, Check, Updates, most_common, moving, same
from jaxmup._lint._probe import Trial

# Sizes of gradients in the unit of the base model's. An eps is negligible beside some of the large
# ones, and a clip does nothing to others; beside the small ones an eps is not.
_LARGE = (1e6, 1e3, 1.0, USUAL)
_SMALL = (USUAL, 1e-6, 1e-9)


def _trials(asked: Asked) -> dict[Any, Trial]:
    sizes = dict.fromkeys((*_LARGE, *_SMALL))
    return {size: Trial(size * asked.gradients, asked.weights) for size in sizes}


def _findings(asked: Asked, updates: Updates) -> Iterator[Finding]:
    relative = {size: _relative(asked, size, both[0]) for size, both in updates.items()}
    agree = {size: same(steps[moving(steps)]) for size, steps in relative.items()}
    if not any(agree[size] for size in _LARGE):
        yield from _learning_rates(asked, relative[USUAL])
        return
    right = next(size for size in reversed(_LARGE) if agree[size])
    small = [size for size in _SMALL if size < right and not agree[size]]
    large = [size for size in _LARGE if size > right and not agree[size]]
    if small:
        what, why, mend = _EPS
        yield Finding("eps", what.format(_spread(relative[small[-1]])), (), why, mend)
    if large:
        what, why, mend = _ENTRY_CLIP
        yield Finding("entry-clip", what.format(_spread(relative[large[0]])), (), why, mend)


def _relative(asked: Asked, size: float, updates: np.ndarray) -> np.ndarray:
    """Steps over `Scaling.lr`, and over the gradient where the family follows it."""
    expected = asked.of("lr")
    if asked.family.gradient_degree:
        expected = expected * size * asked.gradients * asked.of("grad")
    return -updates / expected


def _spread(relative: np.ndarray) -> float:
    sizes = np.abs(relative[moving(relative)])
    return float(np.max(sizes) / np.min(sizes))


_EPS = (
    "A constant beside the gradient, such as eps, is one for all parameters: where gradients are "
    "small, steps are wrong by factors of up to {:.2g} against each other.",
    "Gradients shrink with the width, each layer's at its own rate, so an eps that is negligible "
    "in the small model stops some layers of the large one.",
    "Use the chains of `jaxmup.optim`, which scale eps by `Scaling.eps`, or a stock optimizer "
    "between `scale_gradients` and `scale_updates` in the gauge 'tp4b', where one eps is right.",
)
_ENTRY_CLIP = (
    "A clip of single gradients is one for all parameters: where gradients are large, steps are "
    "wrong by factors of up to {:.2g} against each other.",
    "Gradients shrink with the width, each layer's at its own rate, so the clip acts on other "
    "layers of the large model than of the small one.",
    "Clip between `scale_gradients` and the optimizer in the gauge 'tp4b', or by global norm with "
    "`jaxmup.optim.clip_by_global_norm(max_norm, scalings)`.",
)
_WHY = "Rates that do not follow the width do not transfer: some layers learn too fast."
_PATTERNS = {
    0: (
        "All parameters have one learning rate: the factors of the scalings are missing, or "
        "something after them undoes them.",
        "Use the chains of `jaxmup.optim`, or put `jaxmup.optim.scale_updates(scalings)` after the "
        "optimizer, with nothing behind it that normalizes updates or sets rates.",
    ),
    2: (
        "The factors of the scalings act twice on the learning rates.",
        "Leave out one: the chains of `jaxmup.optim` include `scale_updates`.",
    ),
}


def _learning_rates(asked: Asked, relative: np.ndarray) -> Iterator[Finding]:
    """Finds learning rates that are not those of the scalings."""
    move = moving(relative)
    lr, relative, paths = asked.of("lr")[move], relative[move], np.array(asked.paths, object)[move]
    for power, (what, mend) in _PATTERNS.items():
        if same(relative * lr ** (1 - power)):
            yield Finding("learning-rate", what, tuple(paths[lr != 1]), _WHY, mend)
            return
    usual = most_common(relative)
    for path, ratio in zip(paths, relative / usual, strict=True):
        if abs(ratio - 1) > TOLERANCE:
            yield Finding(
                "learning-rate",
                f"Its learning rate is {ratio:.3g} times what the scalings ask for, relative to "
                "the other parameters.",
                (path,),
                _WHY,
                "Look for a transform that sets or scales the updates of these parameters. To give "
                "them another rate on purpose, use `lr_scale` of their layer.",
            )


STEPS = Check(_trials, _findings)
