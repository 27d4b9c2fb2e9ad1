"""The growth of every value of a model's program, by the line of the source that makes it."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from jaxmup import _check
from jaxmup._infer._leaf import Kinds
from jaxmup._infer._predict import Predicted, predicted
from jaxmup._infer._rules import Rules
from jaxmup._model import MakeModel, Model, as_model
from jaxmup._parametrization import Parametrization
from jaxmup._spec import ParamSpec
from jaxmup._tree import PathName, Size
from jaxmup.coord_check._batches import Data, batches_of
from jaxmup.coord_check._coord_check import (
    LossFn,
    MakeTx,
    check_kinds,
    default_loss,
    seeds_of,
    transform_of,
)
from jaxmup.coord_check._slopes import log_slope
from jaxmup.coord_check._subject import under
from jaxmup.coord_check._values import Run

EXCESS = 0.2
"""The largest exponent above the predicted one that a finite size accounts for."""


@dataclasses.dataclass(frozen=True)
class LineGrowth:
    """The growth of one value of a program with the width.

    Args:
      line: Line of the user's code, such as `"model.py:115"`; empty if there is none.
      function: Function that the line is in.
      op: Name of the primitive that makes the value.
      shapes: Shape of the value at each size.
      predicted: Largest exponent that muP allows, once the model has learned.
      start: Exponent at initialization, the median over seeds; `None` if a value is zero there.
      end: Exponent after the last step, likewise.
      start_rms: Root mean square at initialization at each size, the median over seeds.
      end_rms: Root mean square after the last step, likewise.
      lacks: Exponent of what is missing where a factor that the program lacks arises: how much
        faster the value grows if parameters do not carry it. 0 elsewhere.
    """

    line: str
    function: str
    op: str
    shapes: tuple[tuple[int, ...], ...]
    predicted: float
    start: float | None
    end: float | None
    start_rms: tuple[float, ...]
    end_rms: tuple[float, ...]
    lacks: float = 0.0

    @property
    def excess(self) -> float:
        """The exponent after the last step over the predicted one.

        0 of a value that is zero at some size; infinite of one that is not finite.
        """
        if self.end is None:
            return 0.0 if all(map(math.isfinite, self.end_rms)) else math.inf
        return self.end - self.predicted


@dataclasses.dataclass(frozen=True)
class LineCheck:
    """The growth of every value of a program.

    Args:
      sizes: Sizes of the models.
      widths: Growth of the widest axis at each size over the first, to which exponents refer.
      seeds: Seeds of the runs.
      steps: Number of steps of each run.
      parametrization: Parametrization under which the models ran, as text.
      values: One record for each value, in the order of the program.
    """

    sizes: tuple[Size, ...]
    widths: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    parametrization: str
    values: tuple[LineGrowth, ...]

    def exceeding(self, excess: float = EXCESS) -> tuple[LineGrowth, ...]:
        """The values that outgrow their prediction by more than `excess`; the first comes first."""
        return tuple(one for one in self.values if one.excess > excess)

    def worst(self) -> tuple[LineGrowth, ...]:
        """The value of each line that exceeds its prediction by most, the worst line first."""
        by_line: dict[str, LineGrowth] = {}
        for one in sorted(self.values, key=lambda one: -one.excess):
            by_line.setdefault(one.line, one)
        return tuple(by_line.values())

    def table(self, most: int = 12) -> str:
        """The worst lines as text, a row each.

        Args:
          most: Number of rows.
        """
        head = ("line", "operation", "shape", "predicted", "start", "end", "excess")
        rows = [head, *map(_row, self.worst()[:most])]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i < 3 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, wide, strict=True))
            ).rstrip()
            for row in rows
        )


def line_check(
    make_model: MakeModel | Model,
    sizes: Sequence[Size],
    data: Data,
    make_tx: optax.GradientTransformation | MakeTx,
    *,
    parametrization: Parametrization | None = None,
    loss_fn: LossFn | None = None,
    apply: Callable[..., Any] | None = None,
    rules: Rules | None = None,
    gains: bool = True,
    seeds: int | Sequence[int] = 4,
    steps: int = 6,
) -> LineCheck:
    r"""The growth of every value of a model's program with the width, beside what muP predicts.

    A model of each size is trained for a few steps, and before, between and after them the program
    of a call, as JAX traces it, is evaluated on one batch with a look at the result of every
    equation, also inside of calls and scans. The slope of log RMS over log width is set beside the
    exponent that `jaxmup.infer` derives for the value, which takes all sums as aligned: a value may
    grow less, as sums with random signs do before the model has learned, but not more. Where one
    does, the first such line in the order of the program is the place to look at.

    Args:
      make_model: Function of a size that makes a model, or a `jaxmup.Model`, as for `infer`; of
        layers that know of no parametrization.
      sizes: Sizes of the models, numbers or mappings, at least two, from the base model's upwards.
      data: One batch `(inputs, targets)` for every step, or an iterable of one batch a step, of
        which values are measured on the first.
      make_tx: Function of the scalings of a model that returns an optax transform, such as
        `lambda scalings: jaxmup.optim.adam(2**-7, scalings)`, as for `coord_check`.
      parametrization: Parametrization under check; `None` for muP with Adam.
      loss_fn: Loss of outputs and targets, a scalar; `None` as for `coord_check`.
      apply: Function that calls the model, as for `infer`.
      rules: Rules for axes, as for `infer`.
      gains: Whether parameters carry the factors that the forward pass lacks. Without, the lines
        that lack one show.
      seeds: Number of seeds, or the seeds themselves; exponents are medians over them.
      steps: Number of steps of the optimizer.

    Raises:
      TypeError: if `make_model` returns no model, or an argument is of another type.
      ValueError: if sizes do not grow, layers have a parametrization of their own, the
        data are refused as by `coord_check`, or `infer` refuses the model.

    Example:
      >>> import jax, jax.numpy as jnp, jaxmup
      >>> def make_params(width, key):
      ...     return {"w": jax.random.normal(key, (8, width)), "v": jnp.zeros((width, 2))}
      >>> def apply(params, x):
      ...     h = jnp.tanh(x @ params["w"])
      ...     return h @ params["v"]
      >>> data = jax.random.normal(jax.random.key(0), (32, 8)), jnp.arange(32) % 2
      >>> adam = lambda scalings: jaxmup.optim.adam(2**-9, scalings)
      >>> standard = jaxmup.parametrization("standard", "adam")
      >>> for rule in (None, standard):
      ...     check = line_check(
      ...         make_params, (32, 128), data, adam, apply=apply, parametrization=rule
      ...     )
      ...     print([(one.op, round(one.end)) for one in check.exceeding()])
      []
      [('dot_general', 1)]

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix D.1, for the outputs of layers.
    """
    _check.size("steps", steps, at_least=1)
    check_kinds(make_tx, parametrization, loss_fn)
    widths, seeds = _widths(sizes), seeds_of(seeds)
    batches = batches_of(data, steps)
    model = dataclasses.replace(as_model(make_model, apply=apply), inputs=batches.first_call)
    models = under(parametrization, model, sizes, rules=rules, gains=gains)
    if models[0].instance.specs is not None:
        raise ValueError(
            "`line_check` predicts how plain layers grow. The layers of this model have a "
            "parametrization of their own, and multipliers. Use `coord_check`."
        )
    values = predictions(model, sizes, models[0].spec_of)
    measured = [
        Run(loss_fn or default_loss, transform_of(make_tx, one), steps, batches).of(one, seeds)
        for one in models
    ]
    return LineCheck(
        sizes=tuple(sizes),
        widths=widths,
        seeds=seeds,
        steps=steps,
        parametrization=str(models[0].parametrization),
        values=tuple(_lines(values, np.stack(measured), np.array(widths))),
    )


def predictions(
    model: Model, sizes: Sequence[Size], specs: Mapping[PathName, ParamSpec]
) -> list[Predicted]:
    """The growth of every value of a model's program under muP, before anything is trained.

    Args:
      model: The model, with inputs.
      sizes: Sizes of the models.
      specs: Specs of the parameters that train, by name.
    """
    kinds: dict[PathName, Kinds] = {
        name: tuple(axis.kind for axis in spec.axes) for name, spec in specs.items()
    }
    whole = dataclasses.replace(model, wrt=None)  # what is frozen is no input of the model
    return predicted([whole.at(size) for size in sizes], kinds, kinds.keys())


def _lines(
    values: Sequence[Predicted], rms: np.ndarray, widths: np.ndarray
) -> Iterable[LineGrowth]:
    """The records of all values that were measured, from an array by size, seed, step and value."""
    for i, (node, logs, lacks) in enumerate(values):
        of_node = rms[..., i]
        # Not measured, or no number before anything was trained, such as 0 / 0 behind a `where`.
        if logs is None or np.isnan(of_node[:, :, 0]).any():
            continue
        line = node.line
        yield LineGrowth(
            line="" if line is None else str(line),
            function="" if line is None else line.function,
            op=node.op,
            shapes=node.shapes,
            predicted=log_slope(widths, np.exp(logs)),
            start=_exponent(widths, of_node[:, :, 0]),
            end=_exponent(widths, of_node[:, :, -1]),
            start_rms=tuple(map(float, np.median(of_node[:, :, 0], 1))),
            end_rms=tuple(map(float, np.median(of_node[:, :, -1], 1))),
            lacks=0.0 if lacks is None else log_slope(widths, np.exp(lacks)),
        )


def _exponent(widths: np.ndarray, values: np.ndarray) -> float | None:
    """The median over seeds of the slope of values of shape `(sizes, seeds)`."""
    if not (np.isfinite(values).all() and (values > 0).all()):
        return None
    return float(np.median([log_slope(widths, column) for column in values.T]))


def _widths(sizes: Sequence[Size]) -> tuple[float, ...]:
    """The growth of what grows most, at each size over the first.

    Raises:
      ValueError: unless there are at least two, each larger than the one before.
    """
    named = [size if isinstance(size, Mapping) else {"": size} for size in sizes]
    pairs = list(itertools.pairwise(named))
    grows = [
        one.keys() == other.keys()
        and one != other
        and all(number <= other[name] for name, number in one.items())
        for one, other in pairs
    ]
    if not grows or not all(grows):
        raise ValueError(
            "`sizes` must be at least two of the same names, each larger than the one before: the "
            f"first is the base model's. Got {sizes!r}."
        )
    first = named[0]
    return tuple(max(float(size[name]) / first[name] for name in first) for size in named)


def _row(one: LineGrowth) -> tuple[str, ...]:
    def number(exponent: float | None) -> str:
        return "-" if exponent is None else f"{exponent + 0.0:+.2f}"

    exponents = (one.predicted, one.start, one.end, one.excess)
    return (one.line, one.op, str(one.shapes[0]), *map(number, exponents))
