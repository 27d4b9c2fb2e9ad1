"""The sizes of everything in a training run: one compiled program for all seeds of a model size."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmup._families import FAMILIES
from jaxmup._spec import ParamSpec
from jaxmup._tree import leaves_by_path
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._tags import Found, collecting

Quantity = Literal[
    "activation",
    "activation_change",
    "logits",
    "logits_change",
    "weight",
    "weight_change",
    "gradient",
    "scaled_gradient",
    "update",
    "update_ratio",
    "decay",
    "decay_ratio",
    "eps",
]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

# Far below any eps, so that the optimizer's answer is proportional to the gradient over its eps.
VANISHING = 1e-12
# What two ways of computing one update differ by in float32 at most, relative to it.
ROUNDING = 5e-7


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rms", "mean_abs"],
    meta_fields=["quantity", "name", "shape", "layered"],
)
@dataclasses.dataclass(frozen=True)
class Measured:
    """One quantity of a module or parameter.

    Args:
      quantity: what was measured.
      name: of the module or parameter.
      shape: of one of its values.
      layered: whether there is one for each layer of a scanned stack; then the last axis is theirs.
      rms: root mean square, of shape `(seeds, steps)` or `(seeds, steps, layers)`; float32. An
        array of JAX inside the compiled run, of NumPy outside.
      mean_abs: mean absolute value, likewise; `None` for ratios.
    """

    quantity: Quantity
    name: str
    shape: tuple[int, ...]
    layered: bool
    rms: Any
    mean_abs: Any = None


@partial(
    jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["measured", "shapes"]
)
@dataclasses.dataclass(frozen=True)
class _Packed:
    """Many small arrays as one: XLA takes long to compile a loop that has hundreds of results.

    Args:
      values: all their entries, in order, on the last axis.
      measured: their tree.
      shapes: of each, without the axes before the last.
    """

    values: Array
    measured: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, measured: Sequence[Measured]) -> "_Packed":
        leaves, tree = jax.tree.flatten(measured)
        values = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
        return cls(values, tree, tuple(leaf.shape for leaf in leaves))

    def unpacked(self) -> list[Measured]:
        """What was packed, as NumPy arrays."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = np.split(np.asarray(self.values), ends[:-1], axis=-1)
        leaves = [
            part.reshape(*part.shape[:-1], *shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.measured, leaves)


@dataclasses.dataclass(frozen=True)
class Training:
    """How the models train.

    Args:
      optimizer: the transform of a model.
      loss: of outputs and targets, a scalar.
      steps: of the optimizer.
      seeds: one run for each.
      repeated: whether every step has the same batch.
    """

    optimizer: optax.GradientTransformation
    loss: Callable[[Any, Any], Array]
    steps: int
    seeds: tuple[int, ...]
    repeated: bool


def measure(subject: Subject, training: Training, batches: Any) -> tuple[list[Measured], Array]:
    """Trains the model of one size with every seed.

    Args:
      subject: the model.
      training: how it trains.
      batches: `(inputs, targets)`; with a leading axis of steps unless the batch is repeated.

    Returns:
      What was measured, and the losses of shape `(seeds, steps)`.
    """
    run = jax.jit(partial(_run, subject, training))
    packed, losses = run(jnp.asarray(training.seeds, jnp.uint32), batches)
    return list(_effective(subject, packed.unpacked())), losses


def _run(subject: Subject, training: Training, seeds: Array, batches: Any) -> Any:
    # Initial values are drawn one seed after the other: in a batch, a key of this generator gives
    # other numbers. JAX's default generator takes XLA longer to compile than all the rest.
    params, rest = jax.lax.map(
        lambda seed: subject.draw(jax.random.key(seed, impl="unsafe_rbg")), seeds
    )
    train = partial(_train, subject, training)
    return jax.vmap(train, in_axes=(0, 0, None))(params, rest, batches)


def _train(subject: Subject, training: Training, params: Any, rest: Any, batches: Any) -> Any:
    tx = training.optimizer
    probe = batches if training.repeated else jax.tree.map(lambda leaf: leaf[0], batches)
    seen = collecting(subject.forward, params, rest, probe[0])
    _, shapes = jax.eval_shape(seen, params, rest, probe[0])
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    layers = _layered(shapes, subject.spec_of)

    def objective(params: Any, rest: Any, batch: Any) -> Any:
        (outputs, rest), found = seen(params, rest, batch[0])
        return training.loss(outputs, batch[1]), (rest, found)

    def step(carry: Any, now: Any) -> Any:
        params, rest, state, first = carry
        t, batch = (now, batches) if training.repeated else now
        # The first step's values are carried, so that the model is compiled once.
        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, (new_rest, found)), gradients = gradient(params, rest, batch)
        if not training.repeated:
            _, found = seen(params, rest, probe[0])
        first = jax.tree.map(lambda old, new: jnp.where(t == 0, new, old), first, found)
        updates, new_state = tx.update(gradients, state, params)
        step_of = _Step(subject, tx, params, gradients, state, updates, t == training.steps - 1)
        new = optax.apply_updates(params, updates)
        measured = [
            *_activations(found, first, layers),
            *step_of.measured(start, new, layers),
        ]
        return (new, new_rest, new_state, first), (_Packed.of(measured), loss)

    start = params
    times = jnp.arange(training.steps)
    xs = times if training.repeated else (times, batches)
    _, (measured, losses) = jax.lax.scan(step, (params, rest, tx.init(params), first), xs)
    return measured, losses


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


def _sizes(
    quantity: Quantity, name: str, values: Any, shape: Any, layered: bool, where: Any = None
) -> Measured:
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    axes = tuple(range(1 if layered else 0, values.ndim))
    rms = jnp.sqrt(jnp.mean(jnp.square(values), axes, where=where))
    return Measured(
        quantity, name, shape, layered, rms, jnp.mean(jnp.abs(values), axes, where=where)
    )


def _activations(
    found: Sequence[Found], first: Sequence[Found], layers: frozenset[str]
) -> list[Measured]:
    measured = []
    for one, at_start in zip(found, first, strict=True):
        kind: tuple[Quantity, Quantity] = ("activation", "activation_change")
        where = None
        if one.is_logits:
            kind = ("logits", "logits_change")
            where = one.value > 0.3 * float(jnp.finfo(one.value.dtype).min)  # not masked
        facts = (one.shape, owner(one.name) in layers, where)
        measured.append(_sizes(kind[0], one.name or "output", one.value, *facts))
        change = one.value - at_start.value
        measured.append(_sizes(kind[1], one.name or "output", change, *facts))
    return measured


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
        family = FAMILIES.get(next(iter(subject.scaling_of.values())).family)
        self.decays = family is None or family.weight_degree == 0
        # What is left without the weight is not decay.
        self.moved = tx.update(gradients, state, nothing)[0] if self.decays else updates
        self.eps = jax.lax.cond(
            is_last,
            lambda: _eps(tx, params, gradients, nothing),
            lambda: {name: jnp.zeros(()) for name in leaves_by_path(params)},
        )

    def measured(self, start: Any, new: Any, layers: frozenset[str]) -> list[Measured]:
        """The sizes of each parameter as it is stored, and of what happens to it."""
        trees = (start, self.params, new, self.gradients, self.updates, self.moved)
        by_name = [leaves_by_path(tree) for tree in trees]
        measured: list[Measured] = []
        for name in by_name[0]:
            w0, w, w1, g, u, moved = (leaves[name] for leaves in by_name)
            facts = (w.shape, _above(name) in layers)
            sizes = [
                _sizes("weight", name, w, *facts),
                _sizes("weight_change", name, w1 - w0, *facts),
                _sizes("gradient", name, g, *facts),
                _sizes("update", name, moved, *facts),
            ]
            eps = jnp.broadcast_to(self.eps[name], sizes[0].rms.shape)
            measured += [*sizes, Measured("eps", name, *facts, eps)]
            if self.decays:
                decay = _sizes("decay", name, u - moved, *facts)
                measured.append(dataclasses.replace(decay, mean_abs=None))
        return measured


def _effective(subject: Subject, stored: Iterable[Measured]) -> Iterable[Measured]:
    """The sizes of effective weights and of their ratios, from those of the stored ones."""
    scalings = subject.scaling_of
    rms: dict[tuple[str, str], np.ndarray] = {}
    for one in stored:
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
            case "decay":
                weight, update = (rms[quantity, one.name] for quantity in ("weight", "update"))
                decay = np.where(one.rms > ROUNDING * update, one.rms, 0)
                yield dataclasses.replace(one, rms=_over(decay, weight))
                yield dataclasses.replace(one, quantity="decay_ratio", rms=_over(decay, update))
            case _:
                yield one


def _times(one: Measured, factor: float) -> Measured:
    return dataclasses.replace(one, rms=factor * one.rms, mean_abs=factor * one.mean_abs)


def _over(size: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`size / other`; 0 where there is nothing to compare with."""
    return np.where(other > 0, size / np.where(other > 0, other, 1), 0)


def _eps(tx: Any, params: Any, gradients: Any, nothing: Any) -> dict[str, Array]:
    """How large the gradient of each parameter is beside the optimizer's eps, up to a constant.

    The optimizer is asked: where the gradient vanishes beside eps, so does the step, in proportion
    to `gradient / eps`. One that has no eps takes steps of the same size still, and one that is
    proportional to the gradient anyway answers 1.
    """

    def answer(factor: Array) -> dict[str, Array]:
        scaled = jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradients)
        updates, _ = tx.update(scaled, tx.init(params), nothing)
        return {
            name: jnp.sqrt(jnp.mean(jnp.square(u.astype(jnp.float32) / factor)))
            for name, u in leaves_by_path(updates).items()
        }

    answers = jax.vmap(answer)(jnp.array([1.0, VANISHING]))
    return {
        name: jnp.where(full > 0, vanishing / jnp.where(full > 0, full, 1), 0)
        for name, (full, vanishing) in answers.items()
    }
