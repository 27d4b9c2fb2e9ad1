"""The coordinate check of a model."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsFloat, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmup import _check
from jaxmup._infer._parametrized import Parametrized
from jaxmup._infer._rules import Rules
from jaxmup._model import MakeModel, Model, as_model
from jaxmup._model._arguments import asked_for
from jaxmup._parametrization import Parametrization
from jaxmup.coord_check._batches import Batches, Data, batches_of
from jaxmup.coord_check._budget import AUTO_SEEDS, AUTO_SIZES, Auto, Budget
from jaxmup.coord_check._expected import Theory
from jaxmup.coord_check._judge import judged
from jaxmup.coord_check._measure import Runs
from jaxmup.coord_check._mend import findings_of
from jaxmup.coord_check._result import CoordCheck, Over
from jaxmup.coord_check._signs import Signs, signs_of
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._subject import subjects as subjects_of
from jaxmup.coord_check._sums import Measured
from jaxmup.coord_check._training import Training, loss_program
from jaxmup.coord_check._verdict import LEAST_MISTAKE, TOLERANCE

MakeTx: TypeAlias = Callable[..., optax.GradientTransformation]
"""A function of a tree of `Scaling`, and of `specs` if it has such a parameter."""
LossFn: TypeAlias = Callable[[Any, Any], Array]
"""A function of outputs and targets that returns a scalar."""


def coord_check(
    make_model: MakeModel | Model,
    sizes: Sequence[int] | Auto,
    data: Data,
    make_tx: optax.GradientTransformation | MakeTx,
    *,
    parametrization: Parametrization | None = None,
    loss_fn: LossFn | None = None,
    apply: Callable[..., Any] | None = None,
    rules: Rules | None = None,
    over: Over = "width",
    seeds: int | Sequence[int] | Auto = 4,
    largest: int | None = None,
    steps: int = 4,
    tolerance: float = TOLERANCE,
    confidence: float = 0.95,
) -> CoordCheck:
    r"""Trains a model of several widths for a few steps and checks how everything grows.

    Recorded are, for every call of a module, its output and how it has changed on one fixed batch
    since initialization; the logits of attention; and for every parameter the effective weight W,
    its change since initialization, the gradient before and after `scale_gradients`, one step of
    the optimizer, what weight decay takes off, and what the gradient is beside the optimizer's eps.
    Of each the slope of log RMS over log width is compared with the exponent that theory expects.

    A row passes if the confidence interval of its slope is within `tolerance` of what is expected
    and excludes exponents that are off by 1/2. It fails if its slope is not, and the interval
    excludes what is expected. What fails over three or more sizes passes if the larger half of them
    does: a part that fades as :math:`n^{-1/2}` hides an exponent from small sizes, but not a
    mistake from large ones. Where it has not faded enough, the sizes are too small.

    Some exponents are open: what is read out of features falls as :math:`n^{-1/2}` at
    initialization, since random signs add up, and not at all once it has learned. So do attention
    logits, and every gradient whose way to the loss is a sum of random signs, such as those of
    queries, keys, gates, and of biases of the outputs. Which these are is read off the program. A
    readout that starts at zero leaves least open and the smallest effect of finite widths.

    Args:
      make_model: Function of a size that makes a model, as for `jaxmup.infer`: an NNX module, a
        Linen module or a tree of arrays. If it has a parameter `rngs` or `key` it is given one, if
        it has a parameter `parametrization`, that. A model of jaxmup layers is taken as it is; any
        other gets the initial values of `jaxmup.rescale`, with the smallest size as base.
      sizes: Widths, or numbers of layers, at least two different ones; or `"auto"`, the widths 64,
        128 and 256, and larger ones up to 1024 where a row asks for them.
      data: One batch `(inputs, targets)` for every step; or an iterable of one batch a step, of
        which the first is the one that outputs are compared on.
      make_tx: Function of the scalings of a model that returns an optax transform, such as
        `lambda scalings: jaxmup.optim.adam(2**-7, scalings)`; if it has a parameter `specs` it is
        given those too. Or a transform that serves all sizes. A large learning rate shows more.
      parametrization: Parametrization under check; `None` for muP with Adam.
      loss_fn: Loss of outputs and targets, a scalar; `None` for the mean squared error, or for
        integer targets the cross-entropy.
      apply: Function `apply(model, inputs)` that calls an NNX model or a tree of arrays; `None` to
        call the model itself. Tag the values inside a plain function with `tag`.
      rules: Rules for axes, as for `jaxmup.infer`.
      over: Kind of size, `"width"` or `"depth"`.
      seeds: Number of seeds, or the seeds themselves; each draws other initial values. The data are
        the same. Or `"auto"`: 4, and more until each row is decided, up to 32. Rows that fail
        narrowly get more too.
      largest: Size up to which sizes are doubled while rows deviate less the larger the model;
        `None` for none but `sizes`.
      steps: Number of steps of the optimizer, at least 2. Outputs are those that a step's gradient
        was taken at.
      tolerance: Largest effect of a finite size on an exponent; dimensionless. The default, 1/4, is
        as far from what is right as from the smallest mistake.
      confidence: Confidence of the intervals, below 1.

    Raises:
      TypeError: if `make_model` returns no model, or an argument is of another type.
      ValueError: if there are fewer than two sizes, two sizes or seeds are equal, `make_model`
        fails or ignores the size, the data run out, hold no examples or are not finite, or a number
        is out of range.

    Example:
      >>> import jax, jaxmup
      >>> from flax import nnx
      >>> def make_model(width, rngs):
      ...     zeros = nnx.initializers.zeros
      ...     readout = nnx.Linear(width, 2, use_bias=False, kernel_init=zeros, rngs=rngs)
      ...     return nnx.Sequential(nnx.Linear(4, width, rngs=rngs), nnx.relu, readout)
      >>> data = jax.random.normal(jax.random.key(0), (32, 4)), jnp.arange(32) % 2
      >>> adam = lambda scalings: jaxmup.optim.adam(2**-6, scalings)
      >>> coord_check(make_model, (64, 128, 256), data, adam).outcome
      'pass'

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix D.1.
      Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers",
      arXiv:2505.01618, Figure 7 (depth).
    """
    budget = Budget.of(sizes, seeds, largest, over)
    sizes = _sizes(AUTO_SIZES if sizes == "auto" else sizes)
    seeds = seeds_of(AUTO_SEEDS if seeds == "auto" else seeds)
    _check.one_of("over", over, get_args(Over))
    _check.size("steps", steps, at_least=2, remedy="Nothing has changed at the first.")
    _check.number("tolerance", tolerance, at_least=0, below=LEAST_MISTAKE)
    _check.number("confidence", confidence, above=0, below=1)
    check_kinds(make_tx, parametrization, loss_fn)
    batches = batches_of(data, steps)
    model = as_model(make_model, apply=apply)
    if model.inputs is None:
        model = dataclasses.replace(model, inputs=batches.first_call)
    loss_fn = loss_fn or default_loss
    training = Training(None, loss_fn, steps, (), batches.repeated)
    runs = Runs(batches.arrays, training, functools.partial(transform_of, make_tx))

    @functools.cache  # more seeds change neither
    def subjects_at(sizes: tuple[int, ...]) -> Sequence[Subject]:
        return subjects_of(model, sizes, batches.static, parametrization, rules)

    @functools.cache
    def theory_at(sizes: tuple[int, ...]) -> Theory:
        return _theory(over, sizes, subjects_at(sizes), loss_fn, batches)

    while True:
        subjects = subjects_at(sizes)
        measured = runs.of(subjects, sizes, seeds)
        theory = theory_at(sizes)
        check = CoordCheck(
            over=over,
            sizes=sizes,
            seeds=seeds,
            steps=steps,
            parametrization=str(theory.parametrization),
            family=theory.parametrization.family,
            follows_parametrization=model.asks_for("parametrization") or not subjects[0].declares,
            verdicts=tuple(judged(theory, measured, tolerance, confidence)),
            rows=tuple(_rows(sizes, seeds, measured)),
        )
        more = budget.more(check, tolerance)
        if more is None:
            break
        sizes, seeds = more
    if check.outcome == "fail" and not _is_control(theory.parametrization):
        ends = (subjects[sizes.index(min(sizes))], subjects[sizes.index(max(sizes))])
        found = findings_of(*ends, runs.transform_of(ends[1]))
        check = dataclasses.replace(check, findings=found)
    return check


def _is_control(parametrization: Parametrization) -> bool:
    """True of a rule that is meant to fail."""
    return parametrization.name == "standard" or parametrization.depth_alpha == 0


def _theory(
    over: Over,
    sizes: Sequence[int],
    subjects: Sequence[Subject],
    loss_fn: LossFn,
    batches: Batches,
) -> Theory:
    return Theory(
        tuple(map(float, sizes)),
        tuple(subject.spec_of for subject in subjects),
        tuple(subject.scaling_of for subject in subjects),
        subjects[0].parametrization,
        _signs(over, sizes, subjects, loss_fn, batches),
    )


def _signs(
    over: Over,
    sizes: Sequence[int],
    subjects: Sequence[Subject],
    loss_fn: LossFn,
    batches: Batches,
) -> Signs:
    ends = min(sizes), max(sizes)
    arrays = batches.arrays if batches.repeated else jax.tree.map(lambda x: x[0], batches.arrays)
    smallest, largest = (subjects[sizes.index(size)] for size in ends)
    names = list(smallest.spec_of)
    small = loss_program(smallest, loss_fn, arrays)
    if over == "depth":
        return signs_of([small], names)
    large = loss_program(largest, loss_fn, arrays)
    try:
        return signs_of([small, large], names, ends[1] / ends[0])
    except ValueError:  # Python does something else at each width
        return signs_of([small], names)._replace(gradients=dict.fromkeys(names, 0.5))


def transform_of(
    make_tx: optax.GradientTransformation | MakeTx, subject: Parametrized
) -> optax.GradientTransformation:
    """The transform of one model."""
    if isinstance(make_tx, optax.GradientTransformation):
        return make_tx
    made = make_tx(subject.scalings, **asked_for(make_tx, {"specs": subject.specs}))
    if not all(callable(getattr(made, name, None)) for name in ("init", "update")):
        raise TypeError(f"`make_tx` must return an optax transform. Got {made!r}.")
    return made


def default_loss(outputs: Array, targets: Array) -> Array:
    """Cross-entropy for integer targets, in nats, else the mean squared error."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
    return jnp.mean(jnp.square(outputs - targets))


def _rows(
    sizes: Sequence[int], seeds: Sequence[int], runs: Sequence[Sequence[Measured]]
) -> Iterable[dict[str, Any]]:
    """The measurements as plain dicts; a number that is not finite is `None`."""
    for size, run in zip(sizes, runs, strict=True):
        for one in run:
            for index in np.ndindex(one.rms.shape):
                seed, step, *layer = index
                if one.quantity == "eps" and step != 1:
                    continue
                yield {
                    "quantity": one.quantity,
                    "name": one.name,
                    "layer": layer[0] if layer else None,
                    "size": size,
                    "seed": seeds[seed],
                    "step": step,
                    "rms": _number(one.rms[index]),
                    "mean_abs": None if one.mean_abs is None else _number(one.mean_abs[index]),
                }


def _number(value: SupportsFloat) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """The sizes, once they are at least two different positive integers."""
    if not isinstance(sizes, Iterable) or isinstance(sizes, str):
        raise TypeError(f"`sizes` must be a sequence of integers. Got {sizes!r}. {_TRY_SIZES}")
    sizes = tuple(sizes)
    for one in sizes:
        _check.size("sizes", one, remedy=_TRY_SIZES)
    if len(set(sizes)) < max(2, len(sizes)):
        raise ValueError(
            "`sizes` must be at least two different positive integers: one has no slope. Got "
            f"{sizes}. {_TRY_SIZES}"
        )
    return tuple(map(int, sizes))


def seeds_of(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """The seeds, once they are different integers that fit in 32 bits."""
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        _check.size("seeds", seeds, remedy="Four are a good start.")
        return tuple(range(int(seeds)))
    seeds = tuple(seeds)
    for one in seeds:
        _check.size("seeds", one, at_least=0)
        _check.number("seeds", one, below=2**32)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            "`seeds` must hold at least one, and none twice: equal runs look like no noise. Got "
            f"{seeds}. Four are a good start."
        )
    return tuple(map(int, seeds))


def check_kinds(make_tx: object, parametrization: object, loss_fn: object) -> None:
    """Refuses arguments that both checks take and that are of another kind."""
    if not (isinstance(make_tx, optax.GradientTransformation) or callable(make_tx)):
        raise TypeError(
            "`make_tx` must be a function of scalings that returns an optax transform, or such a "
            f"transform. Got {make_tx!r}. Try `lambda scalings: jaxmup.optim.adam(0.01, scalings)`."
        )
    if not isinstance(parametrization, Parametrization | None):
        raise TypeError(
            f"`parametrization` must be a `Parametrization`. Got {parametrization!r}. Use "
            "`jaxmup.parametrization(name, optimizer)`."
        )
    if not (loss_fn is None or callable(loss_fn)):
        raise TypeError(f"`loss_fn` must be a function of outputs and targets. Got {loss_fn!r}.")


_TRY_SIZES = "Try (64, 128, 256, 512)."
