"""The engine: every learning rate and seed of one width, in one program over all local devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxmup import optim
from jaxmup._rules import Parametrization, ParametrizationName, parametrization
from jaxmup._tree import resolve
from jaxmup.data import Dataset, batch_order
from jaxmup.models import MLP
from jaxmup.nnx import specs
from jaxmup.transfer._config import FAMILY, Config, OptimizerName
from jaxmup.transfer._trial import Trial

MakeModel = Callable[[nnx.Rngs], nnx.Module]
# (learning rate, initial parameters, batches, inputs, labels) -> final loss. Pure: free to map,
# compile and shard.
Run = Callable[[Array, Any, Array, Array, Array], Array]

_OPTIMIZERS: dict[OptimizerName, Callable[..., optax.GradientTransformation]] = {
    "adam": optim.adam,
    "adamw": optim.adamw,
    "amsgrad": optim.amsgrad,
    "sgd": functools.partial(optim.sgd, momentum=0.9),
}


def sweep(config: Config, width: int, name: ParametrizationName, dataset: Dataset) -> list[Trial]:
    """Trains one network for each learning rate and seed of `config`.

    A seed gives the same initial values and the same batches at every learning rate. Equal
    arguments give equal bits on the same machine and devices.

    Args:
      config: what to do; of its widths only the base width matters here.
      width: of the networks.
      name: of the parametrization.
      dataset: what to train on.

    Returns:
      A trial per learning rate and seed; the seeds of a learning rate are neighbors.
    """
    rule = parametrization(name, FAMILY[config.optimizer])

    def make_model(rngs: nnx.Rngs) -> MLP:
        return MLP(
            dataset.features,
            dataset.classes,
            width=width,
            depth=config.depth,
            base_width=config.base,
            parametrization=rule,
            rngs=rngs,
        )

    examples, per_step = len(dataset.labels), config.batch_size
    orders = [batch_order(examples, per_step, config.steps, seed) for seed in config.seeds]
    runs = [(rate, i) for rate in config.grid for i in range(len(config.seeds))]
    losses = train_all(
        make_run(make_model, rule, config.optimizer, config.steps),
        np.array([rate for rate, _ in runs], np.float32),
        np.array([i for _, i in runs], np.int32),
        initial_parameters(make_model, config.seeds),
        np.stack(orders),
        dataset,
        together=faster_together(config.batch_size, width),
    )
    return [
        Trial(name, width, rate, config.seeds[i], float(loss) if np.isfinite(loss) else None)
        for (rate, i), loss in zip(runs, losses, strict=True)
    ]


def initial_parameters(make_model: MakeModel, seeds: tuple[int, ...]) -> Any:
    """The parameters of one model per seed, stacked along a new first axis.

    They are drawn outside of the compiled program, where XLA compiles an initializer once per
    shape and not once per program, and with a generator that compiles faster than JAX's default:
    initializers would take longer to compile than the networks take to train.
    """
    keys = (jax.random.key(seed, impl="rbg") for seed in seeds)
    states = [nnx.state(make_model(nnx.Rngs(key)), nnx.Param) for key in keys]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def make_run(
    make_model: MakeModel, rule: Parametrization, optimizer: OptimizerName, steps: int
) -> Run:
    """The function that trains one network and returns its loss on the whole data set.

    Args:
      make_model: builds the network from layers that hold their specs.
      rule: the parametrization of the network and of the optimizer.
      optimizer: its name.
      steps: length of the schedule, in which the learning rate falls linearly to zero.
    """
    abstract = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    graph = nnx.graphdef(abstract)
    scalings = resolve(specs(abstract), rule)

    def run(
        learning_rate: Array, params: Any, batches: Array, inputs: Array, labels: Array
    ) -> Array:
        transform = _OPTIMIZERS[optimizer](
            lambda count: learning_rate * (1 - count / steps), scalings
        )

        def loss_of(params: Any, inputs: Array, labels: Array) -> Array:
            logits = nnx.merge(graph, params)(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def step(carry: tuple[Any, Any], batch: Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            gradients = jax.grad(loss_of)(params, inputs[batch], labels[batch])
            updates, state = transform.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = lax.scan(step, (params, transform.init(params)), batches)
        return loss_of(params, inputs, labels)

    return run


def faster_together(batch_size: int, width: int) -> bool:
    """Whether the runs of a device are faster by `vmap` than one after the other, by `lax.map`.

    An accelerator always wants one large batch. On a CPU, vectorizing spares overhead until the
    products of a single run fill a core; from there on it only moves more memory. Seconds for 16
    runs of 100 Adam steps at depth 3 on two cores, vectorized and one after the other, over width
    x batch size:

    | 16 x 16 | 32 x 32 | 64 x 32 | 32 x 128 | 64 x 64 | 64 x 128 | 256 x 128 |
    |---|---|---|---|---|---|---|
    | .023 .030 | .048 .075 | .075 .105 | .131 .132 | .090 .091 | .576 .539 | 4.61 3.64 |
    """
    return jax.default_backend() != "cpu" or batch_size * width <= 4096


def train_all(
    run: Run,
    learning_rates: np.ndarray,
    seed_indices: np.ndarray,
    params: Any,
    batches: np.ndarray,
    dataset: Dataset,
    *,
    together: bool,
) -> np.ndarray:
    """Trains every run in one program, in equal shares over the local devices.

    The last share is filled up with copies of the first runs, whose losses are dropped.

    Args:
      run: trains one network.
      learning_rates: shape `(runs,)`.
      seed_indices: which of the seeds each run uses; shape `(runs,)`.
      params: initial parameters, with a leading axis of seeds.
      batches: indices of examples; shape `(seeds, steps, batch_size)`.
      dataset: what to train on.
      together: vectorize the runs of a device (`vmap`) instead of running one after the other
        (`lax.map`).

    Returns:
      Losses of shape `(runs,)`.
    """
    program, devices = compiled(run, together)
    count = len(learning_rates)
    shares = -(-count // devices)
    filled = np.arange(shares * devices) % count
    losses = program(
        learning_rates[filled],
        seed_indices[filled],
        params,
        batches,
        dataset.inputs,
        dataset.labels,
    )
    return np.asarray(losses)[:count]


def compiled(run: Run, together: bool) -> tuple[Callable[..., Array], int]:
    """The program behind `train_all`, and the number of devices that its runs are spread over."""
    devices = jax.local_devices()

    def share(
        rates: Array, indices: Array, params: Any, batches: Array, inputs: Array, labels: Array
    ) -> Array:
        def one(rate_and_index: tuple[Array, Array]) -> Array:
            rate, i = rate_and_index
            return run(rate, jax.tree.map(lambda x: x[i], params), batches[i], inputs, labels)

        return jax.vmap(one)((rates, indices)) if together else lax.map(one, (rates, indices))

    spread = jax.shard_map(
        share,
        mesh=Mesh(np.array(devices), ("runs",)),
        in_specs=(P("runs"), P("runs"), P(), P(), P(), P()),
        out_specs=P("runs"),
        check_vma=False,  # the shares never communicate, so there is nothing to check
    )
    return jax.jit(spread), len(devices)
