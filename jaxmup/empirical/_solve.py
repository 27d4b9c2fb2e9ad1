"""The scales that make every RMS 1: in one pass, or a few more where modules are used again."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup.empirical import _record
from jaxmup.empirical._record import Record, Seen
from jaxmup.empirical._require import require_measurable, require_single_use
from jaxmup.empirical._use import Settings

MAX_PASSES = 60
_LARGEST_MOVE = 1.0  # of the logarithm of a scale in one step


Scales = Mapping[str, Array | np.ndarray]  # a packed `Given` of each module


class Subject(Protocol):
    """What can be measured: a model of one of Flax's APIs, of which modules are chosen, with data.

    Args:
      names: of the chosen modules, by their paths.
      inputs: what the model is called with.
      arguments: keyword arguments of that call.
      loss_fn: of the outputs.
    """

    @property
    def names(self) -> Mapping[Any, str]: ...

    @property
    def arrays(self) -> Any:
        """What a pass is traced over."""

    def with_arrays(self, arrays: Any) -> "Subject":
        """The same with other arrays."""
        ...

    def observe(self) -> dict[str, Seen]:
        """What an abstract run sees, in the order in which the modules are called."""
        ...

    def tied(self) -> frozenset[str]:
        """The modules that share a parameter with another one."""
        ...

    def run(
        self,
        settings: Settings,
        seen: Mapping[str, Seen],
        scales: Scales,
        directions: Mapping[str, Any],
    ) -> tuple[Array, dict[str, Array], dict[str, Any]]:
        """One forward and one backward pass: the loss, the records, and the gradients.

        The gradients are those of the modules in `directions`, in the same form.
        """
        ...

    def zeros(self, names: Any) -> dict[str, Any]:
        """Parameters of the named modules that are all zero."""
        ...

    def map_parameters(self, function: Callable[[str, str, Array], Array]) -> "Subject":
        """The same with `function(module, parameter, values)` in the chosen modules."""
        ...

    def scaled(self, scales: Mapping[str, Mapping[str, Array]]) -> Any:
        """The model, or its variables, with these scales, by name of the module."""
        ...


# `pass_(arrays, scales, directions)`: the loss, the records, and the gradients, see `Subject.run`.
Pass = Callable[[Any, Scales, Mapping[str, Any]], tuple[Array, Any, dict[str, Any]]]


def compiled(subject: Subject, settings: Settings, seen: Mapping[str, Seen]) -> Pass:
    """One forward and one backward pass as one program, for the arrays of any model like it.

    It is not kept for a later call with the same loss function, which may by then read other data.
    """

    def run(arrays: Any, scales: Scales, directions: Mapping[str, Any]) -> Any:
        return subject.with_arrays(arrays).run(settings, seen, scales, directions)

    return jax.jit(run)


class Solution(NamedTuple):
    """What was measured.

    Args:
      records: of the last pass, by module in the order of the calls.
      loss: of the last pass.
      passes: how many forward and backward passes were run.
    """

    records: dict[str, Record]
    loss: Any
    passes: int


def solve(
    subject: Subject,
    pass_: Pass,
    seen: Mapping[str, Seen],
    readouts: Collection[str] = (),
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
    scales = {name: _record.free(one) for name, one in seen.items()}
    loss, records, _ = pass_(subject.arrays, scales, {})
    if _record.is_traced(records):
        return Solution({name: _used_once(records[name]) for name in seen}, loss, 1)
    solution = Solution(_host(records, seen), float(loss), 1)
    require_measurable(solution.records)
    shared = sorted(_shared(solution) | subject.tied())
    require_single_use(readouts, shared)
    return _iterated(subject, pass_, seen, scales, solution, shared) if shared else solution


def measured(
    subject: Subject,
    pass_: Pass,
    seen: Mapping[str, Seen],
    scales: Scales,
) -> Solution:
    """What a pass measures under scales that are fixed; three, where a module has several uses.

    Args:
      subject: the model.
      pass_: its pass.
      seen: what an abstract run says.
      scales: a packed `Given` of each module.
    """
    loss, records, _ = pass_(subject.arrays, scales, {})
    solution = Solution(_host(records, seen), float(loss), 1)
    shared = sorted(_shared(solution) | subject.tied())
    if not shared:
        return solution
    _, _, directions = pass_(subject.arrays, scales, subject.zeros(shared))
    loss, records, _ = pass_(subject.arrays, scales, directions)
    return Solution(_host(records, seen), float(loss), 3)


def _used_once(packed: Array) -> Record:
    found = _record.record(packed)
    return found._replace(
        **{
            field: jnp.where(found.uses == 1, getattr(found, field), jnp.nan)
            for field in ("activation_scale", "gradient_scale", "update_scale")
        }
    )


def _shared(solution: Solution) -> frozenset[str]:
    return frozenset(n for n, record in solution.records.items() if np.any(record.uses > 1))


def _host(records: Mapping[str, Any], seen: Mapping[str, Seen]) -> dict[str, Record]:
    on_host = jax.device_get(records)
    return {name: _record.record(on_host[name]) for name in seen}


def _iterated(
    subject: Subject,
    pass_: Pass,
    seen: Mapping[str, Seen],
    free: Scales,
    first: Solution,
    shared: list[str],
) -> Solution:
    """The same where the modules of `shared` are used several times.

    Broyden's method for the logarithms of all their scales together, since each of them acts on all
    modules before and after; those of modules that are used once follow in every pass.
    """
    tolerance = 30 * float(max(jnp.finfo(seen[name].dtype).eps for name in shared))
    directions, passes = subject.zeros(shared), first.passes

    def run(x: np.ndarray) -> tuple[Solution, np.ndarray]:
        nonlocal directions, passes
        known = _scales_at(x, seen, shared)
        loss, records, directions = pass_(subject.arrays, {**free, **known}, directions)
        passes += 1
        solution = Solution(_host(records, seen), float(loss), passes)
        return solution, _vector(solution, shared, _log_rms)

    x = _vector(first, shared, _log_mean_scales)
    inverse = np.eye(x.size)
    solution, r = run(x)
    while passes < MAX_PASSES and tolerance < np.max(np.abs(r)) < np.inf:
        move = np.clip(-inverse @ r, -_LARGEST_MOVE, _LARGEST_MOVE)
        x, before = x + move, r
        _, r = run(x)
        inverse = _broyden(inverse, move, r - before)
    # The effect of the update that all uses make together, whose direction is now known.
    solution, _ = run(x)
    require_measurable(solution.records)
    _require_found(solution, shared)
    return solution


def _broyden(inverse: np.ndarray, move: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The inverse Jacobian that maps `change` to `move`, nearest to the last one."""
    towards = inverse @ change
    scale = move @ towards
    if abs(scale) <= 1e-12:
        return inverse
    return inverse + np.outer(move - towards, move @ inverse) / scale


def _vector(
    solution: Solution, shared: list[str], function: Callable[[Record], tuple[Any, Any]]
) -> np.ndarray:
    """What `function` says of the activations and the gradients of each module, in one vector."""
    parts = [part for name in shared for part in function(solution.records[name])]
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


def _log_mean_scales(record: Record) -> tuple[Any, Any]:
    mean = record.per_use()
    return np.log(mean.activation_scale), np.log(mean.gradient_scale)


def _log_rms(record: Record) -> tuple[Any, Any]:
    """Half the logarithm of the mean squares over the uses; 0 of none."""
    mean = record.per_use()
    squares = mean.activation, mean.gradient
    activation, gradient = (np.log(np.where(x > 0, x, 1.0)) / 2 for x in squares)
    return activation, gradient


def _scales_at(x: np.ndarray, seen: Mapping[str, Seen], shared: list[str]) -> dict[str, np.ndarray]:
    """The scales with these logarithms, in the order of `_vector`."""
    known, at = {}, 0
    for name in shared:
        shape = (2, *seen[name].lead)
        activation, gradient = np.exp(x[at : at + np.prod(shape, dtype=int)]).reshape(shape)
        # Update scales are not fixed: they act on nothing within a pass.
        known[name] = _record.fixed(seen[name], activation, gradient, 1.0)
        at += np.prod(shape, dtype=int)
    return known


def _require_found(solution: Solution, shared: list[str]) -> None:
    for name in shared:
        record = solution.records[name]
        for what in ("activation", "gradient"):
            mean = getattr(record, what) / record.uses
            wrong = (mean > 0) & (np.abs(mean - 1) > 1e-2)
            if np.any(wrong):
                raise ValueError(
                    f"A module that is used several times must have a scale for which the RMS of "
                    f"its {what}s over all uses is 1. After {solution.passes} passes, {name} has "
                    f"{np.sqrt(mean)}. Calibrate other modules by `modules`."
                )
