"""The facts that tell one measurement from others: to those its trials are worth nothing."""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmup._infer._parametrized import Parametrized
from jaxmup._program import digest, digest_of_arrays
from jaxmup.transfer._config import Config
from jaxmup.transfer._identity import config_to_json, versions
from jaxmup.transfer._network import require_growth
from jaxmup.transfer._search import Cell, settings
from jaxmup.transfer._sweep import loss_of, program_of, transform
from jaxmup.transfer._task import Batch, Task, first_batch

Networks = Callable[[Cell], Parametrized]
"""The network of a cell without its numbers."""


def require_models(config: Config, networks: Networks) -> dict[int, int]:
    """The number of parameters at each width, once models can be built and grow with it.

    Raises:
      ValueError: if a model cannot be built, or does not grow with the width.
    """
    name, setting = config.parametrizations[0], settings(config)[0]
    by_width = {
        width: networks(program_of(config, Cell(name, width, setting)))
        for width in sorted(config.widths)
    }
    ends = min(config.widths), max(config.widths)
    require_growth(by_width[ends[0]], by_width[ends[1]], ends)
    return {width: network.num_parameters for width, network in by_width.items()}


def identity(task: Task, config: Config, networks: Networks) -> dict[str, Any]:
    """The facts of a measurement, as JSON types.

    The code of the user has no name that says what it does: that it is the same is told by the
    programs that it makes, and by the first batch of its data.

    Raises:
      ValueError: as `require_models`; or if there is no first batch.
    """
    parameters = require_models(config, networks)
    devices = jax.local_devices()
    batch = first_batch(task.batches, config.seeds[0], *_of_data(config, settings(config)[0]))
    return {
        "config": config_to_json(config),
        "parameters": {str(width): count for width, count in parameters.items()},
        "programs": _programs(task, config, networks, batch),
        "first_batch": digest_of_arrays(batch),
        "evaluation": digest_of_arrays(task.evaluation),
        "versions": versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _of_data(config: Config, setting: Any) -> tuple[int, Mapping[str, Any]]:
    """Steps of a run, and what the function of the data is offered."""
    found = dict(setting)
    batch_size = config.of("batch_size", found)
    return config.of("steps", found), {"depth": config.depth, **found, "batch_size": batch_size}


class _Programs(NamedTuple):
    """Digests of the programs that a run is made of; `None` where there is no such program."""

    initial: str
    model: str | None
    loss: str
    optimizer: str


def _programs(task: Task, config: Config, networks: Networks, batch: Batch) -> dict[str, Any]:
    """A digest of each kind of program, over every parametrization, width and setting."""
    cells = itertools.product(config.parametrizations, sorted(config.widths), settings(config))
    distinct = dict.fromkeys(program_of(config, Cell(*cell)) for cell in cells)
    found = [_programs_of(networks(cell), task, config, batch) for cell in distinct]
    return {name: _joined([getattr(one, name) for one in found]) for name in _Programs._fields}


def _programs_of(network: Parametrized, task: Task, config: Config, batch: Batch) -> _Programs:
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    initial, shapes = jax.make_jaxpr(network.draw, return_shape=True)(key)
    params, rest = shapes
    loss = loss_of(network, task.loss_fn)

    def losses(params: Any, rest: Any, batch: Batch, evaluation: Batch) -> Any:
        return (
            jax.value_and_grad(loss, has_aux=True)(params, rest, batch),
            loss(params, rest, evaluation)[0],
        )

    def step(rate: Any, params: Any) -> Any:
        tx = transform(config, {"learning_rate": rate}, network.scalings, config.steps)
        return tx.update(params, tx.init(params), params)

    return _Programs(
        digest(initial),
        _of_call(network, task, params, rest),
        digest(jax.make_jaxpr(losses)(params, rest, batch, task.evaluation)),
        digest(jax.make_jaxpr(step)(jnp.float32(0), params)),
    )


def _of_call(network: Parametrized, task: Task, params: Any, rest: Any) -> str | None:
    """The program of a call of the model; `None` where only the loss knows how it is called."""

    def output(model: Any, batch: Batch) -> Any:
        return model(batch[0])

    try:
        run = loss_of(network, output, is_scalar=False)
        return digest(jax.make_jaxpr(run)(params, rest, task.evaluation))
    except Exception:  # whatever a model says to arguments that are not its own
        return None


def _joined(digests: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
