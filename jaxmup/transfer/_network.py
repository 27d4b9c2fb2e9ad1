"""A model of a task, taken apart into what a compiled run needs."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

import jaxmup.linen
import jaxmup.nnx
from jaxmup._infer import infer, rescale
from jaxmup._infer._make import Made, Source
from jaxmup._parametrization import Parametrization, parametrization
from jaxmup._tree import leaves_by_path, resolve
from jaxmup.transfer._config import FAMILY, NUMBERS, Config
from jaxmup.transfer._search import Cell
from jaxmup.transfer._task import Task, asked_for


class Network(NamedTuple):
    """A model of one width under one parametrization.

    Args:
      specs: of the parameters.
      scalings: of the parameters, for the optimizer.
      draw: from a key to the parameters, and to the rest of a model's state.
      join: from these two to what a loss takes, and to a function that returns the rest of the
        state as the loss has left it.
    """

    specs: Any
    scalings: Any
    draw: Callable[[Any], tuple[Any, Any]]
    join: Callable[[Any, Any], tuple[Any, Callable[[], Any]]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter, by name."""
        return {name: spec.shape for name, spec in leaves_by_path(self.specs).items()}

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(map(math.prod, self.shapes.values()))


def network(task: Task, config: Config, cell: Cell) -> Network:
    """The model of a cell; nothing is allocated before it is drawn.

    Raises:
      ValueError: if the factory fails, returns no model, or lacks a parameter that is swept; if it
        cannot be told what grows.
    """
    rule = _rule(task, config, cell)
    source, made = _source(task, config, cell, rule)
    if not made.parameters:
        raise ValueError(
            "`make_model` must return an NNX module, a Linen module or a tree of arrays. What it "
            f"returned for width {cell.width} has no parameters: {made.rest!r}."
        )
    if _takes_rule(task):
        specs = _declared(source, made)
        draw = functools.partial(_draw, source, cell.width)
    else:
        sizes = {"base": config.base, "target": cell.width}
        asked = {"inputs": source.inputs, "rules": task.rules}
        specs = infer(source.make_model, delta=2 * config.base, **sizes, **asked)
        draw = _rescaled(source, specs, rule, sizes)
    return Network(specs, resolve(specs, rule), draw, functools.partial(_joined, made))


def require_growth(small: Network, large: Network, widths: tuple[int, int]) -> None:
    """Raises a `ValueError` if models of two widths have the same shapes."""
    if small.shapes == large.shapes:
        raise ValueError(
            "`make_model` must return a larger model for a larger width. Its parameters have the "
            f"same shapes at widths {widths[0]} and {widths[1]}. Use its first argument."
        )


def _takes_rule(task: Task) -> bool:
    return bool(asked_for(task.make_model, {"parametrization": None}))


def _rule(task: Task, config: Config, cell: Cell) -> Parametrization:
    # A plain layer applies no multiplier, so it needs the gauge of muP that has none.
    plain_mup = cell.parametrization == "mup" and not _takes_rule(task)
    family = FAMILY[config.optimizer]
    return parametrization(cell.parametrization, family, gauge="table3" if plain_mup else None)


def _source(task: Task, config: Config, cell: Cell, rule: Parametrization) -> tuple[Source, Made]:
    """The factory with all its arguments but the width, and the abstract model of a cell."""
    numbers = (*NUMBERS[config.optimizer], "batch_size", "steps")
    chosen = {name: value for name, value in cell.setting if name not in numbers}
    fixed = {"parametrization": rule, "base_width": config.base, "depth": config.depth}
    asked = asked_for(task.make_model, {**fixed, **chosen})
    if unknown := [name for name in chosen if name not in asked]:
        raise ValueError(
            f"`sweep` must name hyper-parameters of the optimizer, {', '.join(numbers)}, or "
            f"parameters of `make_model`, which has no {', '.join(unknown)}."
        )
    make_model = functools.partial(task.make_model, **asked)
    source = Source(make_model)
    if _abstract(source, cell.width).api == "linen":
        source = Source(make_model, task.evaluation[0] if task.inputs is None else task.inputs)
    return source, _abstract(source, cell.width, jax.random.key(0))


def _abstract(source: Source, width: int, key: Any = None) -> Made:
    """The model of this width with shapes for arrays; a Linen module without key has none."""
    seen: list[Made] = []

    def arrays() -> Any:
        seen.append(source.make(width, key))
        return seen[-1].arrays

    try:
        shapes = jax.eval_shape(arrays)
    except Exception as error:  # whatever the user's function raises
        raise ValueError(
            f"`make_model` must build a model of width {width}. It raised "
            f"{type(error).__name__}: {error}"
        ) from error
    return Made(seen[-1].api, shapes, seen[-1].rest)


def _declared(source: Source, made: Made) -> Any:
    if made.api == "linen":
        return jaxmup.linen.specs(made.rest, *source.example(None))
    if made.api == "nnx":
        return jaxmup.nnx.specs(made.model)
    raise ValueError(
        "A `make_model` with a parameter `parametrization` must return a module of jaxmup layers. "
        "Got a tree of arrays. Leave out the parameter."
    )


def _draw(source: Source, width: int, key: Any) -> tuple[Any, Any]:
    made = source.make(width, key)
    return _parts(made.api, made.arrays)


def _rescaled(
    source: Source, specs: Any, rule: Parametrization, sizes: dict[str, int]
) -> Callable[[Any], tuple[Any, Any]]:
    @jax.jit  # compiled once for all seeds
    def draw(key: Any) -> tuple[Any, Any]:
        model = rescale(source.make_model, specs, rule, **sizes, key=key, inputs=source.inputs)
        if isinstance(model, nnx.Module):
            return _parts("nnx", nnx.state(model))
        return _parts("tree" if source.inputs is None else "linen", model)

    return draw


def _parts(api: str, arrays: Any) -> tuple[Any, Any]:
    """The parameters, and the rest of the state."""
    if api == "nnx":
        return nnx.filter_state(arrays, nnx.Param), nnx.filter_state(arrays, nnx.Not(nnx.Param))
    if api == "linen":
        return arrays["params"], {name: x for name, x in arrays.items() if name != "params"}
    return arrays, {}


def _joined(made: Made, params: Any, rest: Any) -> tuple[Any, Callable[[], Any]]:
    if made.api == "nnx":
        model = nnx.merge(made.rest, params, rest, copy=True)  # a loss may change the rest
        return model, lambda: nnx.state(model, nnx.Not(nnx.Param))
    if made.api == "linen":
        return functools.partial(made.rest.apply, {"params": params, **rest}), lambda: rest
    return params, lambda: rest
