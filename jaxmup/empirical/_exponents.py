"""An empirical rule for a layer of which nothing is known, from its effect at several sizes."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array

from jaxmup import _check
from jaxmup._model import Instance, MakeModel, Model, as_model
from jaxmup._spec import AxisKind
from jaxmup._tree import Gradients, PathName, Size, Tree, leaves_by_path, path_name
from jaxmup.empirical._choose import ROOT
from jaxmup.empirical._measurable import (
    Directions,
    LossFn,
    Measurable,
    ModuleName,
    Pass,
    Scales,
    compiled,
)
from jaxmup.empirical._models import held, measurable, observed
from jaxmup.empirical._redraw import redrawn
from jaxmup.empirical._solve import solve
from jaxmup.empirical._tally import Seen, Tally, fixed, tally
from jaxmup.empirical._use import Settings, plain


class Exponent(NamedTuple):
    """An exponent, with its 95 % confidence interval.

    Args:
      value: Estimate; dimensionless.
      margin: Half-width of the interval.
    """

    value: float
    margin: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} ± {self.margin:.2f}"


@dataclasses.dataclass(frozen=True)
class ParameterExponents:
    """The exponents with which the effect of one parameter on its module's outputs grows.

    An effect is the RMS of the change of the outputs, as a power of the size of the axes.

    Args:
      parameter: Path of the parameter.
      axes: Groups of axes, each of axes that grow in proportion.
      spread: For each group, the exponent of the effect of independent entries of variance 1. It is
        ½ for an axis that is summed over, 0 for another. An initial standard deviation that falls
        with this exponent keeps the outputs the same size.
      step: For each group, the exponent of the effect of a step of size 1 in every entry along the
        sign of the gradient. muP's rule says 1 for an axis that is summed over, 0 for another. A
        learning rate of Adam that falls with this exponent keeps the effect the same size.
      ndim: Number of axes.
    """

    parameter: str
    axes: tuple[tuple[int, ...], ...]
    spread: tuple[Exponent, ...]
    step: tuple[Exponent, ...]
    ndim: int

    @property
    def kinds(self) -> tuple[AxisKind, ...] | None:
        """The kind of each axis; `None` if the exponents are those of no rule of kinds.

        Of axes that grow in proportion, the first ones are taken to be the inputs.
        """
        kinds: list[AxisKind] = ["batch"] * self.ndim
        for group, exponent in zip(self.axes, self.spread, strict=True):
            inputs = round(2 * exponent.value)
            if not 0 <= inputs <= len(group) or abs(exponent.value - inputs / 2) > _LARGEST_MISS:
                return None
            for i, axis in enumerate(group):
                kinds[axis] = "input" if i < inputs else "output"
        return tuple(kinds)


_LARGEST_MISS = 0.2  # of an exponent; rules differ by a half


@dataclasses.dataclass(frozen=True)
class Exponents:
    """The result of `calibrate_exponents`.

    Args:
      rows: Exponents of every parameter that grows.
    """

    rows: tuple[ParameterExponents, ...]

    @property
    def rules(self) -> dict[str, tuple[AxisKind, ...]]:
        """The rules by path, for `jaxmup.infer(..., rules=...)`."""
        return {row.parameter: row.kinds for row in self.rows if row.kinds is not None}

    def __str__(self) -> str:
        """A table, with what muP's rule says of a step."""
        width = max(len("parameter"), *(len(row.parameter) for row in self.rows))
        lines = [f"{'parameter':<{width}}{'axes':>10}{'spread':>16}{'step':>16}{'muP':>7}  kinds"]
        for row in self.rows:
            kinds = row.kinds
            for group, spread, step in zip(row.axes, row.spread, row.step, strict=True):
                expected = "" if kinds is None else sum(kinds[axis] == "input" for axis in group)
                axes = ", ".join(map(str, group))
                lines.append(
                    f"{row.parameter:<{width}}{axes:>10}{spread!s:>16}{step!s:>16}{expected:>7}"
                    f"  {'no rule' if kinds is None else ', '.join(kinds)}"
                )
        return "\n".join(lines)


def calibrate_exponents(
    make_model: MakeModel | Model,
    sizes: Sequence[Size],
    inputs: Tree,
    loss_fn: LossFn,
    *,
    seeds: int = 4,
    modules: Sequence[str] | None = None,
) -> Exponents:
    """Exponents of every parameter's effect in its sizes, measured on calibrated models.

    At each size and seed the model is calibrated, so that each module sees inputs and gradients of
    RMS 1, and the change of a module's outputs is measured for two directions of each parameter:
    unit normal entries, which add up as initial values do, and the sign of the gradient, which adds
    up as Adam's updates do. The exponents are the slopes of a least-squares fit of the logarithms.

    Weights have variance 1 there, so an activation function belongs outside of the module, or it
    would saturate. A batch smaller than the axes lets updates align with the inputs, as they do in
    training.

    Axes that grow in proportion at all sizes cannot be told apart: vary them one at a time, such as
    in `[{"n": 64, "m": 64}, {"n": 256, "m": 64}, {"n": 64, "m": 256}]`.

    Args:
      make_model: Function of a size that makes a model, as for `jaxmup.infer`, or a `Model`.
      sizes: Sizes of the models, at least two.
      inputs: Arguments of the model's call, or a function of the size that returns them; `None`
        for those of a `Model`.
      loss_fn: Loss of the outputs, a scalar.
      seeds: Number of models of each size, at least 2.
      modules: Names of the modules to measure, as for `calibrate`.

    Returns:
      The exponents with confidence intervals, and rules for `jaxmup.infer`.

    Raises:
      TypeError: if `seeds` is no integer, or the models are of no API of Flax.
      ValueError: if there are too few sizes or seeds, or no parameter grows.

    Example:
      >>> from flax import nnx
      >>> def make_model(width, rngs):
      ...     return nnx.Linear(width, 4, use_bias=False, rngs=rngs)
      >>> def inputs(width):
      ...     return jax.random.normal(jax.random.key(1), (64, width))
      >>> loss_fn = lambda y: (y**2).mean()
      >>> calibrate_exponents(make_model, [16, 64], inputs, loss_fn, seeds=2).rules
      {'kernel': ('input', 'batch')}
    """
    _check.size("len(sizes)", len(sizes), at_least=2, remedy="One size has no slope.")
    _check.size("seeds", seeds, at_least=2, remedy="One model of a size has no noise to compare.")
    model = as_model(make_model, inputs=inputs)
    points = [
        point for size in sizes for point in _responses(model.at(size), seeds, loss_fn, modules)
    ]
    rows = [_fit(name, [point[name] for point in points]) for name in points[0]]
    found = tuple(row for row in rows if row is not None)
    if not found:
        raise ValueError(f"Parameters must grow between the sizes. Got {list(sizes)!r}.")
    return Exponents(found)


class _Response(NamedTuple):
    """The effect of one parameter in one model, and the shape of the parameter.

    Args:
      shape: Shape of the parameter.
      spread: RMS of the change of the outputs by unit normal entries.
      step: RMS of the change of the outputs by the sign of the gradient.
    """

    shape: tuple[int, ...]
    spread: float
    step: float


def _responses(
    instance: Instance, seeds: int, loss_fn: LossFn, modules: Sequence[str] | None
) -> Iterator[dict[PathName, _Response]]:
    """The responses of each seed's model, all of which run in the same programs."""
    pass_ = seen = None
    for key in map(jax.random.key, range(seeds)):
        measured, _ = measurable(held(instance, None, None, None, key), modules, loss_fn)
        if pass_ is None or seen is None:
            seen = observed(measured)
            pass_ = compiled(measured, Settings(1, True, plain), seen)
        yield _response(redrawn(measured, key, seen), pass_, seen)


def _response(
    measured: Measurable, pass_: Pass, seen: Mapping[ModuleName, Seen]
) -> dict[PathName, _Response]:
    """The response to both directions in every parameter, one parameter at a time."""
    means = {name: one.per_use() for name, one in solve(measured, pass_, seen).tallies.items()}
    scales = {
        name: fixed(one, means[name].activation_scale, means[name].gradient_scale)
        for name, one in seen.items()
    }
    _, _, gradients = pass_(measured.arrays, scales, measured.zeros(tuple(seen)))
    leaves = {name: leaves_by_path(gradients[name]) for name in seen}
    found: dict[PathName, _Response] = {}
    # Modules do not act on each other's records while their scales are fixed, so that one pass does
    # for the parameters of one name in all modules.
    for parameter in dict.fromkeys(itertools.chain.from_iterable(leaves.values())):
        changes = [
            _changes(measured, pass_, scales, _only(parameter, gradients, normal))
            for normal in (True, False)
        ]
        for name in seen:
            if parameter in leaves[name]:
                path = f"{name}/{parameter}".removeprefix(f"{ROOT}/")
                shape = leaves[name][parameter].shape
                found[path] = _Response(shape, *(change[name] for change in changes))
    return found


def _changes(
    measured: Measurable, pass_: Pass, scales: Scales, directions: Directions
) -> dict[ModuleName, float]:
    """RMS of the change of each module's outputs along a direction in its parameters."""
    tallies = jax.device_get(pass_(measured.arrays, scales, directions)[1])
    return {name: _change(tally(packed)) for name, packed in tallies.items()}


def _only(
    parameter: PathName, gradients: Mapping[ModuleName, Gradients], normal: bool
) -> dict[ModuleName, Gradients]:
    """A direction in one parameter of each module: of unit normal entries, or of signs."""

    def one(path: tuple[Any, ...], leaf: Array) -> Array:
        if path_name(path) != parameter:
            return jnp.zeros_like(leaf)
        if not normal:
            return jnp.sign(leaf)
        # Any fixed draw will do: the weights differ from seed to seed.
        return jnp.asarray(np.random.default_rng(1).standard_normal(leaf.shape), leaf.dtype)

    return {n: jax.tree_util.tree_map_with_path(one, part) for n, part in gradients.items()}


def _change(found: Tally) -> float:
    """RMS of the change of the outputs before they are scaled, over uses and stacked modules."""
    return float(np.sqrt(np.mean(found.update * found.uses / found.activation_scale**2)))


def _fit(name: PathName, points: Sequence[_Response]) -> ParameterExponents | None:
    """The slopes of one parameter; `None` if it does not grow, or has no effect."""
    logs = np.log([point.shape for point in points]).reshape(len(points), -1)
    groups = _groups(logs)
    responses = np.array([(point.spread, point.step) for point in points])
    if not groups or np.any(responses <= 0):
        return None
    regressors = np.column_stack([np.ones(len(points)), *(logs[:, g[0]] for g in groups)])
    spread, step = (_slopes(regressors, np.log(y)) for y in responses.T)
    axes = tuple(map(tuple, groups))
    return ParameterExponents(name, axes, spread, step, logs.shape[1])


def _groups(logs: np.ndarray) -> list[list[int]]:
    """The axes that grow, in groups of those that do so in proportion.

    Args:
      logs: Logarithms of the sizes of the axes, a row for each model.
    """
    groups: list[list[int]] = []
    for axis in range(logs.shape[1]):
        column = logs[:, axis] - logs[0, axis]
        if not np.any(column):
            continue
        for group in groups:
            if np.allclose(column, logs[:, group[0]] - logs[0, group[0]]):
                group.append(axis)
                break
        else:
            groups.append([axis])
    return groups


def _slopes(regressors: np.ndarray, y: np.ndarray) -> tuple[Exponent, ...]:
    """Least-squares slopes with 95 % intervals, without that of the constant."""
    fitted, *_ = np.linalg.lstsq(regressors, y, rcond=None)
    freedom = len(y) - regressors.shape[1]
    variance = np.sum((y - regressors @ fitted) ** 2) / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.inv(regressors.T @ regressors)))
    quantile = float(scipy.stats.t.ppf(0.975, freedom))
    pairs = zip(fitted[1:], quantile * errors[1:], strict=True)
    return tuple(Exponent(float(value), float(margin)) for value, margin in pairs)
