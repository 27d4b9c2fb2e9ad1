"""The RMS of effective weights and of their ratios, from the sums over stored ones; all in NumPy.

A parametrization stores a weight `w` and applies `W = multiplier · w`, so what is compared between
widths is known once the run is over: its program does not depend on it.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from jaxmup._scaling import Scaling
from jaxmup._tree import PathName
from jaxmup.coord_check._sums import Measured, Quantity, Sums

# What two ways of computing one update differ by in float32 at most, relative to it.
ROUNDING = 5e-7


def effective(
    stored: Iterable[Sums],
    eps: Mapping[PathName, np.ndarray],
    scalings: Mapping[PathName, Scaling],
) -> Iterable[Measured]:
    """Every quantity of a run.

    Args:
      stored: Sums over outputs, and over each parameter as it is stored: `weight` before `update`,
        and that before `decay`.
      eps: Sums of squares of the optimizer's answers to a gradient and to one that vanishes, of
        shape `(seeds, steps, 2)`, by parameter.
      scalings: Scaling of each parameter.
    """
    rms: dict[tuple[str, str], np.ndarray] = {}
    for one in (sums.measured() for sums in stored):
        rms[one.quantity, one.name] = one.rms
        match one.quantity:
            case "weight" | "weight_change":
                yield _times(one, scalings[one.name].multiplier)
            case "gradient":
                yield one
                scaled = _times(one, scalings[one.name].grad)
                yield dataclasses.replace(scaled, quantity="scaled_gradient")
            case "update":
                yield _times(one, scalings[one.name].multiplier)
                yield _ratio(one, "update_ratio", _over(one.rms, rms["weight", one.name]))
                yield _beside_eps(one, eps[one.name])
            case "decay":
                weight, update = (rms[quantity, one.name] for quantity in ("weight", "update"))
                decay = np.where(one.rms > ROUNDING * update, one.rms, 0)
                yield _ratio(one, "decay", _over(decay, weight))
                yield _ratio(one, "decay_ratio", _over(decay, update))
            case _:
                yield one


def _ratio(one: Measured, quantity: Quantity, rms: np.ndarray) -> Measured:
    return dataclasses.replace(one, quantity=quantity, rms=rms, mean_abs=None)


def _beside_eps(update: Measured, answers: np.ndarray) -> Measured:
    """The gradient beside eps, from the optimizer's answers: the same for each layer."""
    ratio = np.sqrt(_over(answers[..., 1], answers[..., 0]))
    ratio = np.broadcast_to(ratio[..., None], update.rms.shape) if update.layered else ratio
    return _ratio(update, "eps", ratio)


def _times(one: Measured, factor: float) -> Measured:
    mean_abs = None if one.mean_abs is None else factor * one.mean_abs
    return dataclasses.replace(one, rms=factor * one.rms, mean_abs=mean_abs)


def _over(size: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`size / other`; 0 where there is nothing to compare with."""
    return np.where(other > 0, size / np.where(other > 0, other, 1), 0)
