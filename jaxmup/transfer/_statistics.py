"""Means over seeds, and the bootstrap that says how far they can be trusted."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import special

from jaxmup.transfer._findings import Interval

LEVEL = 0.95
RESAMPLES = 4096


def resamples(seeds: int) -> np.ndarray:
    """Counts of each seed in each resample; the first row is the sample itself.

    Where there are few, these are all `seeds^seeds` resamples, else `RESAMPLES` random ones, the
    same in every call.

    Args:
      seeds: Number of seeds.

    Returns:
      Integers of shape `(1 + resamples, seeds)`; each row sums to `seeds`.

    Example:
      >>> resamples(2)
      array([[1, 1],
             [2, 0],
             [1, 1],
             [1, 1],
             [0, 2]])
    """
    # Up to five seeds, all resamples are fewer than the random ones would be, and have no noise.
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

    The bootstrap gives the variance of each term, and Student's t the tails. The terms count as
    independent, with Welch's degrees of freedom.

    Args:
      values: Value of each term in the sample, then in each resample, in the order of
        `resamples(seeds)`; shape `(terms, 1 + resamples)`.
      seeds: Number of seeds.
      uncertainty: Length added on either side, which no number of seeds resolves.
      weights: Weight of each term.

    Returns:
      The interval around the sum of the sample; `None` with one seed, or if a value is not finite.

    Example:
      >>> interval(np.array([[0.5, 0.0, 0.5, 0.5, 1.0]]), seeds=2)  # of 0 and 1: 0.5 ± 12.7 / 2
      Interval(low=-5.853..., high=6.853...)
    """
    if seeds < 2 or not np.isfinite(values).all():
        return None
    middle = float(np.asarray(weights) @ values[:, 0])
    # The percentiles of the resamples would be too narrow with few seeds, twice over. The mean of a
    # resample of n values has only (n - 1) / n of the variance that a mean of n new values has;
    # that is put right here. And its tails are Gaussian although the variance is itself an estimate
    # from n values; that is what Student's t is for.
    parts = np.square(weights) * values[:, 1:].var(axis=1) * seeds / (seeds - 1)
    # A seed gives every width the same data, so what it does to all optima alike cancels from a
    # drift. Adding the variances as if the widths were independent counts it all the same: that
    # errs on the side of a wide interval.
    variance = parts.sum()
    # Welch's: between n - 1, where one term has all the variance, and n - 1 a term.
    freedom = (seeds - 1) * variance**2 / (parts @ parts) if variance > 0 else seeds - 1
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance)) + uncertainty
    return Interval(middle - half, middle + half)


def means(losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean loss of each point in each resample; infinite where a seed that was drawn diverged.

    A point that lacks seeds, as random search and successive halving leave them, is compared with
    the reference, the point with the most seeds, on the seeds that both have: their mean
    difference is added to the reference's mean.

    Args:
      losses: Losses of shape `(points, seeds)`; infinite where a run diverged, not a number where
        there was none.
      counts: Count of each seed in each resample; shape `(resamples, seeds)`.

    Returns:
      Means of shape `(resamples, points)`.

    Example:
      >>> means(np.array([[1.0, 3.0], [np.nan, 2.5], [0.0, np.inf]]), np.array([[1, 1]]))
      array([[2. , 1.5, inf]])
    """
    # Seeds differ more than neighboring points do. A point that ran on the two luckiest seeds would
    # win against one that ran on all, so means over different seeds are never compared: all
    # differences are paired, and only the reference's level is a mean over its own seeds.
    ran, finite = ~np.isnan(losses), np.isfinite(losses)
    usable = ran.any(axis=1) & (ran == finite).all(axis=1)
    if not usable.any():
        return np.full((len(counts), len(losses)), np.inf)
    filled = np.where(finite, losses, 0.0)
    # Last key first: one that never diverged, then the most seeds, then the smallest sum.
    reference = np.lexsort((filled.sum(axis=1), -ran.sum(axis=1), ~usable))[0]
    shared = ran & ran[reference]
    level = counts @ filled[reference], counts @ ran[reference].astype(float)
    difference = counts @ np.where(shared, filled - filled[reference], 0.0).T
    # A resample that draws no seed which the point has gives 0 / 0: nothing is known of it there,
    # and what is not known must not be the best.
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (level[0] / level[1])[:, None] + difference / (counts @ shared.astype(float).T)
    diverged = (counts @ (ran & ~finite).astype(float).T) > 0
    return np.where(diverged | np.isnan(mean), np.inf, mean)


def standard_errors(losses: np.ndarray) -> np.ndarray:
    """Standard error of each row's mean; NaN where fewer than two seeds ran, or one diverged.

    Args:
      losses: Losses of shape `(points, seeds)`, as `means` takes them.

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

    A slope is a weighted sum of optima, so `interval` serves it as it serves one optimum.

    Example:
      >>> slope_weights(np.array([0.0, 1.0, 2.0]))
      array([-0.5,  0. ,  0.5])
    """
    centered = x - x.mean()
    return centered / (centered @ centered)
