"""What is trained on what: a model's factory, batches, and a loss."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

if TYPE_CHECKING:  # these load Flax, which reading a record need not
    from jaxmup._infer._rules import Rules
    from jaxmup._model import MakeModel, Model

LossFn = Callable[[Any, Any], Array]


def cross_entropy(model: Callable[[Any], Array], batch: tuple[Any, Any]) -> Array:
    """Mean over all labels of the negative log likelihood, in nats.

    Args:
      model: from inputs to logits.
      batch: inputs and integer labels; the logits have one axis more than the labels.
    """
    import optax  # loaded when something is trained, which reading a record is not

    inputs, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained on what.

    The functions get by name what they have parameters for: every hyper-parameter that a `Config`
    sweeps, `depth` and `batch_size`, and what is said below.

    Args:
      make_model: returns a model of some width, its first argument. It may have parameters `rngs`
        or `key`, `parametrization` and `base_width`. With `parametrization`, a `Parametrization`,
        it builds layers of `jaxmup.nnx` or `jaxmup.linen` with it. Without, it returns any NNX or
        Linen module, or tree of arrays, as `jaxmup.infer` takes it, which finds out what grows, and
        `jaxmup.rescale` draws its initial values.
      batches: a function with parameters `seed` and `step`, either or none, that returns the batch
        of a step, or without `step`, an iterable of the batches of a run, in which case it may have
        `steps`; or an iterable, whose first batches every run gets. A batch is any tree of arrays;
        all have the same shapes.
      evaluation: the batch on which the loss at the end is taken.
      loss_fn: of a model on a batch, a scalar. It calls the model: a Linen module is a function of
        its inputs here, a tree of arrays is itself.
      inputs: what a Linen module is called with, as for `jaxmup.infer`; `None` for the first part
        of `evaluation`.
      rules: as for `jaxmup.infer`.

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
    batches: Any
    evaluation: Any
    loss_fn: LossFn = cross_entropy
    inputs: Any = None
    rules: "Rules | None" = None


def replayable(source: Any) -> Any:
    """`Task.batches` that can be read once for each run: what an iterator has given is kept."""
    if not isinstance(source, Iterator):
        return source
    seen: list[Any] = []

    def batches(steps: int) -> list[Any]:
        seen.extend(itertools.islice(source, max(steps - len(seen), 0)))
        return seen

    return batches


def run_batches(source: Any, seed: int, steps: int, offered: Mapping[str, Any]) -> Any:
    """The batches of a run, stacked along a new first axis.

    They are checked here, before anything is trained on them.

    Args:
      source: `Task.batches`.
      seed: of the run.
      steps: number of batches.
      offered: hyper-parameters that the source may ask for.

    Raises:
      ValueError: naming the step, if the data run out, a batch has other shapes than the first, or
        it holds a number that is not finite.
    """
    found = list(
        itertools.islice(_batches(source, {**offered, "seed": seed, "steps": steps}), steps)
    )
    if len(found) < steps:
        raise ValueError(
            f"The data must last for {steps} steps. They ran out at step {len(found)} of seed "
            f"{seed}. Take fewer steps, or data that begin again."
        )
    shapes = [jax.tree.map(np.shape, batch) for batch in found]
    for step, batch in enumerate(found):
        if shapes[step] != shapes[0]:
            raise ValueError(
                f"All batches must have the same shapes. That of step {step} of seed {seed} has "
                f"{shapes[step]}, the first {shapes[0]}. Drop the last, smaller batch of an epoch."
            )
        require_finite(batch, f"batch of step {step} of seed {seed}")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def require_finite(batch: Any, what: str) -> None:
    """Raises a `ValueError` if a number in a tree of arrays is NaN or infinite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        leaf = np.asarray(leaf)
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            bad = np.argwhere(~np.isfinite(leaf))[0].tolist()
            raise ValueError(
                f"Data must be finite. The {what} holds {leaf[tuple(bad)]} at {bad}"
                f"{' of ' + jax.tree_util.keystr(path) if path else ''}. Leave such examples out."
            )


def _batches(source: Any, offered: Mapping[str, Any]) -> Any:
    if not callable(source):
        return source
    from jaxmup._model._arguments import asked_for

    asked = asked_for(source, {**offered, "step": 0})
    return _step_by_step(source, asked) if "step" in asked else source(**asked)


def _step_by_step(source: Callable[..., Any], asked: Mapping[str, Any]) -> Iterator[Any]:
    for step in itertools.count():
        try:
            batch = source(**{**asked, "step": step})
        except (StopIteration, IndexError):
            return
        yield batch
