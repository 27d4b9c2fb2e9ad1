"""The scales that make every RMS 1: in one pass, or where modules are used again, in a few more."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup.empirical import _record
from jaxmup.empirical._record import Given, Record, Seen
from jaxmup.empirical._require import require_dependence, require_finite
from jaxmup.empirical._use import Settings

MAX_PASSES = 60


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
    square is 1. It starts from the mean of what its uses measured, and goes on by the secant rule.

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
    require_finite(solution.records, solution.loss)
    require_dependence(solution.records)
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
    """Where the iteration stands; `x` are logarithms of scales, `r` of the RMS that they leave."""

    passes: Any
    x: Any
    r: Any
    slope: Any
    directions: Any
    records: Any
    loss: Any


def _iterated(
    subject: Subject,
    settings: Settings,
    seen: Mapping[str, Seen],
    scales: Mapping[str, Array],
    shared: list[str],
) -> Solution:
    """The same where the modules of `shared` are used several times."""
    tolerance = max(10 * max(float(jnp.finfo(seen[n].dtype).eps) for n in shared), 1e-13)

    def run(one: Subject, x: Any, directions: Any) -> tuple[Array, Any, Any]:
        known = {name: _at_logarithms(*x[name]) for name in shared}
        return one.run(settings, seen, {**scales, **known}, directions)

    def step(one: Subject, state: _State) -> _State:
        loss, records, directions = run(one, state.x, state.directions)
        r = {name: _logarithms(records[name]) for name in shared}
        slope = jax.tree.map(_slope, state.x, state.r[0], r, state.r[1], state.slope)
        x = jax.tree.map(lambda x, r, slope: x - r / slope, state.x, r, slope)
        return _State(state.passes + 1, x, (state.x, r), slope, directions, records, loss)

    def unfinished(state: _State) -> Any:
        residual = functools.reduce(
            jnp.maximum, [jnp.max(jnp.abs(r)) for r in jax.tree.leaves(state.r[1])]
        )
        return (state.passes < MAX_PASSES) & ~(residual <= tolerance)

    def search(arrays: Any) -> tuple[Any, Any, Any]:
        one = subject.with_arrays(arrays)
        zeros = one.zeros(shared)
        loss, records, directions = one.run(settings, seen, scales, zeros)
        x = {name: _start(records[name]) for name in shared}
        ones = jax.tree.map(jnp.ones_like, x)
        start = _State(1, x, (x, ones), ones, directions, records, loss)
        end = jax.lax.while_loop(unfinished, functools.partial(step, one), start)
        # The scales of the last pass, and the direction that it found.
        loss, records, _ = run(one, end.r[0], end.directions)
        return loss, records, end.passes + 1

    loss, records, passes = jax.jit(search)(subject.arrays)
    solution = Solution(_host(records, seen), float(loss), int(passes))
    require_finite(solution.records, solution.loss)
    require_dependence(solution.records)
    _require_found(solution, shared)
    return solution


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


def _slope(x: Array, x_before: Array, r: Array, r_before: Array, slope: Array) -> Array:
    """By how much `r` moves with `x`, from the last two passes; 1 at first."""
    step = x - x_before
    moved = jnp.abs(step) > 1e-3 * jnp.abs(r)
    secant = (r - r_before) / jnp.where(moved, step, 1.0)
    return jnp.where(moved, jnp.clip(secant, 0.3, 100.0), slope)


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
