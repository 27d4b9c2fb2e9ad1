"""The sizes of everything in a training run: one compiled program for all seeds of a model size."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmup._spec import ParamSpec
from jaxmup._tree import leaves_by_path
from jaxmup.coord_check._sizes import Measured, Packed, Quantity, Sums
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._tags import Found, collecting

# Far below any eps, so that the optimizer's answer is proportional to the gradient over its eps.
VANISHING = 1e-12
# What two ways of computing one update differ by in float32 at most, relative to it.
ROUNDING = 5e-7


@dataclasses.dataclass(frozen=True)
class Training:
    """How the models train.

    Args:
      tx: the transform of a model.
      loss_fn: of outputs and targets, a scalar.
      steps: of the optimizer.
      seeds: one run for each.
      repeated: whether every step has the same batch.
    """

    tx: optax.GradientTransformation
    loss_fn: Callable[[Any, Any], Array]
    steps: int
    seeds: tuple[int, ...]
    repeated: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """The run of every seed of the model of one size, traced, but neither compiled nor started.

    Args:
      subject: the model.
      lowered: the program of its run.
      arguments: what that is called with.
    """

    subject: Subject
    lowered: jax.stages.Lowered
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, subject: Subject, training: Training, batches: Any) -> "Run":
        """The run of a model.

        Args:
          subject: the model.
          training: how it trains.
          batches: `(inputs, targets)`; with a leading axis of steps unless the batch is repeated.
        """
        # One model keeps a CPU busy and fits its cache; an accelerator runs all at once.
        run = partial(_run, subject, training, jax.default_backend() != "cpu")
        arguments = (jnp.asarray(training.seeds, jnp.uint32), batches)
        return cls(subject, jax.jit(run).lower(*arguments), arguments)

    def measured(self) -> list[Measured]:
        """Compiles and runs it: what was measured."""
        sums, eps = self.lowered.compile()(*self.arguments).unpacked()
        return list(_effective(self.subject, sums, eps))


def measure(runs: Iterable[Run]) -> list[list[Measured]]:
    """What each run measured, in order.

    While Python traces the next model, XLA compiles and runs those before it in other threads.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(Run.measured, runs))


def _run(
    subject: Subject, training: Training, together: bool, seeds: Array, batches: Any
) -> Packed:
    def draw(seed: Array) -> tuple[Any, Any]:
        # JAX's default generator takes XLA longer to compile than all the rest.
        return subject.draw(jax.random.key(seed, impl="unsafe_rbg"))

    def train(drawn: tuple[Any, Any]) -> Packed:
        return _train(subject, training, *drawn, batches)

    if not together:
        return jax.lax.map(lambda seed: train(draw(seed)), seeds)
    # In a batch, a key of this generator would give other numbers.
    return jax.vmap(train)(jax.lax.map(draw, seeds))


def _train(subject: Subject, training: Training, params: Any, rest: Any, batches: Any) -> Packed:
    tx = training.tx
    probe = batches if training.repeated else jax.tree.map(lambda leaf: leaf[0], batches)
    seen = collecting(subject.forward, params, rest, probe[0])
    _, shapes = jax.eval_shape(seen, params, rest, probe[0])
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    layers = _layered(shapes, subject.spec_of)

    def objective(params: Any, rest: Any, batch: Any) -> Any:
        (outputs, rest), found = seen(params, rest, batch[0])
        return training.loss_fn(outputs, batch[1]), (rest, found)

    def step(carry: Any, now: Any) -> Any:
        params, rest, state, first = carry
        t, batch = (now, batches) if training.repeated else now
        # The first step's values are carried, so that the model is compiled once.
        gradient = jax.value_and_grad(objective, has_aux=True)
        (_, (new_rest, found)), gradients = gradient(params, rest, batch)
        if not training.repeated:
            _, found = seen(params, rest, probe[0])
        first = jax.tree.map(lambda old, new: jnp.where(t == 0, new, old), first, found)
        updates, new_state = tx.update(gradients, state, params)
        step_of = _Step(subject, tx, params, gradients, state, updates, t == training.steps - 1)
        new = optax.apply_updates(params, updates)
        sums = [*_activations(found, first, layers), *step_of.sums(start, new, layers)]
        return (new, new_rest, new_state, first), Packed.of((sums, step_of.eps))

    start = params
    times = jnp.arange(training.steps)
    xs = times if training.repeated else (times, batches)
    return jax.lax.scan(step, (params, rest, tx.init(params), first), xs)[1]


def _layered(found: Sequence[Found], specs: Mapping[str, ParamSpec]) -> frozenset[str]:
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


def _above(module: str) -> str:
    return module.rpartition("/")[0]


def _activations(
    found: Sequence[Found], first: Sequence[Found], layers: frozenset[str]
) -> Iterable[Sums]:
    for one, at_start in zip(found, first, strict=True):
        kind: tuple[Quantity, Quantity] = ("activation", "activation_change")
        where = None
        if one.is_logits:
            kind = ("logits", "logits_change")
            where = one.value > 0.3 * float(jnp.finfo(one.value.dtype).min)  # not masked
        name, facts = one.name or "output", (one.shape, owner(one.name) in layers, where)
        yield Sums.of(kind[0], name, one.value, *facts)
        yield Sums.of(kind[1], name, one.value - at_start.value, *facts)


class _Step:
    """One step of the optimizer, taken apart."""

    def __init__(
        self,
        subject: Subject,
        tx: optax.GradientTransformation,
        params: Any,
        gradients: Any,
        state: Any,
        updates: Any,
        is_last: Array,
    ):
        self.subject = subject
        self.params, self.gradients, self.updates = params, gradients, updates
        nothing = jax.tree.map(jnp.zeros_like, params)
        family = next(iter(subject.scaling_of.values())).family
        self.decays = family.weight_degree == 0
        # What is left without the weight is not decay.
        self.moved = tx.update(gradients, state, nothing)[0] if self.decays else updates
        self.eps = jax.lax.cond(
            is_last,
            lambda: _eps(tx, params, gradients, nothing),
            lambda: {name: jnp.zeros(2) for name in leaves_by_path(params)},
        )

    def sums(self, start: Any, new: Any, layers: frozenset[str]) -> Iterable[Sums]:
        """Of each parameter as it is stored, and of what happens to it."""
        trees = (start, self.params, new, self.gradients, self.updates, self.moved)
        by_name = [leaves_by_path(tree) for tree in trees]
        for name in by_name[0]:
            w0, w, w1, g, u, moved = (leaves[name] for leaves in by_name)
            facts = (w.shape, _above(name) in layers)
            yield Sums.of("weight", name, w, *facts)
            yield Sums.of("weight_change", name, w1 - w0, *facts)
            yield Sums.of("gradient", name, g, *facts)
            yield Sums.of("update", name, moved, *facts)
            if self.decays:
                yield Sums.of("decay", name, u - moved, *facts)


def _effective(
    subject: Subject, stored: Iterable[Sums], eps: Mapping[str, np.ndarray]
) -> Iterable[Measured]:
    """The sizes of effective weights and of their ratios, from those of the stored ones."""
    scalings = subject.scaling_of
    rms: dict[tuple[str, str], np.ndarray] = {}
    for one in (sums.measured() for sums in stored):
        rms[one.quantity, one.name] = one.rms
        match one.quantity:
            case "weight" | "weight_change":
                yield _times(one, scalings[one.name].multiplier)
            case "gradient":
                yield one
                yield dataclasses.replace(
                    _times(one, scalings[one.name].grad), quantity="scaled_gradient"
                )
            case "update":
                yield _times(one, scalings[one.name].multiplier)
                ratio = _over(one.rms, rms["weight", one.name])
                yield dataclasses.replace(one, quantity="update_ratio", rms=ratio, mean_abs=None)
                yield _beside_eps(one, eps[one.name])
            case "decay":
                weight, update = (rms[quantity, one.name] for quantity in ("weight", "update"))
                decay = np.where(one.rms > ROUNDING * update, one.rms, 0)
                yield dataclasses.replace(one, rms=_over(decay, weight), mean_abs=None)
                yield dataclasses.replace(
                    one, quantity="decay_ratio", rms=_over(decay, update), mean_abs=None
                )
            case _:
                yield one


def _beside_eps(update: Measured, answers: np.ndarray) -> Measured:
    """What the answers of `_eps` say of a parameter, the same for each of its layers."""
    ratio = np.sqrt(_over(answers[..., 1], answers[..., 0]))
    ratio = np.broadcast_to(ratio[..., None], update.rms.shape) if update.layered else ratio
    return dataclasses.replace(update, quantity="eps", rms=ratio, mean_abs=None)


def _times(one: Measured, factor: float) -> Measured:
    mean_abs = None if one.mean_abs is None else factor * one.mean_abs
    return dataclasses.replace(one, rms=factor * one.rms, mean_abs=mean_abs)


def _over(size: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`size / other`; 0 where there is nothing to compare with."""
    return np.where(other > 0, size / np.where(other > 0, other, 1), 0)


def _eps(tx: Any, params: Any, gradients: Any, nothing: Any) -> dict[str, Array]:
    """How large the gradient of each parameter is beside the optimizer's eps, up to a constant.

    The optimizer is asked: where the gradient vanishes beside eps, so does the step, in proportion
    to `gradient / eps`. One that has no eps takes steps of the same size still, and one that is
    proportional to the gradient anyway answers 1.

    Returns:
      The sums of squares of two answers: to the gradient, and to one that vanishes.
    """

    def answer(factor: Array) -> dict[str, Array]:
        scaled = jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradients)
        updates, _ = tx.update(scaled, tx.init(params), nothing)
        return {
            name: Sums.of("eps", name, u.astype(jnp.float32) / factor, u.shape, False).squares
            for name, u in leaves_by_path(updates).items()
        }

    return jax.vmap(answer)(jnp.array([1.0, VANISHING]))
