"""Wider is better at every step: the end-to-end sign of a right parametrization."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from jaxmup.transfer._findings import Crossing
from jaxmup.transfer._statistics import LEVEL
from jaxmup.transfer._trial import Trial


def training_curves(trials: Sequence[Trial]) -> dict[int, dict[int, np.ndarray]]:
    """The recorded curves by width and seed; infinite where a run had diverged.

    Args:
      trials: of one point, at every width.

    Example:
      >>> training_curves([Trial("mup", 64, 0.1, 0, 1.0, curve=(2.0, 1.0))])
      {64: {0: array([2., 1.])}}
    """
    curves: dict[int, dict[int, np.ndarray]] = {width: {} for width in {t.width for t in trials}}
    for t in trials:
        if t.curve:
            losses = [np.inf if loss is None else loss for loss in t.curve]
            curves[t.width][t.seed] = np.array(losses)
    return dict(sorted(curves.items()))


def crossings(
    curves: Mapping[int, Mapping[int, np.ndarray]],
) -> tuple[Crossing, ...] | None:
    """Where a wider network is worse than the next narrower one by more than the noise.

    A seed gives both networks the same data, so their losses are compared seed by seed. An excess
    counts if Student's t says that not even one such excess would be seen in 95 of 100 comparisons
    of all widths and steps where there is none (Bonferroni).

    Args:
      curves: by width, then seed; all of one length.

    Returns:
      For each pair of widths the largest excess that counts; `None` without curves or with fewer
      than two seeds that both widths have.

    Example:
      >>> narrow = {0: np.array([2.0, 1.0]), 1: np.array([2.1, 1.1])}
      >>> crossings({64: narrow, 128: {seed: x - 0.1 for seed, x in narrow.items()}})
      ()
      >>> crossings({64: narrow, 128: {seed: x + 0.1 for seed, x in narrow.items()}})[0].at
      0.5
    """
    pairs = list(itertools.pairwise(curves))
    found = []
    for narrow, wide in pairs:
        seeds = sorted(curves[narrow].keys() & curves[wide].keys())
        if len(seeds) < 2:
            return None
        below = np.stack([curves[narrow][seed] for seed in seeds])
        above = np.stack([curves[wide][seed] for seed in seeds])
        found += _worst(narrow, wide, below, above, len(pairs))
    return tuple(found)


def _worst(
    narrow: int, wide: int, below: np.ndarray, above: np.ndarray, pairs: int
) -> list[Crossing]:
    """The largest excess of a pair that counts, if any; losses of shape `(seeds, steps)`."""
    seeds, steps = below.shape
    diverged = np.isinf(above).any(axis=0) & np.isfinite(below).all(axis=0)
    if diverged.any():
        return [Crossing(narrow, wide, (int(diverged.argmax()) + 1) / steps, None)]
    both = np.isfinite(below).all(axis=0) & np.isfinite(above).all(axis=0)
    excess = np.where(both, above, 0.0) - np.where(both, below, 0.0)
    mean, error = excess.mean(axis=0), excess.std(axis=0, ddof=1) / np.sqrt(seeds)
    noise = special.stdtrit(seeds - 1, 1 - (1 - LEVEL) / (steps * pairs)) * error
    counts = np.where(mean > np.maximum(noise, _ROUNDING * abs(below.mean(axis=0))), mean, 0.0)
    if not counts.any():
        return []
    step = int(counts.argmax())
    return [Crossing(narrow, wide, (step + 1) / steps, float(mean[step]))]


_ROUNDING = 1e-5  # relative; of a float32 mean over a batch: no excess
