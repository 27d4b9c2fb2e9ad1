"""Verdicts on everything that the models of all sizes have in common."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxmup._tree import PathName
from jaxmup.coord_check._depth import matched, of_layers, whole_layers
from jaxmup.coord_check._effective import ROUNDING
from jaxmup.coord_check._expected import Expected, Place, Theory
from jaxmup.coord_check._sums import Measured, Quantity
from jaxmup.coord_check._training import owner
from jaxmup.coord_check._verdict import Verdict, verdict

# Measured of outputs; all else is of parameters.
OF_OUTPUTS = ("activation", "activation_change", "logits", "logits_change")
# Judged as they start; what is learned is judged at the last step.
JUDGED_FIRST = ("activation", "logits", "weight")
# Judged at the second step. At the first there are none behind a readout that starts at zero, and
# later the wider of two models has learned more, which makes all of its gradients smaller.
JUDGED_SECOND = ("gradient", "scaled_gradient", "eps")
# Not judged where the weight starts at zero: it is then made of steps, so that a wrong one cancels.
OVER_WEIGHT = ("update_ratio", "decay_ratio")
# Of the largest gradient of a model. One below it is zero but for rounding, as that of the bias of
# keys is, which moves all logits of a query alike; Adam makes steps of any size of it.
ROUNDED = 1e-5
# Times what rounding does to a step: decay below it may be lost at one size and not at another.
LOST = 100


def judged(
    theory: Theory, runs: Sequence[Sequence[Measured]], tolerance: float, confidence: float
) -> Iterable[Verdict]:
    """A verdict on each quantity of each module and parameter that says something.

    Args:
      theory: Exponents to expect.
      runs: Quantities of the model of each size.
      tolerance: Largest effect of a finite size on an exponent; dimensionless.
      confidence: Confidence of the intervals.
    """
    runs, first, listed = matched(runs, theory.specs)
    by_key: list[dict[tuple[Quantity, PathName], Measured]] = [
        {(one.quantity, one.name): one for one in run} for run in runs
    ]
    whole = listed | whole_layers(one for one in runs[0] if one.quantity in OF_OUTPUTS)
    silent = _silent(by_key[0], set.intersection(*map(_rounded, runs)))
    decays = any(one.quantity == "decay" and one.rms.any() for run in runs for one in run)
    for quantity, name in by_key[0]:
        if (quantity, name) in silent or not all((quantity, name) in run for run in by_key):
            continue
        of_sizes = [run[quantity, name] for run in by_key]
        step = _step_of(quantity, of_sizes[0].rms.shape[1])
        writes = owner(name) in whole
        for layer, values in of_layers(of_sizes, step, writes):
            if not values.any() or _is_lost(by_key, quantity, name, values):
                continue
            place = Place(first_layer=layer == 0 or name in first, writes=writes)
            expected = _expected(theory, of_sizes, decays, place)
            slope, outcome, needs = verdict(theory.sizes, values, expected, tolerance, confidence)
            means = tuple(map(float, values.mean(1)))
            line = theory.signs.lines.get(name)
            where = (str(line), line.text) if line else ("", "")
            told = (slope, expected, outcome, means, needs)
            yield Verdict(quantity, name, layer, step, *told, *where)


def _step_of(quantity: Quantity, steps: int) -> int:
    """The step that a quantity is judged at."""
    if quantity in JUDGED_FIRST:
        return 0
    return 1 if quantity in JUDGED_SECOND else steps - 1


def _silent(
    smallest: Mapping[tuple[Quantity, PathName], Measured], rounded: set[PathName]
) -> set[tuple[Quantity, PathName]]:
    """The quantities of parameters that say nothing: of rounding, or over a weight of zero."""
    zero = {
        name
        for (quantity, name), one in smallest.items()
        if quantity == "weight" and not one.rms[:, 0].any()
    }
    return {
        (quantity, name)
        for quantity, name in smallest
        if (quantity in OVER_WEIGHT and name in zero)
        or (quantity not in OF_OUTPUTS and name in rounded)
    }


def _rounded(run: Sequence[Measured]) -> set[PathName]:
    """The parameters whose gradients are zero but for rounding, at every step of every seed."""
    largest = {one.name: one.rms.max() for one in run if one.quantity == "gradient"}
    return {name for name, size in largest.items() if size <= ROUNDED * max(largest.values())}


def _is_lost(
    by_size: Sequence[Mapping[tuple[Quantity, PathName], Measured]],
    quantity: Quantity,
    name: PathName,
    values: np.ndarray,
) -> bool:
    """True if something is zero at some size or seed because floating point rounded it off.

    Such is decay that is next to nothing beside the step it is added to, and the change of a weight
    that its step is too small to move.
    """
    if (values > 0).all():
        return False
    if quantity in ("decay", "decay_ratio"):
        beside = max(run["decay_ratio", name].rms.max() for run in by_size)
        return bool(beside < LOST * ROUNDING)
    if quantity != "weight_change":
        return False
    moves = [
        run["update", name].rms.any(axis=tuple(range(1, run["update", name].rms.ndim)))
        for run in by_size
    ]
    return bool((np.stack(moves) | (values > 0)).all())


def _expected(theory: Theory, of_sizes: Sequence[Measured], decays: bool, place: Place) -> Expected:
    quantity, name = of_sizes[0].quantity, of_sizes[0].name
    if quantity == "activation_change":
        return theory.of_change(of_sizes, place)
    if quantity in ("activation", "logits"):
        return theory.of_output(of_sizes)
    if quantity == "logits_change":
        return theory.of_logits_change(of_sizes)
    return theory.of_parameter(quantity, name, decays, place)
