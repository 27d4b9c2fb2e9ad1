"""An empirical rule for a layer of which nothing is known: how its effect grows with its sizes."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array

from jaxmup._inputs import Call
from jaxmup._model import Instance, as_model
from jaxmup._spec import AxisKind
from jaxmup._tree import leaves_by_path, path_name
from jaxmup.empirical._choose import ROOT
from jaxmup.empirical._record import Record, Seen, fixed, record
from jaxmup.empirical._redraw import redrawn
from jaxmup.empirical._solve import Pass, Subject, compiled, solve
from jaxmup.empirical._subject import make_subject, observed
from jaxmup.empirical._use import Settings, plain


class Interval(NamedTuple):
    """An estimate, and the half-width of its 95 % confidence interval."""

    value: float
    margin: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} ± {self.margin:.2f}"


@dataclasses.dataclass(frozen=True)
class ParameterExponents:
    """How the effect of one parameter on the outputs of its module grows.

    Args:
      parameter: its path.
      axes: axes that grow in proportion, one group after the other.
      spread: for each group, the exponent of the change that independent entries of variance 1
        make, RMS against size; minus that is the exponent of their standard deviation. It is ½ for
        an axis that is summed over, 0 for another.
      step: the same for a step of size 1 in every entry along the sign of the gradient; minus that
        is the exponent of Adam's learning rate. muP's rule says 1 for an axis that is summed over,
        0 for another.
      ndim: number of its axes.
    """

    parameter: str
    axes: tuple[tuple[int, ...], ...]
    spread: tuple[Interval, ...]
    step: tuple[Interval, ...]
    ndim: int

    @property
    def kinds(self) -> tuple[AxisKind, ...] | None:
        """What each axis does, `None` if the exponents are those of no such rule.

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
    """What `calibrate_exponents` found.

    Args:
      rows: of every parameter that grows.
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
    make_model: Callable[..., Any],
    sizes: Sequence[Any],
    inputs: Any,
    loss_fn: Callable[..., Array],
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
      make_model: as of `jaxmup.infer`.
      sizes: at least two; what `make_model` is given.
      inputs: what the model is called with, or a function of the size that returns it.
      loss_fn: of the outputs.
      seeds: number of models of each size, at least 2.
      modules: as of `calibrate`.

    Returns:
      The exponents with confidence intervals, and rules for `jaxmup.infer`.

    Raises:
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
    if len(sizes) < 2 or seeds < 2:
        raise ValueError(
            "A slope must have two sizes and two seeds at least. Got "
            f"{len(sizes)} sizes and seeds={seeds}."
        )
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
    """RMS of the change of the outputs, and the shape of the parameter."""

    shape: tuple[int, ...]
    spread: float
    step: float


def _responses(
    instance: Instance,
    seeds: int,
    loss_fn: Callable[..., Array],
    modules: Sequence[str] | None,
) -> Iterator[dict[str, _Response]]:
    """The responses of each seed's model, all of which run in the same programs."""
    args, kwargs = instance.inputs or Call()
    pass_ = seen = None
    for key in map(jax.random.key, range(seeds)):
        held = instance.join(instance.draw(key))
        is_nnx = instance.kind == "nnx"
        model, variables = (held, None) if is_nnx else (instance.model.make(instance.size), held)
        subject, _ = make_subject(model, variables, modules, args, kwargs, loss_fn)
        if pass_ is None or seen is None:
            seen = observed(subject, args)
            pass_ = compiled(subject, Settings(1, True, plain), seen)
        yield _response(redrawn(subject, key, seen), pass_, seen)


def _response(subject: Subject, pass_: Pass, seen: Mapping[str, Seen]) -> dict[str, _Response]:
    """The response to both directions in every parameter, one parameter at a time."""
    means = {name: record.per_use() for name, record in solve(subject, pass_, seen).records.items()}
    scales = {
        name: fixed(one, means[name].activation_scale, means[name].gradient_scale)
        for name, one in seen.items()
    }
    _, _, gradients = pass_(subject.arrays, scales, subject.zeros(seen))
    shapes = {
        name: {path: leaf.shape for path, leaf in leaves_by_path(gradients[name]).items()}
        for name in seen
    }
    found: dict[str, _Response] = {}
    for parameter in dict.fromkeys(itertools.chain.from_iterable(shapes.values())):
        spread, step = (
            jax.device_get(pass_(subject.arrays, scales, _only(parameter, gradients, normal))[1])
            for normal in (True, False)
        )
        for name in seen:
            if parameter in shapes[name]:
                changes = (_change(record(packed[name])) for packed in (spread, step))
                path = f"{name}/{parameter}".removeprefix(f"{ROOT}/")
                found[path] = _Response(shapes[name][parameter], *changes)
    return found


def _only(parameter: str, gradients: Any, normal: bool) -> Any:
    """A direction in one parameter of each module: of unit normal entries, or of signs."""

    def one(path: Any, leaf: Array) -> Array:
        if path_name(path) != parameter:
            return jnp.zeros_like(leaf)
        if not normal:
            return jnp.sign(leaf)
        # Any fixed draw will do: the weights differ from seed to seed.
        return jnp.asarray(np.random.default_rng(1).standard_normal(leaf.shape), leaf.dtype)

    return {n: jax.tree_util.tree_map_with_path(one, part) for n, part in gradients.items()}


def _change(of: Record) -> float:
    """RMS of the change of the outputs before they are scaled, over uses and stacked modules."""
    return float(np.sqrt(np.mean(of.update * of.uses / of.activation_scale**2)))


def _fit(name: str, points: Sequence[_Response]) -> ParameterExponents | None:
    """The slopes of one parameter; `None` if it does not grow, or has no effect."""
    logs = np.log([point.shape for point in points]).reshape(len(points), -1)
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
    responses = np.array([(point.spread, point.step) for point in points])
    if not groups or np.any(responses <= 0):
        return None
    regressors = np.column_stack([np.ones(len(points)), *(logs[:, g[0]] for g in groups)])
    spread, step = (_slopes(regressors, np.log(y)) for y in responses.T)
    axes = tuple(map(tuple, groups))
    return ParameterExponents(name, axes, spread, step, logs.shape[1])


def _slopes(regressors: np.ndarray, y: np.ndarray) -> tuple[Interval, ...]:
    """Least-squares slopes with 95 % intervals, without that of the constant."""
    fitted, *_ = np.linalg.lstsq(regressors, y, rcond=None)
    freedom = len(y) - regressors.shape[1]
    variance = np.sum((y - regressors @ fitted) ** 2) / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.inv(regressors.T @ regressors)))
    quantile = float(scipy.stats.t.ppf(0.975, freedom))
    pairs = zip(fitted[1:], quantile * errors[1:], strict=True)
    return tuple(Interval(float(value), float(margin)) for value, margin in pairs)
