"""A task: a model's factory, batches to train on, and a loss."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup import _check

if TYPE_CHECKING:  # these load Flax, which reading a record need not
    from jaxmup._infer._rules import Rules
    from jaxmup._model import MakeModel, Model

Batch: TypeAlias = Any
"""A tree of arrays: all that a step, or the evaluation, sees of the data."""
Batches: TypeAlias = Iterable[Batch] | Callable[..., Batch | Iterable[Batch]]
"""The batches of a run, or a function that returns them, or one of them."""
LossFn: TypeAlias = Callable[[Any, Batch], Array]
"""A function of a model and a batch that returns a scalar."""


def cross_entropy(model: Callable[[Any], Array], batch: tuple[Any, Any]) -> Array:
    """Mean over all labels of the negative log likelihood, in nats.

    Args:
      model: Function from inputs to logits.
      batch: Inputs and integer labels; the logits have one axis more than the labels.

    Raises:
      ValueError: if they have not.
    """
    import optax  # loaded when something is trained, which reading a record is not

    inputs, labels = batch
    logits = model(inputs)
    if np.shape(logits)[:-1] != np.shape(labels) or np.ndim(logits) == 0:
        raise ValueError(
            "Logits must have one axis more than the labels. Got logits of shape "
            f"{np.shape(logits)} for labels of shape {np.shape(labels)}."
        )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@dataclasses.dataclass(frozen=True)
class Task:
    """A model of any width, the data it is trained on, and the loss.

    The functions get by name what they have parameters for: every hyper-parameter that a `Config`
    sweeps, `depth` and `batch_size`, and what is said below.

    Args:
      make_model: Function of the width that returns a model, or a `jaxmup.Model`. It may have
        parameters `rngs` or `key`, `parametrization` and `base_width`. With `parametrization`, a
        `Parametrization`, it builds layers of `jaxmup.nnx` or `jaxmup.linen` with it. Without, it
        returns any NNX or Linen module, or tree of arrays, as `jaxmup.infer` takes it, which finds
        out what grows, and `jaxmup.rescale` draws its initial values.
      batches: Function with parameters `seed` and `step`, either or none, that returns the batch
        of a step, or without `step`, an iterable of the batches of a run, in which case it may have
        `steps`; or an iterable, whose first batches every run gets. A batch is any tree of arrays;
        all have the same shapes.
      evaluation: Batch on which the loss at the end is taken.
      loss_fn: Function of a model and a batch that returns a scalar. It calls the model: a Linen
        module is a function of its inputs here, a tree of arrays is itself.
      inputs: Arguments that the model is called with, as for `jaxmup.infer`; `None` for the first
        part of `evaluation` for a Linen module or a `Model` with an `apply`, and for any other as
        `loss_fn` calls it on `evaluation`.
      rules: What axes do, by path, for `jaxmup.infer`.

    Raises:
      TypeError: if `loss_fn` is no function.

    Example:
      >>> from flax import nnx
      >>> import numpy as np
      >>> inputs, labels = np.ones((8, 4), np.float32), np.zeros(8, int)
      >>> def make_model(width, rngs):
      ...     hidden = nnx.Linear(4, width, rngs=rngs)
      ...     return nnx.Sequential(hidden, nnx.relu, nnx.Linear(width, 2, rngs=rngs))
      >>> task = Task(make_model, lambda seed, step: (inputs, labels), (inputs, labels))
    """

    make_model: "MakeModel | Model"
    batches: Batches
    evaluation: Batch
    loss_fn: LossFn = cross_entropy
    inputs: Any = None
    rules: "Rules | None" = None

    def __post_init__(self) -> None:
        if not callable(self.make_model):  # what is no function of the width is a `Model`
            _check.made("make_model", self.make_model, "Model", "jaxmup.Model")
        if not callable(self.loss_fn):
            raise TypeError(
                "`loss_fn` must be a function of a model and a batch that returns a scalar. Got "
                f"{self.loss_fn!r}. Leave it out for the cross-entropy."
            )


def replayable(source: Batches) -> Batches:
    """`Task.batches` that can be read once for each run: what an iterator has given is kept."""
    if not isinstance(source, Iterator):
        return source
    seen: list[Batch] = []

    def batches(steps: int) -> list[Batch]:
        seen.extend(itertools.islice(source, max(steps - len(seen), 0)))
        return seen

    return batches


def run_batches(source: Batches, seed: int, steps: int, offered: Mapping[str, Any]) -> Batch:
    """The batches of a run, stacked along a new first axis.

    They are checked here, before anything is trained on them.

    Args:
      source: Batches of a `Task`.
      seed: Seed of the run.
      steps: Number of batches.
      offered: Hyper-parameters that the source may ask for, by name.

    Raises:
      ValueError: naming the step, if the data run out, a batch has other shapes than the first, or
        it holds a number that is not finite.
    """
    found = list(itertools.islice(_batches_of_run(source, seed, steps, offered), steps))
    if len(found) < steps:
        raise ValueError(
            f"The data must last for {steps} steps. They ran out at step {len(found)} of seed "
            f"{seed}. Take fewer steps, or data that begin again."
        )
    for step, batch in enumerate(found):
        require_arrays(batch, f"batch of step {step} of seed {seed}")
    shapes = [jax.tree.map(np.shape, batch) for batch in found]
    for step in range(steps):
        if shapes[step] != shapes[0]:
            raise ValueError(
                f"All batches must have the same shapes. That of step {step} of seed {seed} has "
                f"{shapes[step]}, the first {shapes[0]}. Drop the last, smaller batch of an epoch."
            )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def first_batch(source: Batches, seed: int, steps: int, offered: Mapping[str, Any]) -> Batch:
    """The first of the batches that `run_batches` stacks."""
    for batch in _batches_of_run(source, seed, steps, offered):
        require_arrays(batch, f"batch of step 0 of seed {seed}")
        return batch
    return run_batches((), seed, steps, offered)  # which says that there are none


def require_arrays(batch: Batch, what: str) -> None:
    """Raises a `ValueError` unless a batch is a tree of arrays of finite numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError(f"Data must be trees of arrays. The {what} holds none: {batch!r}.")
    for path, leaf in leaves:
        at = f" at {jax.tree_util.keystr(path)}" if path else ""
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        try:
            leaf = np.asarray(leaf)
        except ValueError as error:  # a list of lists of different lengths
            raise ValueError(f"Data must be arrays. The {what} is none{at}: {error}") from None
        if not (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == bool):
            raise ValueError(
                f"Data must be arrays of numbers. The {what} holds what is none{at}, of dtype "
                f"{leaf.dtype}: {str(leaf)[:80]!r}."
            )
        if 0 in leaf.shape:
            raise ValueError(
                f"Data must hold examples. The {what} has none{at}, in an array of shape "
                f"{leaf.shape}."
            )
        if jnp.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            bad = np.argwhere(~np.isfinite(leaf))[0].tolist()
            raise ValueError(
                f"Data must be finite. The {what} holds {leaf[tuple(bad)]} at {bad}"
                f"{' of ' + jax.tree_util.keystr(path) if path else ''}. Leave such examples out."
            )


def _batches_of_run(
    source: Batches, seed: int, steps: int, offered: Mapping[str, Any]
) -> Iterable[Batch]:
    found: Any = _batches(source, {**offered, "seed": seed, "steps": steps})
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping):
        raise TypeError(
            "`batches` must be an iterable of batches, or a function that returns one, or with a "
            f"parameter `step` that returns a batch. Got a {type(found).__name__} for seed {seed}."
        )
    return found


def _batches(source: Batches, offered: Mapping[str, Any]) -> Iterable[Batch]:
    if not callable(source):
        return source
    from jaxmup._model._arguments import asked_for

    asked = asked_for(source, {**offered, "step": 0})
    return _step_by_step(source, asked) if "step" in asked else source(**asked)


def _step_by_step(source: Callable[..., Any], asked: Mapping[str, Any]) -> Iterator[Batch]:
    for step in itertools.count():
        try:
            batch = source(**{**asked, "step": step})
        except (StopIteration, IndexError):
            return
        yield batch
