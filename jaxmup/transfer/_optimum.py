"""The minimum of a loss over a hyper-parameter: the vertex of a parabola through its basin."""

from typing import NamedTuple

import numpy as np

# The parabola is fitted to what lies within this distance of the best value tried: an octave.
REACH = 1.0

# A parabola with its vertex nearest to the best of equally spaced points rises, from there to the
# second neighbor, at most 4 times as far as to the worse of the first ones. What rises much farther
# is the wall where training breaks down, which is no part of the basin.
WALL = 8.0


class Minima(NamedTuple):
    """The minimum of each row of losses.

    Args:
      best: Index of the smallest loss; shape `(rows,)`.
      at: Place of the minimum; NaN if every loss of the row is infinite.
      uncertainty: Distance that the grid leaves open: half the way to the farther neighbor where
        there is no parabola, 0 where there is one.
      parabola: Vertex, minimum, curvature and the ends of the fitted points; shape `(rows, 5)`, NaN
        where there is no parabola.
    """

    best: np.ndarray
    at: np.ndarray
    uncertainty: np.ndarray
    parabola: np.ndarray


def minima(x: np.ndarray, losses: np.ndarray, reach: float = REACH) -> Minima:
    """The minimum of each row of losses, never outside of the values tried.

    A parabola is fitted by least squares to the basin: the best value, its two neighbors and
    whatever else lies within `reach`, short of a wall or of a diverged run. Where that has no
    point on either side or no minimum, the best value tried is the answer.

    Args:
      x: Values on the scale of the fit, increasing; shape `(points,)`.
      losses: Losses of shape `(rows, points)`, infinite where a run diverged.
      reach: Half the width of the basin, in units of `x`.

    Example:
      >>> x = np.arange(5.0)
      >>> minima(x, (x - 1.75) ** 2 + np.zeros((1, 5))).at
      array([1.75])
    """
    best = losses.argmin(axis=1)
    low = np.take_along_axis(losses, best[:, None], axis=1)
    basin, fitted = _basin(x, losses, best, low, reach)
    # Distances are from the best value in units of its spacing, and losses from the smallest: the
    # fourth powers in the normal equations are then of order 1 on any scale, and the fit is good to
    # a few roundings.
    unit = _farthest(x, best)[:, None]
    u = np.where(basin, (x - x[best, None]) / unit, 0.0)
    y = np.where(basin, losses - np.where(np.isfinite(low), low, 0.0), 0.0)
    level, slope, bend = _least_squares(u, y, basin, fitted)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(fitted & (bend > 0), -slope / (2 * bend), np.nan)
    # A vertex beyond the fitted points is extrapolation: the answer is then the outermost of them,
    # and no parabola is reported, since it has no minimum where anything was measured.
    inside = np.clip(vertex, u.min(axis=1), u.max(axis=1))
    ends = np.stack([u.min(axis=1), u.max(axis=1)], axis=1) * unit + x[best, None]
    at = x[best] + unit[:, 0] * np.nan_to_num(inside)
    bottom = low[:, 0] + level - bend * np.nan_to_num(vertex) ** 2
    parabola = np.stack([at, bottom, bend / unit[:, 0] ** 2, *ends.T], axis=1)
    parabola[~(vertex == inside)] = np.nan  # and where there is none: NaN equals nothing
    uncertainty = np.where(np.isnan(vertex), unit[:, 0] / 2, 0.0)
    return Minima(best, np.where(np.isfinite(low[:, 0]), at, np.nan), uncertainty, parabola)


def _basin(
    x: np.ndarray, losses: np.ndarray, best: np.ndarray, low: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """A mask of the points in the basin, and one of the rows that have some on both sides.

    Masks and not lists of points: all resamples are fitted at once, each with a basin of its own.
    """
    steps = np.arange(len(x)) - best[:, None]
    excess = np.where(np.isfinite(losses), losses, 0.0) - np.where(np.isfinite(low), low, 0.0)
    neighbors = (abs(steps) == 1) & np.isfinite(losses)
    wall = WALL * np.max(np.where(neighbors, excess, 0.0), axis=1, keepdims=True)
    # The values come from logarithms, so that a distance of just an octave may be rounded up.
    near = abs(x - x[best, None]) <= reach * (1 + 1e-9)
    basin = (steps == 0) | neighbors | (near & (excess <= wall))
    return basin & np.isfinite(losses), neighbors.sum(axis=1) == 2


def _farthest(x: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Distance of the best value from the farther of its neighbors."""
    gaps = np.concatenate([[0.0], np.diff(x), [0.0]]) if len(x) > 1 else np.ones(2)
    return np.maximum(gaps[best], gaps[best + 1])


def _least_squares(
    u: np.ndarray, y: np.ndarray, basin: np.ndarray, fitted: np.ndarray
) -> np.ndarray:
    """Level, slope and bend of each row's parabola; zeros where there is none to fit."""
    powers = np.stack([basin * u**k for k in range(5)]).sum(axis=2)  # (5, rows)
    moments = np.stack([(y * u**k).sum(axis=1) for k in range(3)], axis=1)
    gram = np.stack([powers[i : i + 3] for i in range(3)]).transpose(2, 0, 1)
    # One singular matrix in the stack would fail them all; rows without a fit get any that is not.
    gram = np.where(fitted[:, None, None], gram, np.eye(3))
    found = np.linalg.solve(gram, moments[:, :, None])[:, :, 0]
    return np.where(fitted[:, None], found, 0.0).T
