"""The coordinate check of a model."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmup._check import listed
from jaxmup._families import Family
from jaxmup._inputs import Static, as_call, take_arrays
from jaxmup._model import as_model
from jaxmup._model._arguments import asked_for
from jaxmup._parametrization import Parametrization
from jaxmup.coord_check._expected import Expected, Theory
from jaxmup.coord_check._measure import Run, Training, measure, owner
from jaxmup.coord_check._sizes import Measured
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._subject import subjects as subjects_of
from jaxmup.coord_check._tags import LOGITS
from jaxmup.coord_check._verdict import TOLERANCE, Outcome, Verdict, overall, verdict

Over = Literal["width", "depth"]
MakeTx = optax.GradientTransformation | Callable[..., optax.GradientTransformation]

# Measured of outputs; all else is of parameters.
OF_OUTPUTS = ("activation", "activation_change", "logits", "logits_change")
# Judged as they start; what is learned is judged at the last step.
JUDGED_FIRST = ("activation", "logits", "weight")
# Not judged where the weight starts at zero: it is then made of steps, so that a wrong one cancels.
OVER_WEIGHT = ("update_ratio", "decay_ratio")
# Of the largest gradient of a model. One below it is zero but for rounding, as that of the bias of
# keys is, which moves all logits of a query alike; Adam makes steps of any size of it.
ROUNDED = 1e-5


@dataclasses.dataclass(frozen=True)
class CoordCheck:
    """What a coordinate check has found.

    Args:
      over: what grows.
      sizes: of the models.
      seeds: of the runs.
      steps: of each run.
      parametrization: under which they ran, as text.
      family: Family of the optimizer.
      follows_parametrization: whether the models would follow another one; those of jaxmup layers
        only do if `make_model` takes one.
      verdicts: one for each quantity of each module and parameter that is not zero everywhere, but
        for the ratios of a step and of decay to a weight that started at zero, and for parameters
        whose gradients are zero but for rounding.
      rows: everything that was measured, one row for each quantity, name, layer, size, seed and
        step, as plain dicts.
    """

    over: Over
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    parametrization: str
    family: Family
    follows_parametrization: bool
    verdicts: tuple[Verdict, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def outcome(self) -> Outcome:
        """`pass` if every row passes; `fail` if any fails."""
        return overall(self.verdicts)

    def of(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """The verdicts with this outcome."""
        return tuple(one for one in self.verdicts if one.outcome == outcome)


def coord_check(
    make_model: Callable[..., Any],
    sizes: Sequence[int],
    data: Any,
    make_tx: MakeTx,
    *,
    parametrization: Parametrization | None = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    apply: Callable[[Any, Any], Any] | None = None,
    rules: Mapping[Any, Any] | None = None,
    over: Over = "width",
    seeds: int | Sequence[int] = 4,
    steps: int = 4,
    tolerance: float = TOLERANCE,
    confidence: float = 0.95,
) -> CoordCheck:
    r"""Trains a model of several widths for a few steps: does everything grow as muP says?

    Recorded are, for every call of a module, its output and how it has changed on one fixed batch
    since initialization; the logits of attention; and for every parameter the effective weight W,
    its change since initialization, the gradient before and after `scale_gradients`, one step of
    the optimizer, what weight decay takes off, and what the gradient is beside the optimizer's eps.
    Of each the slope of log RMS over log width is compared with the exponent that theory expects.

    A row passes if the confidence interval of its slope is within `tolerance` of what is expected
    and excludes exponents that are off by 1/2. Its interval is that of the mean over seeds. What
    fails over three or more sizes passes if the larger half of them does: a part that fades as
    :math:`n^{-1/2}` hides an exponent from small sizes, but not a mistake from large ones. Some
    exponents are open: what is read out of features falls as :math:`n^{-1/2}` at initialization,
    since random signs add up, and not at all once it has learned. So do attention logits, and the
    gradients of queries, keys and of biases of the outputs. A readout that starts at zero leaves
    least open and the smallest effect of finite widths.

    Args:
      make_model: makes a model of a size, as for `jaxmup.infer`: an NNX module, a Linen module or a
        tree of arrays. If it has a parameter `rngs` or `key` it is given one, if it has a parameter
        `parametrization`, that. A model of jaxmup layers is taken as it is; any other gets the
        initial values of `jaxmup.rescale`, with the smallest size as base.
      sizes: widths, or numbers of layers, at least two different ones.
      data: one batch `(inputs, targets)`, for every step; or an iterable of one batch a step, of
        which the first is what outputs are compared on.
      make_tx: an optax transform, or what makes one for each size from its scalings, such as
        `lambda scalings: jaxmup.optim.adam(2**-7, scalings)`; if it has a parameter `specs` it is
        given those too. A large learning rate shows more.
      parametrization: the one under check; `None` for muP with Adam.
      loss_fn: of outputs and targets; `None` for the mean squared error, or for integer targets the
        cross-entropy.
      apply: calls an NNX model or a tree of arrays with the inputs; `None` to call the model. Tag
        the values inside a plain function with `tag`.
      rules: as for `jaxmup.infer`.
      over: what the sizes are.
      seeds: how many, or which; each draws other initial values. The data are the same.
      steps: of the optimizer, at least 2. Outputs are those that a step's gradient was taken at.
      tolerance: what a finite size may do to an exponent; dimensionless. The default, 1/4, is as
        far from what is right as from the smallest mistake.
      confidence: of the intervals, below 1.

    Raises:
      TypeError: if `make_model` returns no model, or an argument is of another type.
      ValueError: if there are fewer than two sizes, `make_model` fails or ignores the size, the
        data run out or are not finite, or a number is out of range.

    Example:
      >>> import jaxmup
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
    _require_numbers(sizes, steps, tolerance, confidence)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not seeds:
        raise ValueError("`seeds` must hold at least one. Got none. Four are a good start.")
    batches, static, repeated = _batches(data, steps)
    example = batches[0] if repeated else [leaf[0] for leaf in batches[0]]
    model = as_model(make_model, apply=apply)
    if model.inputs is None:
        model = dataclasses.replace(model, inputs=static.joined(example))
    subjects = subjects_of(model, sizes, static, parametrization, rules)
    training = functools.partial(
        Training, loss_fn=loss_fn or default_loss, steps=steps, seeds=seeds, repeated=repeated
    )
    # The largest model is commonly the last, and takes longest: it starts first.
    runs = measure(
        Run.of(subject, training(_transform(make_tx, subject)), batches)
        for subject in reversed(subjects)
    )[::-1]
    theory = Theory(
        tuple(map(float, sizes)),
        tuple(subject.spec_of for subject in subjects),
        tuple(subject.scaling_of for subject in subjects),
        subjects[0].parametrization,
        frozenset(
            owner(one.name).removesuffix(LOGITS).rstrip("/")
            for one in runs[0]
            if one.quantity == "logits"
        ),
    )
    return CoordCheck(
        over=over,
        sizes=tuple(sizes),
        seeds=seeds,
        steps=steps,
        parametrization=str(subjects[0].parametrization),
        family=subjects[0].parametrization.family,
        follows_parametrization=model.asks_for("parametrization") or not subjects[0].declares,
        verdicts=tuple(_verdicts(theory, runs, tolerance, confidence)),
        rows=tuple(_rows(sizes, seeds, runs)),
    )


def _transform(make_tx: MakeTx, subject: Subject) -> optax.GradientTransformation:
    """The optimizer of one model."""
    if isinstance(make_tx, optax.GradientTransformation):
        return make_tx
    return make_tx(subject.scalings, **asked_for(make_tx, {"specs": subject.specs}))


def default_loss(outputs: Any, targets: Any) -> Any:
    """Cross-entropy for integer targets, in nats, else the mean squared error."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
    return jnp.mean(jnp.square(outputs - targets))


def _verdicts(
    theory: Theory, runs: Sequence[Sequence[Measured]], tolerance: float, confidence: float
) -> Iterable[Verdict]:
    by_key = [{(one.quantity, one.name): one for one in run} for run in runs]
    zero = {
        name
        for quantity, name in by_key[0]
        if quantity == "weight" and not by_key[0][quantity, name].rms[:, 0].any()
    }
    rounded = set.intersection(*map(_rounded, runs))
    decays = any(one.quantity == "decay" and one.rms.any() for run in runs for one in run)
    for quantity, name in by_key[0]:
        if not all((quantity, name) in run for run in by_key):
            continue
        if quantity in OVER_WEIGHT and name in zero:
            continue
        if quantity not in OF_OUTPUTS and name in rounded:
            continue
        of_sizes = [run[quantity, name] for run in by_key]
        step = 0 if quantity in JUDGED_FIRST else of_sizes[0].rms.shape[1] - 1
        expected = _expected(theory, of_sizes, decays)
        for layer, values in _of_layers(of_sizes, step):
            if not values.any():
                continue
            slope, outcome = verdict(theory.sizes, values, expected, tolerance, confidence)
            means = tuple(map(float, values.mean(1)))
            yield Verdict(of_sizes[0].quantity, name, layer, step, slope, expected, outcome, means)


def _rounded(run: Sequence[Measured]) -> set[str]:
    """The parameters whose gradients are zero but for rounding, at every step of every seed."""
    sizes = {one.name: one.rms.max() for one in run if one.quantity == "gradient"}
    return {name for name, size in sizes.items() if size <= ROUNDED * max(sizes.values())}


def _expected(theory: Theory, of_sizes: Sequence[Measured], decays: bool) -> Expected:
    quantity, name = of_sizes[0].quantity, of_sizes[0].name
    if quantity == "activation_change":
        return theory.of_change(of_sizes)
    if quantity in ("activation", "logits"):
        return theory.of_output(of_sizes)
    if quantity == "logits_change":  # a few steps may not have aligned queries and keys
        return Expected.between(theory.of_output(of_sizes).low, 0.0)
    return theory.of_parameter(quantity, name, decays)


def _of_layers(of_sizes: Sequence[Measured], step: int) -> Iterable[tuple[int | None, np.ndarray]]:
    """The values of shape `(sizes, seeds)` of each layer of the model that has fewest.

    Of a deeper one, the layer at the same fraction of its depth.
    """
    if not of_sizes[0].layered:
        yield None, np.stack([one.rms[:, step] for one in of_sizes]).astype(float)
        return
    fewest = min(one.rms.shape[2] for one in of_sizes)
    for layer in range(fewest):
        same = [(layer + 1) * one.rms.shape[2] // fewest - 1 for one in of_sizes]
        values = [one.rms[:, step, i] for one, i in zip(of_sizes, same, strict=True)]
        yield layer, np.stack(values).astype(float)


def _rows(
    sizes: Sequence[int], seeds: Sequence[int], runs: Sequence[Sequence[Measured]]
) -> Iterable[dict[str, Any]]:
    """Everything that was measured, as plain dicts; a number that is not finite is `None`."""
    for size, run in zip(sizes, runs, strict=True):
        for one in run:
            for index in np.ndindex(one.rms.shape):
                seed, step, *layer = index
                if one.quantity == "eps" and step != one.rms.shape[1] - 1:
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


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _require_numbers(sizes: Sequence[int], steps: int, tolerance: float, confidence: float) -> None:
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes) or min(sizes) < 1:
        raise ValueError(
            "`sizes` must be at least two different positive integers: one has no slope. Got "
            f"{tuple(sizes)}. Try (64, 128, 256, 512)."
        )
    if steps < 2:
        raise ValueError(
            f"`steps` must be at least 2: nothing has changed at the first. Got {steps}."
        )
    if not 0 <= tolerance < 0.5:
        raise ValueError(f"`tolerance` must be from 0 to below 0.5. Got {tolerance}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1. Got {confidence}.")


def _batches(data: Any, steps: int) -> tuple[Any, Static, bool]:
    """The arrays of the batch of every step, or those of all steps stacked.

    Beside them the arguments of a call without their arrays, and which of the two it is.
    """
    if isinstance(data, tuple):
        batch, static = _taken_apart(data, 0)
        return batch, static, True
    if not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be a batch `(inputs, targets)` or an iterable of such batches. Got "
            f"{type(data).__name__}."
        )
    taken = [_taken_apart(batch, i) for i, batch in enumerate(itertools.islice(data, steps))]
    if len(taken) < steps:
        raise ValueError(
            f"`data` must hold a batch for each of the {steps} steps. It ran out after "
            f"{len(taken)}. Pass one batch as a tuple to train on it at every step."
        )
    batches, statics = zip(*taken, strict=True)
    shapes = [jax.tree.map(np.shape, batch) for batch in batches]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"All batches must have one shape. Got {listed(map(str, shapes))}")
    if any(static != statics[0] for static in statics):
        flags = listed(str(static.values) for static in statics)
        raise ValueError(f"All batches must have the same flags. Got {flags}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches), statics[0], False


def _taken_apart(batch: Any, step: int) -> tuple[tuple[list[Any], Any], Static]:
    """The arrays of a batch, those of its inputs as a list, and what is no array of the inputs."""
    _require_batch(batch, step)
    inputs, targets = batch
    arrays, static = take_arrays(as_call(inputs))
    return jax.tree.map(jnp.asarray, (arrays, targets)), static


def _require_batch(batch: Any, step: int) -> None:
    if not (isinstance(batch, tuple) and len(batch) == 2):
        raise TypeError(f"A batch must be a tuple `(inputs, targets)`. Got {type(batch).__name__}.")
    for leaf in jax.tree.leaves(batch):
        values = np.asarray(leaf)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise ValueError(
                f"The data must be finite. Batch {step} has {np.sum(~np.isfinite(values))} entries "
                f"that are not, in an array of shape {values.shape}."
            )
