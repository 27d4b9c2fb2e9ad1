"""Wider is better at every step: the end-to-end sign of a right parametrization."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import special

from jaxmup import _check
from jaxmup.transfer._findings import Analysis, Crossing
from jaxmup.transfer._trial import Trial

# Relative to the loss: the error of a float32 mean over a batch, and a difference worth a word.
_ROUNDING, _VISIBLE = 1e-5, 0.01


def training_curves(trials: Sequence[Trial]) -> dict[int, dict[int, np.ndarray]]:
    """The recorded curves by width and seed; infinite where a run had diverged.

    Args:
      trials: Runs of one point, at every width.

    Example:
      >>> training_curves([Trial("mup", 64, 0.1, 0, 1.0, curve=(2.0, 1.0))])
      {64: {0: array([2., 1.])}}
    """
    for trial in trials:
        _check.made("trials", trial, "Trial", "jaxmup.transfer.Trial")
    curves: dict[int, dict[int, np.ndarray]] = {width: {} for width in {t.width for t in trials}}
    for t in trials:
        if t.curve:
            losses = [np.inf if loss is None else loss for loss in t.curve]
            curves[t.width][t.seed] = np.array(losses)
    return dict(sorted(curves.items()))


def transferred_curves(
    analysis: Analysis, trials: Iterable[Trial]
) -> dict[int, dict[int, np.ndarray]]:
    """The `training_curves` of the analysis's parametrization at the transferred point.

    Args:
      analysis: Analysis of the trials of one parametrization.
      trials: These trials, and any others.
    """
    _check.made("analysis", analysis, "Analysis", "jaxmup.transfer.analyze")
    small = analysis.curves[0]
    if small.best is None:
        return {}
    point = dict(small.others) | {analysis.over: small.values[small.best]}
    return training_curves(
        [
            t
            for t in trials
            if t.parametrization == analysis.parametrization
            and {"learning_rate": t.learning_rate} | dict(t.others) == point
        ]
    )


def crossings(
    curves: Mapping[int, Mapping[int, np.ndarray]],
) -> tuple[Crossing, ...] | None:
    """Widths at which a network is worse than the next narrower one by more than the noise.

    A seed gives both networks the same data, so their losses are compared seed by seed. An excess
    counts if, for a tenth of the run, Student's one-sided 99 % bound is above zero, or the mean is
    above a percent of the loss: then it may be noise, which `Crossing.certain` says.

    Args:
      curves: Training losses by width, then seed; all of one length.

    Returns:
      For each pair of widths where one counts, the largest excess; `None` without curves, or with
      fewer than two seeds that both widths have.

    Example:
      >>> narrow = {0: np.array([2.0, 1.0]), 1: np.array([2.1, 1.1])}
      >>> crossings({64: narrow, 128: {seed: x - 0.1 for seed, x in narrow.items()}})
      ()
      >>> crossings({64: narrow, 128: {seed: x + 0.1 for seed, x in narrow.items()}})[0].at
      0.5
    """
    pairs = list(itertools.pairwise(curves))
    if not pairs:
        return None
    found = []
    for narrow, wide in pairs:
        seeds = sorted(curves[narrow].keys() & curves[wide].keys())
        if len(seeds) < 2:
            return None
        below = np.stack([curves[narrow][seed] for seed in seeds])
        above = np.stack([curves[wide][seed] for seed in seeds])
        found += _worst(narrow, wide, below, above)
    return tuple(found)


def _worst(narrow: int, wide: int, below: np.ndarray, above: np.ndarray) -> list[Crossing]:
    """The largest excess of a pair that counts, if any; losses of shape `(seeds, steps)`."""
    seeds, steps = below.shape
    # Where the wider network alone diverged no excess is finite, and it is the worst there can be.
    diverged = np.isinf(above).any(axis=0) & np.isfinite(below).all(axis=0)
    if diverged.any():
        return [Crossing(narrow, wide, (int(diverged.argmax()) + 1) / steps, None, None)]
    # At steps where any run has diverged nothing is compared: an excess of zero is never beyond the
    # noise.
    both = np.isfinite(below).all(axis=0) & np.isfinite(above).all(axis=0)
    below = np.where(both, below, 0.0)
    excess = np.where(both, above, 0.0) - below
    # Seed by seed, so that what a seed does to both networks cancels before the error is taken.
    mean, error = excess.mean(axis=0), excess.std(axis=0, ddof=1) / np.sqrt(seeds)
    level = abs(below).mean(axis=0)
    noise = np.maximum(special.stdtrit(seeds - 1, 0.99) * error, _ROUNDING * level)
    beyond, visible = (_lasting(mean > by, steps) for by in (noise, _VISIBLE * level))
    # What the seeds do not explain goes before what is merely large: with two seeds the bound on
    # the noise is so wide that a visible excess is worth showing, but as uncertain.
    counts = beyond if beyond.any() else visible
    if not counts.any():
        return []
    step = int(np.where(counts, mean, 0.0).argmax())
    return [Crossing(narrow, wide, (step + 1) / steps, float(mean[step]), float(noise[step]))]


def _lasting(flags: np.ndarray, steps: int) -> np.ndarray:
    """The flags that are set for a tenth of the steps in a row.

    Example:
      >>> _lasting(np.array([True, False, True, True]), 20)
      array([False, False,  True,  True])
    """
    tenth = max(1, steps // 10)
    # Set wherever all of a window is set, then spread from each such window over all its steps.
    rows = np.lib.stride_tricks.sliding_window_view(flags, tenth).all(axis=1)
    return np.convolve(rows, np.ones(tenth)) > 0
