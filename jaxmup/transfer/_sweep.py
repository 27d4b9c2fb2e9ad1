"""The engine: runs of one width, many at a time, in one program over all local devices."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmup import optim
from jaxmup._infer._parametrized import Parametrized
from jaxmup._model import Parts, as_loss
from jaxmup._tree import OptState, Params, Scalings, Tree, leaves_by_path, map_named
from jaxmup.transfer._config import NUMBERS, STDS, Config, OptimizerName
from jaxmup.transfer._search import Cell
from jaxmup.transfer._task import Batch, LossFn, Task, run_batches
from jaxmup.transfer._trial import Setting, Trial

Numbers: TypeAlias = Mapping[str, Array]
"""The learning rate and other hyper-parameters of a run, by name."""
Losses: TypeAlias = tuple[Array, Array]
"""The loss at the end, and that at the points of the curve."""
RunFn: TypeAlias = Callable[[Numbers, Params, Tree, Batch, Batch], Losses]
"""Trains a network: of numbers, initial parameters, the rest of the model's state, batches and the
evaluation. It is pure: free to map, compile and shard.
"""
Carry: TypeAlias = tuple[Params, Tree, OptState]
"""Parameters, the rest of the model's state, and the state of the optimizer."""

CURVE_POINTS = 20
TOGETHER = 16  # runs of a device that are vectorized, where that is faster

_OPTIMIZERS: dict[OptimizerName, Callable[..., optax.GradientTransformation]] = {
    "adam": optim.adam,
    "adamw": optim.adamw,
    "amsgrad": optim.amsgrad,
    "sgd": optim.sgd,
}
_CONSTANTS: dict[OptimizerName, dict[str, float]] = {"sgd": {"momentum": 0.9}}


class Group(NamedTuple):
    """Runs that are trained by one call of a compiled program.

    Args:
      keys: Runs of the group, as trials without their losses.
      numbers: Hyper-parameters of each run, arrays of shape `(runs,)` by name.
      seeds: Index of the seed of each run; shape `(runs,)`.
    """

    keys: tuple[Trial, ...]
    numbers: dict[str, np.ndarray]
    seeds: np.ndarray


def keys_of(config: Config, cells: Sequence[Cell]) -> list[Trial]:
    """The runs of some cells as trials without losses; the seeds of a rate are neighbors."""
    return [
        Trial(cell.parametrization, cell.width, rate, seed, None, cell.setting)
        for cell in cells
        for rate in config.grid
        for seed in config.seeds
    ]


def group_of(config: Config, keys: Sequence[Trial]) -> Group:
    """The group of some runs that share a program."""
    rows = [{"learning_rate": key.learning_rate} | traced(config, key.others) for key in keys]
    numbers = {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
    seeds = np.array([config.seeds.index(key.seed) for key in keys], np.int32)
    return Group(tuple(keys), numbers, seeds)


def traced(config: Config, setting: Setting) -> dict[str, float]:
    """The hyper-parameters of a setting that are numbers of a compiled program."""
    return {name: value for name, value in setting if name in NUMBERS[config.optimizer]}


def program_of(config: Config, cell: Cell) -> Cell:
    """A cell without its numbers: cells for which this is equal share a program."""
    numbers = NUMBERS[config.optimizer]
    return cell._replace(setting=tuple(x for x in cell.setting if x[0] not in numbers))


class Trainer(NamedTuple):
    """The compiled program that trains the runs of some cells, with its data.

    Args:
      size: Number of runs that are trained at a time, in equal shares over the local devices.
      train: Function that trains the runs of a group, at most `size`. Equal groups give equal bits
        on the same machine and devices.
    """

    size: int
    train: Callable[[Group], list[Trial]]


def trainer(task: Task, config: Config, cell: Cell, network: Parametrized, runs: int) -> Trainer:
    """The trainer of the cells for which `program_of` is `cell`.

    Args:
      task: Model, data and loss.
      config: Configuration of the measurement.
      cell: Cell of the runs, without their numbers.
      network: Model of the cell.
      runs: Number of runs.

    Raises:
      ValueError: if the data run out, change their shapes or are not finite, or a standard
        deviation that is swept has no initial values to act on.
    """
    setting = dict(cell.setting)
    steps, batch_size = config.of("steps", setting), config.of("batch_size", setting)
    offered = {"depth": config.depth, **setting, "batch_size": batch_size}
    batches = [run_batches(task.batches, seed, steps, offered) for seed in config.seeds]
    together = faster_together(_examples(batches[0]), cell.width)
    call = compiled(make_run(network, task.loss_fn, config, steps), together)
    params, rest = initial_state(network, config.seeds)
    _require_matrices(config.sweep, params, _roles(network))
    arguments = on_every_device((params, rest, stacked(batches), task.evaluation))
    size = group_size(runs, jax.local_device_count(), TOGETHER if together else 1)

    def train(group: Group) -> list[Trial]:
        # A group of another size would be another program, with other roundings: the last group is
        # filled up with copies, whose losses are dropped.
        filled = np.arange(size) % len(group.keys)
        numbers = {name: values[filled] for name, values in group.numbers.items()}
        losses, curves = call(numbers, group.seeds[filled], *arguments)
        return [
            dataclasses.replace(key, loss=_finite(loss), curve=tuple(map(_finite, curve)))
            for key, loss, curve in zip(
                group.keys, np.asarray(losses), np.asarray(curves), strict=False
            )
        ]

    return Trainer(size, train)


def group_size(runs: int, devices: int, most: int) -> int:
    """Number of runs in each of equal groups, with at most `most` on each device.

    Example:
      >>> group_size(runs=70, devices=2, most=16)  # three groups instead of 32, 32 and 6
      24
    """
    shares = -(-runs // devices)
    groups = -(-shares // most)
    return devices * -(-shares // groups)


def _finite(loss: np.floating) -> float | None:
    return float(loss) if np.isfinite(loss) else None


def _examples(run: Batch) -> int:
    """The number of examples or tokens of a step: the elements of the smallest part of a batch."""
    return min(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(run))


def initial_state(network: Parametrized, seeds: Sequence[int]) -> Parts:
    """The parameters of one model per seed, stacked along a new first axis; so the rest of it.

    They are drawn outside of the compiled program, where XLA compiles an initializer once per
    shape and not once per program, and with a generator that compiles faster than JAX's default:
    initializers would take longer to compile than the networks take to train.
    """
    return stacked([network.draw(jax.random.key(seed, impl="rbg")) for seed in seeds])


def stacked(trees: Sequence[Tree]) -> Tree:
    """Equal trees of arrays as one, with a new first axis."""

    def stack(*leaves: Array | np.ndarray) -> Array | np.ndarray:
        is_key = jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
        return jnp.stack(leaves) if is_key else np.stack(leaves)

    return jax.tree.map(stack, *trees)


def make_run(network: Parametrized, loss_fn: LossFn, config: Config, steps: int) -> RunFn:
    """The function that trains one network and returns its losses.

    Args:
      network: Model to train.
      loss_fn: Loss of a model on a batch.
      config: Configuration of the optimizer and its schedule.
      steps: Length of the schedule.
    """
    points = np.linspace(0, steps - 1, min(steps, CURVE_POINTS)).round().astype(np.int32)
    roles = _roles(network)

    loss = loss_of(network, loss_fn)

    def run(
        numbers: Numbers, params: Params, rest: Tree, batches: Batch, evaluation: Batch
    ) -> tuple[Array, Array]:
        tx = transform(config, numbers, network.scalings, steps)

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Array]:
            params, rest, state = carry
            (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params, rest, batch)
            updates, state = tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), rest, state), value

        params = _with_stds(params, roles, numbers)
        start = (params, rest, tx.init(params))
        (params, rest, _), values = lax.scan(step, start, batches)
        return loss(params, rest, evaluation)[0], values[points]

    return run


def loss_of(
    network: Parametrized, loss_fn: LossFn, *, is_scalar: bool = True
) -> Callable[[Params, Tree, Batch], tuple[Array, Tree]]:
    """The loss as a pure function of parameters, the rest of the model's state and a batch.

    It returns the loss, and the rest as the call left it.

    Args:
      network: Model that is called.
      loss_fn: Loss of a model on a batch.
      is_scalar: Whether what `loss_fn` returns must be fit to be trained on.
    """

    @network.instance.with_axes
    def loss(params: Params, rest: Tree, batch: Batch) -> tuple[Array, Tree]:
        model, left = network.instance.bind(Parts(params, rest))
        value = loss_fn(model, batch)
        return as_loss(value) if is_scalar else value, left()

    return loss


def transform(
    config: Config, numbers: Numbers, scalings: Scalings, steps: int
) -> optax.GradientTransformation:
    """The optimizer of a run, whose learning rate rises and falls with the steps."""
    peak = numbers["learning_rate"]
    given = {n: x for n, x in numbers.items() if n != "learning_rate" and not n.endswith("_std")}
    constants = _CONSTANTS.get(config.optimizer, {}) | given

    def rate(count: Array) -> Array:
        falling = peak * (1 - count / steps)
        rising = jnp.minimum(1, (count + 1) / config.warmup) if config.warmup else 1
        return falling * rising

    return _OPTIMIZERS[config.optimizer](rate, scalings, **constants)


def _roles(network: Parametrized) -> dict[str, str]:
    return {name: spec.role for name, spec in leaves_by_path(network.specs).items()}


def _require_matrices(sweep: Iterable[str], params: Params, roles: Mapping[str, str]) -> None:
    """Refuses to sweep the standard deviation of matrices that all start at zero, or are none."""
    drawn = {
        roles[name]
        for name, values in leaves_by_path(params).items()
        if values.ndim > 2 and np.any(values)  # the first axis is of seeds
    }
    for name in sorted(set(sweep) & set(STDS)):
        role = name.removesuffix("_std")
        if role not in drawn:
            raise ValueError(
                f"`sweep[{name!r}]` must have initial values to multiply. Got a model in which no "
                f"matrix of role {role} starts away from zero. Leave it out."
            )


def _with_stds(params: Params, roles: Mapping[str, str], numbers: Numbers) -> Params:
    """The initial values, times what the numbers say of matrices of their role."""
    factors = {name: numbers.get(f"{role}_std") for name, role in roles.items()}
    if not any(factor is not None for factor in factors.values()):
        return params

    def scaled(x: Array, factor: Array | None) -> Array:
        return x if factor is None or x.ndim < 2 else x * factor.astype(x.dtype)

    return map_named(scaled, params, factors)


def faster_together(batch_size: int, width: int) -> bool:
    """True if the runs of a device are faster by `vmap` than one after the other, by `lax.map`.

    An accelerator always wants one large batch. On a CPU, vectorizing spares overhead until the
    products of a single run fill a core; from there on it only moves more memory. Seconds for 16
    runs of 100 Adam steps at depth 3 on two cores, vectorized and one after the other, over width
    x batch size:

    | 16 x 16 | 32 x 32 | 64 x 32 | 32 x 128 | 64 x 64 | 64 x 128 | 256 x 128 |
    |---|---|---|---|---|---|---|
    | .023 .030 | .048 .075 | .075 .105 | .131 .132 | .090 .091 | .576 .539 | 4.61 3.64 |
    """
    return jax.default_backend() != "cpu" or batch_size * width <= 4096


def compiled(run: RunFn, together: bool) -> Callable[..., Losses]:
    """The program that trains many runs, in equal shares over the local devices.

    It takes the numbers and the index of the seed of each run, with a leading axis that the number
    of devices divides; initial parameters, the rest of the state and batches, with a leading axis
    of seeds; and the evaluation. It returns the losses at the end, and the points of the curves.

    Args:
      run: Function that trains one network.
      together: Whether the runs of a device are vectorized (`vmap`), and not run one after the
        other (`lax.map`).
    """

    def share(
        numbers: Numbers,
        seeds: Array,
        params: Params,
        rest: Tree,
        batches: Batch,
        evaluation: Batch,
    ) -> Losses:
        def one(numbers_and_seed: tuple[Numbers, Array]) -> Losses:
            numbers, seed = numbers_and_seed
            own = jax.tree.map(lambda x: x[seed], (params, rest, batches))
            return run(numbers, own[0], own[1], own[2], evaluation)

        return jax.vmap(one)((numbers, seeds)) if together else lax.map(one, (numbers, seeds))

    spread = jax.shard_map(
        share,
        mesh=_mesh(),
        in_specs=(P("runs"), P("runs"), P(), P(), P(), P()),
        out_specs=P("runs"),
        check_vma=False,  # the shares never communicate, so there is nothing to check
    )
    return jax.jit(spread)


def on_every_device(tree: Tree) -> Tree:
    """A tree of arrays, copied to all local devices."""
    return jax.device_put(tree, NamedSharding(_mesh(), P()))


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("runs",))
