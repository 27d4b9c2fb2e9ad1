"""Means over seeds, and the bootstrap that says how far they can be trusted."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import special

from jaxmup.transfer._findings import Interval

LEVEL = 0.95
RESAMPLES = 4096


def resamples(seeds: int) -> np.ndarray:
    """How often each resample draws each seed; the first row is the sample itself.

    All of the `seeds^seeds` resamples where they are few, else `RESAMPLES` random ones, the same in
    every call.

    Example:
      >>> resamples(2)
      array([[1, 1],
             [2, 0],
             [1, 1],
             [1, 1],
             [0, 2]])
    """
    if seeds**seeds <= RESAMPLES:
        drawn = np.array(list(itertools.product(range(seeds), repeat=seeds)))
    else:
        drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    counts = (drawn[:, :, None] == np.arange(seeds)).sum(axis=1)
    return np.concatenate([np.ones((1, seeds), counts.dtype), counts])


def interval(
    values: np.ndarray, seeds: int, uncertainty: float = 0.0, weights: Sequence[float] = (1.0,)
) -> Interval | None:
    """A 95 % confidence interval for a weighted sum, from its terms in each resample.

    The percentiles of a bootstrap are too narrow with few seeds: a resample of n values has
    (n - 1) / n of their variance, and Gaussian tails. So the bootstrap gives the variances,
    corrected for the former, and Student's t the tails. Several terms count as independent, and
    the degrees of freedom are Welch's. That is on the safe side: what a seed has in common at all
    widths cancels from differences between them.

    Args:
      values: of each term, in the sample, then in each of `resamples(seeds)`; shape
        `(terms, resamples)`.
      seeds: how many; with one there is no interval.
      uncertainty: added to either side: what no number of seeds resolves.
      weights: of the terms.

    Example:
      >>> interval(np.array([[0.5, 0.0, 0.5, 0.5, 1.0]]), seeds=2)  # of 0 and 1: 0.5 ± 12.7 / 2
      Interval(low=-5.853..., high=6.853...)
    """
    if seeds < 2 or not np.isfinite(values).all():
        return None
    middle = float(np.asarray(weights) @ values[:, 0])
    parts = np.square(weights) * values[:, 1:].var(axis=1) * seeds / (seeds - 1)
    variance = parts.sum()
    freedom = (seeds - 1) * variance**2 / (parts @ parts) if variance > 0 else seeds - 1
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance)) + uncertainty
    return Interval(middle - half, middle + half)


def means(losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean loss of each point in each resample; infinite where a seed that was drawn diverged.

    A point that lacks seeds, as random search and successive halving leave them, is compared with
    the reference, the point with the most seeds, on the seeds that both have: their mean
    difference is added to the reference's mean. Seeds differ more than neighboring points do, so
    means over different seeds are no comparison.

    Args:
      losses: infinite where a run diverged, not a number where there was none; shape
        `(points, seeds)`.
      counts: how often each seed counts; shape `(resamples, seeds)`.

    Returns:
      Shape `(resamples, points)`.

    Example:
      >>> means(np.array([[1.0, 3.0], [np.nan, 2.5], [0.0, np.inf]]), np.array([[1, 1]]))
      array([[2. , 1.5, inf]])
    """
    ran, finite = ~np.isnan(losses), np.isfinite(losses)
    usable = ran.any(axis=1) & (ran == finite).all(axis=1)
    if not usable.any():
        return np.full((len(counts), len(losses)), np.inf)
    filled = np.where(finite, losses, 0.0)
    reference = np.lexsort((filled.sum(axis=1), -ran.sum(axis=1), ~usable))[0]
    shared = ran & ran[reference]
    level = counts @ filled[reference], counts @ ran[reference].astype(float)
    difference = counts @ np.where(shared, filled - filled[reference], 0.0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (level[0] / level[1])[:, None] + difference / (counts @ shared.astype(float).T)
    diverged = (counts @ (ran & ~finite).astype(float).T) > 0
    return np.where(diverged | np.isnan(mean), np.inf, mean)


def standard_errors(losses: np.ndarray) -> np.ndarray:
    """Of each row's mean; not a number where fewer than two seeds ran, or one diverged.

    Example:
      >>> standard_errors(np.array([[1.0, 3.0], [1.0, np.nan], [1.0, np.inf]]))
      array([ 1., nan, nan])
    """
    rows = [row[~np.isnan(row)] for row in losses]
    return np.array(
        [
            row.std(ddof=1) / np.sqrt(len(row))
            if len(row) > 1 and np.isfinite(row).all()
            else np.nan
            for row in rows
        ]
    )


def slope_weights(x: np.ndarray) -> np.ndarray:
    """Weights w such that `w @ y` is the slope of the least-squares line through `(x, y)`.

    Example:
      >>> slope_weights(np.array([0.0, 1.0, 2.0]))
      array([-0.5,  0. ,  0.5])
    """
    centered = x - x.mean()
    return centered / (centered @ centered)
