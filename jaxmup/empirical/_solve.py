"""The scales that make every RMS 1: in one pass, or where modules are used again, in a few more."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxmup.empirical import _record
from jaxmup.empirical._record import Given, Record, Seen
from jaxmup.empirical._require import require_measurable
from jaxmup.empirical._use import Settings

MAX_PASSES = 60
_LARGEST_MOVE = 1.0  # of the logarithm of a scale in one step


class Subject(Protocol):
    """What can be measured: a model of one of Flax's APIs."""

    @property
    def arrays(self) -> Any: ...

    def with_arrays(self, arrays: Any) -> "Subject": ...

    def observe(self) -> dict[str, Seen]: ...

    def tied(self) -> frozenset[str]: ...

    def run(
        self,
        settings: Settings,
        seen: Mapping[str, Seen],
        scales: Mapping[str, Array],
        directions: Mapping[str, Any],
    ) -> tuple[Array, dict[str, Array], dict[str, Any]]: ...

    def zeros(self, names: Any) -> dict[str, Any]: ...

    def map_parameters(self, function: Callable[[str, str, Array], Array]) -> "Subject": ...

    def scaled(self, scales: Mapping[str, Mapping[str, Array]]) -> Any: ...


class Solution(NamedTuple):
    """What was measured.

    Args:
      records: of the last pass, by module in the order of the calls.
      loss: of the last pass.
      passes: how many forward and backward passes were run.
    """

    records: dict[str, Record]
    loss: float
    passes: int


def solve(subject: Subject, settings: Settings, seen: Mapping[str, Seen]) -> Solution:
    """Measures a model with no scales fixed, and those that one pass cannot find by iteration.

    Each use of a module is scaled by what it measures. Where a module is used once, that is its
    scale. A module with several uses has one scale, for which the mean over its uses of the mean
    square is 1. It starts from the mean of what its uses measured.

    Raises:
      ValueError: naming the module, if something measured isn't finite, the loss doesn't depend on
        it, or no scale is found.
    """
    scales = {name: _record.free(one) for name, one in seen.items()}
    tied = subject.tied()
    if tied:
        return _iterated(subject, settings, seen, scales, sorted(tied))
    loss, records, _ = subject.run(settings, seen, scales, {})
    solution = Solution(_host(records, seen), float(loss), 1)
    require_measurable(solution.records)
    shared = sorted(_shared(solution))
    return _iterated(subject, settings, seen, scales, shared) if shared else solution


def measure(
    subject: Subject, settings: Settings, seen: Mapping[str, Seen], scales: Mapping[str, Array]
) -> Solution:
    """What a pass measures under scales that are fixed; two, where a module has several uses.

    Args:
      subject: the model.
      settings: what is measured.
      seen: what an abstract run says.
      scales: a packed `Given` of each module.
    """
    loss, records, _ = subject.run(settings, seen, scales, {})
    solution = Solution(_host(records, seen), float(loss), 1)
    shared = sorted(_shared(solution) | subject.tied())
    if not shared:
        return solution
    _, _, directions = subject.run(settings, seen, scales, subject.zeros(shared))
    loss, records, _ = subject.run(settings, seen, scales, directions)
    return Solution(_host(records, seen), float(loss), 3)


def _shared(solution: Solution) -> frozenset[str]:
    return frozenset(n for n, record in solution.records.items() if np.any(record.uses > 1))


def _host(records: Mapping[str, Any], seen: Mapping[str, Seen]) -> dict[str, Record]:
    return {name: _record.record(records[name]) for name in seen}


class _State(NamedTuple):
    """Where the iteration stands.

    Args:
      passes: how many there were.
      x: logarithms of the scales.
      r: logarithms of the RMS that they leave.
      inverse: what is known of the inverse of `dr / dx`.
      directions: gradients of the parameters of the modules.
    """

    passes: Any
    x: Array
    r: Array
    inverse: Array
    directions: Any


def _iterated(
    subject: Subject,
    settings: Settings,
    seen: Mapping[str, Seen],
    scales: Mapping[str, Array],
    shared: list[str],
) -> Solution:
    """The same where the modules of `shared` are used several times.

    Broyden's method for the logarithms of all their scales together, since each of them acts on all
    modules before and after; those of modules that are used once follow in every pass.
    """
    dtype = jnp.result_type(*(seen[name].dtype for name in shared))
    tolerance = 30 * float(jnp.finfo(dtype).eps)

    def run(one: Subject, x: Array, directions: Any) -> tuple[Array, Any, Array, Any]:
        known = {name: _at_logarithms(*pair) for name, pair in unravel(x).items()}
        loss, records, directions = one.run(settings, seen, {**scales, **known}, directions)
        r = {name: _logarithms(records[name]) for name in shared}
        return loss, records, ravel_pytree(r)[0].astype(dtype), directions

    def step(one: Subject, state: _State) -> _State:
        move = jnp.clip(-state.inverse @ state.r, -_LARGEST_MOVE, _LARGEST_MOVE)
        x = state.x + move
        _, _, r, directions = run(one, x, state.directions)
        inverse = _broyden(state.inverse, move, r - state.r)
        return _State(state.passes + 1, x, r, inverse, directions)

    def unfinished(state: _State) -> Any:
        return (state.passes < MAX_PASSES) & ~(jnp.max(jnp.abs(state.r)) <= tolerance)

    def search(arrays: Any) -> tuple[Array, Any, Any]:
        one = subject.with_arrays(arrays)
        zeros = one.zeros(shared)
        x = ravel_pytree(start)[0]
        _, _, r, directions = run(one, x, zeros)
        state = _State(2, x, r, jnp.eye(x.size, dtype=dtype), directions)
        end = jax.lax.while_loop(unfinished, functools.partial(step, one), state)
        # The effect of the update that all uses make together, whose direction is now known.
        loss, records, _, _ = run(one, end.x, end.directions)
        return loss, records, end.passes + 1

    _, records, _ = subject.run(settings, seen, scales, {})
    start = {name: _start(records[name].astype(dtype)) for name in shared}
    unravel = ravel_pytree(start)[1]
    loss, records, passes = jax.jit(search)(subject.arrays)
    solution = Solution(_host(records, seen), float(loss), int(passes))
    require_measurable(solution.records)
    _require_found(solution, shared)
    return solution


def _broyden(inverse: Array, move: Array, change: Array) -> Array:
    """The inverse Jacobian that maps `change` to `move`, nearest to the last one."""
    towards = inverse @ change
    scale = move @ towards
    safe = jnp.abs(scale) > 1e-12
    update = jnp.outer(move - towards, move @ inverse) / jnp.where(safe, scale, 1.0)
    return inverse + jnp.where(safe, update, 0.0)


def _start(packed: Array) -> tuple[Array, Array]:
    record = _record.traced_record(packed)
    scales = record.activation_scale, record.gradient_scale
    return tuple(jnp.log(scale / jnp.maximum(record.uses, 1)) for scale in scales)  # type: ignore[return-value]


def _at_logarithms(activation: Array, gradient: Array) -> Array:
    one = jnp.ones_like(activation)
    # Update scales are not fixed: they act on nothing within a pass.
    return _record.packed(Given(one, jnp.exp(activation), jnp.exp(gradient), one))


def _logarithms(packed: Array) -> tuple[Array, Array]:
    """Half the logarithm of the mean squares over the uses; 0 of none."""
    record = _record.traced_record(packed)
    means = (x / jnp.maximum(record.uses, 1) for x in (record.activation, record.gradient))
    return tuple(jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)) / 2, 0.0) for x in means)  # type: ignore[return-value]


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
