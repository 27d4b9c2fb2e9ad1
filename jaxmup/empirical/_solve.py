"""The scales that make every RMS 1: in one pass, or a few more where modules are used again."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup.empirical._measurable import Measurable, ModuleName, Pass, Scales
from jaxmup.empirical._require import require_measurable, require_single_use
from jaxmup.empirical._tally import Seen, Tally, any_traced, fixed, free, tally

MAX_PASSES = 60
# Of the logarithm of a scale in one step, e-fold. Where an activation function saturates, an RMS
# hardly follows its scale, and a step by the slope there would leave all that was learned before.
_LARGEST_MOVE = 1.0
# Times eps. The mean of many squares is not known better in floating point: below that, Broyden's
# method would learn its slopes from rounding.
_TOLERANCE = 30
_LARGEST_MISS = 1e-2  # of a mean square of 1, for scales that are no solution


class Solution(NamedTuple):
    """The measurements of a model.

    Args:
      tallies: Tally of each module from the last pass, in the order of the calls.
      passes: Number of forward and backward passes.
    """

    tallies: dict[ModuleName, Tally]
    passes: int


def solve(
    model: Measurable,
    pass_: Pass,
    seen: Mapping[ModuleName, Seen],
    readouts: Collection[ModuleName] = (),
) -> Solution:
    """Measures a model with no scales fixed, and those that one pass cannot find by iteration.

    Each use of a module is scaled by what it measures. Where a module is used once, that is its
    scale. A module with several uses has one scale, for which the mean over its uses of the mean
    square is 1. It starts from the mean of what its uses measured.

    What is traced cannot be looked at: then nothing is refused, and the scales of a module that has
    several uses are NaN.

    Raises:
      ValueError: naming the module, if something measured isn't finite, the loss doesn't depend on
        it, or no scale is found.
    """
    scales = {name: free(one) for name, one in seen.items()}
    _, tallies, _ = pass_(model.arrays, scales, {})
    if any_traced(tallies):
        return Solution({name: _used_once(tallies[name]) for name in seen}, 1)
    solution = Solution(_host(tallies, seen), 1)
    require_measurable(solution.tallies)
    shared = sorted(_shared(solution) | model.tied())
    require_single_use(readouts, shared)
    return _iterated(model, pass_, seen, scales, solution, shared) if shared else solution


def measured_under(
    scales: Scales, model: Measurable, pass_: Pass, seen: Mapping[ModuleName, Seen]
) -> Solution:
    """Measures a model under scales that are fixed; by three passes if a module has several uses.

    Args:
      scales: Packed `Given` of each module.
      model: Model to measure.
      pass_: Pass of the model.
      seen: Facts about each module.
    """
    _, tallies, _ = pass_(model.arrays, scales, {})
    solution = Solution(_host(tallies, seen), 1)
    shared = sorted(_shared(solution) | model.tied())
    if not shared:
        return solution
    # A step moves a parameter by its gradient over all uses, which is known once a pass is over:
    # the second pass returns it for the modules that it is given zeros for, and the third one
    # measures what such a step does at each use.
    _, _, directions = pass_(model.arrays, scales, model.zeros(shared))
    _, tallies, _ = pass_(model.arrays, scales, directions)
    return Solution(_host(tallies, seen), 3)


def _used_once(packed: Array) -> Tally:
    found = tally(packed)
    return found._replace(
        **{
            field: jnp.where(found.uses == 1, getattr(found, field), jnp.nan)
            for field in ("activation_scale", "gradient_scale", "update_scale")
        }
    )


def _shared(solution: Solution) -> frozenset[ModuleName]:
    return frozenset(n for n, found in solution.tallies.items() if np.any(found.uses > 1))


def _host(
    tallies: Mapping[ModuleName, Array], seen: Mapping[ModuleName, Seen]
) -> dict[ModuleName, Tally]:
    on_host = jax.device_get(tallies)  # all of them at once
    return {name: tally(on_host[name]) for name in seen}


def _iterated(
    model: Measurable,
    pass_: Pass,
    seen: Mapping[ModuleName, Seen],
    free_scales: Scales,
    first: Solution,
    shared: list[ModuleName],
) -> Solution:
    """The measurements under scales for which the modules of `shared` have mean squares of 1.

    Broyden's method for the logarithms of all their scales together, since each of them acts on all
    modules before and after; those of modules that are used once follow in every pass.
    """
    tolerance = _TOLERANCE * float(max(jnp.finfo(seen[name].dtype).eps for name in shared))
    directions, passes = model.zeros(shared), first.passes

    def run(x: np.ndarray) -> tuple[Solution, np.ndarray]:
        nonlocal directions, passes
        known = _scales_at(x, seen, shared)
        _, tallies, directions = pass_(model.arrays, {**free_scales, **known}, directions)
        passes += 1
        solution = Solution(_host(tallies, seen), passes)
        return solution, _vector(solution, shared, _log_rms)

    x = _vector(first, shared, _log_mean_scales)
    # Were a module used once, a scale twice as large would make its RMS twice as large, and act on
    # no other's: in logarithms the identity, which several uses differ from by how they feed each
    # other.
    inverse = np.eye(x.size)
    solution, r = run(x)
    while passes < MAX_PASSES and tolerance < np.max(np.abs(r)) < np.inf:
        move = np.clip(-inverse @ r, -_LARGEST_MOVE, _LARGEST_MOVE)
        x, before = x + move, r
        _, r = run(x)
        inverse = _broyden(inverse, move, r - before)
    # Each pass measured updates along the gradient of the pass before. At the same scales once
    # more, that is their own gradient.
    solution, _ = run(x)
    require_measurable(solution.tallies)
    _require_found(solution, shared)
    return solution


def _broyden(inverse: np.ndarray, move: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The inverse Jacobian that maps `change` to `move`, nearest to the last one."""
    towards = inverse @ change
    # The rank-one update of the Jacobian, inverted by Sherman and Morrison. Its denominator is zero
    # where nothing changed along the move, and then nothing was learned.
    scale = move @ towards
    if abs(scale) <= 1e-12:
        return inverse
    return inverse + np.outer(move - towards, move @ inverse) / scale


def _vector(
    solution: Solution, shared: list[ModuleName], function: Callable[[Tally], tuple[Any, Any]]
) -> np.ndarray:
    """The numbers that `function` takes from each tally, in one vector."""
    parts = [part for name in shared for part in function(solution.tallies[name])]
    # In float64, whatever the model's dtype: the slopes are differences of nearly equal numbers.
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


def _log_mean_scales(found: Tally) -> tuple[Any, Any]:
    mean = found.per_use()
    return np.log(mean.activation_scale), np.log(mean.gradient_scale)


def _log_rms(found: Tally) -> tuple[Any, Any]:
    """Half the logarithm of the mean squares over the uses; 0 of none."""
    mean = found.per_use()
    squares = mean.activation, mean.gradient
    # A mean square of zero, as that of the gradient where no input takes one, follows no scale: it
    # counts as solved.
    activation, gradient = (np.log(np.where(x > 0, x, 1.0)) / 2 for x in squares)
    return activation, gradient


def _scales_at(
    x: np.ndarray, seen: Mapping[ModuleName, Seen], shared: list[ModuleName]
) -> dict[ModuleName, np.ndarray]:
    """The scales with these logarithms, in the order of `_vector`."""
    known, at = {}, 0
    for name in shared:
        shape = (2, *seen[name].lead)
        activation, gradient = np.exp(x[at : at + np.prod(shape, dtype=int)]).reshape(shape)
        # Update scales are not fixed: they act on nothing within a pass.
        known[name] = fixed(seen[name], activation, gradient, 1.0)
        at += np.prod(shape, dtype=int)
    return known


def _require_found(solution: Solution, shared: list[ModuleName]) -> None:
    for name in shared:
        found = solution.tallies[name]
        for what in ("activation", "gradient"):
            mean = getattr(found, what) / found.uses
            wrong = (mean > 0) & (np.abs(mean - 1) > _LARGEST_MISS)
            if np.any(wrong):
                raise ValueError(
                    f"A module that is used several times must have a scale for which the RMS of "
                    f"its {what}s over all uses is 1. After {solution.passes} passes, {name} has "
                    f"{np.sqrt(mean)}. Calibrate other modules by `modules`."
                )
