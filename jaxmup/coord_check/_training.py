"""The training runs of all seeds of a model as one program, with sums over all that is recorded."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxmup._model import as_loss
from jaxmup._program import ClosedJaxpr, one_order_of_products
from jaxmup._spec import ParamSpec
from jaxmup._tree import Gradients, Params, PathName, Tree, Updates, leaves_by_path
from jaxmup.coord_check._batches import Batch
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._sums import Packed, Quantity, Sums
from jaxmup.coord_check._tags import Found, collecting

# Far below any eps, so that the optimizer's answer is proportional to the gradient over its eps.
VANISHING = 1e-12
# Below any logit of a model that has learned nothing, and above what masks write: -1e4 and less.
MASKED = -5e3


@dataclasses.dataclass(frozen=True)
class Training:
    """The training run of a model.

    Args:
      tx: Transform that turns gradients into updates; `None` where it depends on the model.
      loss_fn: Loss of outputs and targets, a scalar.
      steps: Number of steps of the optimizer.
      seeds: Seeds of the runs, one for each.
      repeated: Whether every step has the same batch.
    """

    tx: optax.GradientTransformation | None
    loss_fn: Callable[[Tree, Tree], Array]
    steps: int
    seeds: tuple[int, ...]
    repeated: bool


def loss_program(
    subject: Subject, loss_fn: Callable[[Tree, Tree], Array], batch: Batch
) -> ClosedJaxpr:
    """The loss as a program, with tags inside: from parameters, the rest and a batch.

    Args:
      subject: Model.
      loss_fn: Loss of outputs and targets.
      batch: One batch.
    """

    def loss(params: Params, rest: Tree, batch: Batch) -> Array:
        return as_loss(loss_fn(subject.forward(params, rest, batch[0])[0], batch[1]))

    drawn = jax.eval_shape(subject.draw, jax.eval_shape(lambda: jax.random.key(0)))
    with one_order_of_products():
        return jax.make_jaxpr(loss)(*drawn, batch)


def run_seeds(
    subject: Subject, training: Training, together: bool, seeds: Array, batches: Batch
) -> Packed:
    """Trains the model of every seed: the sums of each step, with a leading axis of seeds.

    Args:
      subject: Model.
      training: Settings of the training.
      together: Whether all seeds run at once, or one after the other.
      seeds: Seeds, uint32.
      batches: Batch of every step, or those of all steps stacked.
    """

    def draw(seed: Array) -> tuple[Params, Tree]:
        # JAX's default generator takes XLA longer to compile than all the rest.
        return subject.draw(jax.random.key(seed, impl="unsafe_rbg"))

    def train(drawn: tuple[Params, Tree]) -> Packed:
        return _train(subject, training, *drawn, batches)

    if not together:
        return jax.lax.map(lambda seed: train(draw(seed)), seeds)
    # In a batch, a key of this generator would give other numbers.
    return jax.vmap(train)(jax.lax.map(draw, seeds))


def _train(
    subject: Subject, training: Training, params: Params, rest: Tree, batches: Batch
) -> Packed:
    tx = training.tx
    assert tx is not None
    probe = batches if training.repeated else jax.tree.map(lambda leaf: leaf[0], batches)
    seen = collecting(subject.forward, params, rest, probe[0])
    _, shapes = jax.eval_shape(seen, params, rest, probe[0])
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    layers = _layered(shapes, subject.spec_of)
    decay_shows = _decay_shows(subject)

    def objective(params: Params, rest: Tree, batch: Batch) -> Any:
        (outputs, rest), found = seen(params, rest, batch[0])
        return as_loss(training.loss_fn(outputs, batch[1])), (rest, found)

    def step(carry: Tree, now: Tree) -> Tree:
        params, rest, state, first = carry
        t, batch = (now, batches) if training.repeated else now
        # The first step's values are carried, so that the model is compiled once.
        gradient = jax.value_and_grad(objective, has_aux=True)
        (_, (new_rest, found)), gradients = gradient(params, rest, batch)
        if not training.repeated:
            _, found = seen(params, rest, probe[0])
        first = jax.tree.map(lambda old, new: jnp.where(t == 0, new, old), first, found)
        updates, new_state = tx.update(gradients, state, params)
        nothing = jax.tree.map(jnp.zeros_like, params)
        # Decay is proportional to the weight: what the optimizer does without a weight is its step.
        moved = tx.update(gradients, state, nothing)[0] if decay_shows else updates
        eps = jax.lax.cond(
            t == 1,  # the step that it is judged at
            lambda: _answers(tx, params, gradients, nothing),
            lambda: {name: jnp.zeros(2) for name in leaves_by_path(params)},
        )
        new = optax.apply_updates(params, updates)
        trees = _StepTrees(start, params, new, gradients, updates, moved)
        sums = [*_of_outputs(found, first, layers), *_of_parameters(trees, layers, decay_shows)]
        return (new, new_rest, new_state, first), Packed.of((sums, eps))

    start = params
    times = jnp.arange(training.steps)
    xs = times if training.repeated else (times, batches)
    return jax.lax.scan(step, (params, rest, tx.init(params), first), xs)[1]


def _decay_shows(subject: Subject) -> bool:
    """True if a step without the weight is the step without weight decay.

    It is not where the step itself is proportional to the weight, as LAMB's is.
    """
    return all(scaling.family.weight_degree == 0 for scaling in subject.scaling_of.values())


def _layered(found: Sequence[Found], specs: Mapping[PathName, ParamSpec]) -> frozenset[str]:
    """The modules of which a scan has stacked one for each layer, by what is before `[` or `#`.

    A recurrent network scans over time: then there is no axis of layers in the parameters.
    """

    def stacked(one: Found) -> bool:
        module = owner(one.name)
        inside = [spec for name, spec in specs.items() if name.startswith(f"{module}/")]
        inside = inside or [s for n, s in specs.items() if n.startswith(f"{_above(module)}/")]
        return one.scanned > 0 and any(
            spec.axes and spec.axes[0].kind == "batch" and spec.axes[0].size == one.value.shape[0]
            for spec in inside
        )

    return frozenset(owner(one.name) for one in found if stacked(one))


def owner(name: str) -> str:
    """The path of the module that a found value is of.

    Example:
      >>> owner("rnn/cell[0][1]#2")
      'rnn/cell'
    """
    return re.sub(r"(\[.*|#\d+)$", "", name)


def _above(name: str) -> str:
    return name.rpartition("/")[0]


def _of_outputs(
    found: Sequence[Found], first: Sequence[Found], layers: frozenset[str]
) -> Iterable[Sums]:
    """The sums of every output of a module, and of its change since the first step."""
    for one, at_start in zip(found, first, strict=True):
        kind: tuple[Quantity, Quantity] = ("activation", "activation_change")
        where = None
        if one.is_logits:
            kind = ("logits", "logits_change")
            where = _not_masked(at_start.value)
        name, facts = one.name or "output", (one.shape, owner(one.name) in layers, where)
        yield Sums.of(kind[0], name, one.value, *facts)
        yield Sums.of(kind[1], name, one.value - at_start.value, *facts)


def _not_masked(logits: Array) -> Array:
    """True of the entries of logits, as they are at initialization, that no mask wrote.

    A mask writes, or adds, anything from -1e4 to minus infinity. Where all are so low, they are
    what the model makes of itself.
    """
    kept = logits > MASKED
    return kept | ~jnp.any(kept)


class _StepTrees(NamedTuple):
    """One step of the optimizer: a tree of arrays each, like the parameters.

    Args:
      start: Parameters before the first step.
      params: Parameters before the step.
      new: Parameters after the step.
      gradients: Gradients of the loss.
      updates: Difference that the optimizer makes.
      moved: Part of it that is not weight decay.
    """

    start: Params
    params: Params
    new: Params
    gradients: Gradients
    updates: Updates
    moved: Updates


def _of_parameters(trees: _StepTrees, layers: frozenset[str], decay_shows: bool) -> Iterable[Sums]:
    """The sums of each parameter as it is stored, and of what happens to it."""
    by_name = [leaves_by_path(tree) for tree in trees]
    for name in by_name[0]:
        w0, w, w1, g, u, moved = (leaves[name] for leaves in by_name)
        facts = (w.shape, _above(name) in layers)
        yield Sums.of("weight", name, w, *facts)
        yield Sums.of("weight_change", name, w1 - w0, *facts)
        yield Sums.of("gradient", name, g, *facts)
        yield Sums.of("update", name, moved, *facts)
        if decay_shows:
            yield Sums.of("decay", name, u - moved, *facts)


def _answers(
    tx: optax.GradientTransformation, params: Params, gradients: Gradients, nothing: Params
) -> dict[PathName, Array]:
    """The size of the gradient of each parameter beside the optimizer's eps, up to a constant.

    The optimizer is asked: where the gradient vanishes beside eps, so does the step, in proportion
    to `gradient / eps`. One that has no eps takes steps of the same size still, and one that is
    proportional to the gradient anyway answers 1.

    Returns:
      The sums of squares of two answers: to the gradient, and to one that vanishes.
    """

    def answer(factor: Array) -> dict[PathName, Array]:
        scaled = jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradients)
        updates, _ = tx.update(scaled, tx.init(params), nothing)
        return {
            name: Sums.of("eps", name, u.astype(jnp.float32) / factor, u.shape, False).squares
            for name, u in leaves_by_path(updates).items()
        }

    return jax.vmap(answer)(jnp.array([1.0, VANISHING]))
