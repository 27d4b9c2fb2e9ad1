"""The model of a task, at one width and under one parametrization."""

import dataclasses
import functools
import inspect

from jaxmup._infer._parametrized import Parametrized, declared, inferred
from jaxmup._model import Instance, Model, as_model
from jaxmup._model._arguments import open_parameters
from jaxmup._parametrization import Parametrization, parametrization
from jaxmup.transfer._config import FAMILY, NUMBERS, Config
from jaxmup.transfer._search import Cell
from jaxmup.transfer._task import Task


def network(task: Task, config: Config, cell: Cell) -> Parametrized:
    """The model of a cell; nothing is allocated before it is drawn.

    Raises:
      ValueError: if the factory fails, returns no model, or lacks a parameter that is swept; if it
        cannot be told what grows.
    """
    rule = _parametrization_of(task, config, cell)
    model = _model_of(task, config, cell).offering(parametrization=rule)
    instance = model.at(cell.width, "width")
    if model.inputs is None and (instance.kind == "linen" or model.apply is not None):
        model = dataclasses.replace(model, inputs=task.evaluation[0])
        instance = model.at(cell.width, "width")
    if not instance.parameters:
        raise ValueError(
            "`make_model` must return an NNX module, a Linen module or a tree of arrays. What it "
            f"returned for width {cell.width} has no parameters: {instance.join(instance.parts)!r}."
        )
    if not model.asks_for("parametrization"):
        _require_larger(model, config)
        return inferred(
            model,
            rule,
            base=config.base,
            delta=2 * config.base,
            target=cell.width,
            rules=task.rules,
            read=_as_read(model, instance, task),
        )
    if instance.kind == "tree":
        raise ValueError(
            "A `make_model` with a parameter `parametrization` must return a module of jaxmup "
            "layers. Got a tree of arrays. Leave out the parameter."
        )
    return declared(instance, rule)


def require_growth(small: Parametrized, large: Parametrized, widths: tuple[int, int]) -> None:
    """Raises a `ValueError` if models of two widths have the same shapes."""
    if small.shapes == large.shapes:
        raise ValueError(_DOES_NOT_GROW.format(*widths))


def _require_larger(model: Model, config: Config) -> None:
    """Refuses a model that is the same at the base width and at twice that."""
    widths = config.base, 2 * config.base
    shapes = [
        {name: x.shape for name, x in model.at(width, "width").parameters.items()}
        for width in widths
    ]
    if shapes[0] == shapes[1]:
        raise ValueError(_DOES_NOT_GROW.format(*widths))


_DOES_NOT_GROW = (
    "`make_model` must return a larger model for a larger width. Its parameters have the same "
    "shapes at widths {} and {}. Use its first argument."
)


def _as_read(model: Model, instance: Instance, task: Task) -> Model:
    """The model as it is called with its inputs, or where it has none as the loss calls it."""
    if instance.is_callable:
        return model
    return dataclasses.replace(model, apply=task.loss_fn, inputs=(task.evaluation,))


def _parametrization_of(task: Task, config: Config, cell: Cell) -> Parametrization:
    # A plain layer applies no multiplier, so it needs the gauge of muP that has none.
    is_plain = not as_model(task.make_model).asks_for("parametrization")
    gauge = "table3" if is_plain and cell.parametrization == "mup" else None
    return parametrization(cell.parametrization, FAMILY[config.optimizer], gauge=gauge)


def _model_of(task: Task, config: Config, cell: Cell) -> Model:
    """The model with all arguments of its factory but the width and the parametrization."""
    model = as_model(task.make_model, inputs=task.inputs)
    numbers = (*NUMBERS[config.optimizer], "batch_size", "steps")
    chosen = {name: value for name, value in cell.setting if name not in numbers}
    parameters = open_parameters(model.make_model)
    unnamed = {name: value for name, value in chosen.items() if name not in parameters}
    if unnamed and all(
        one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters.values()
    ):
        raise ValueError(
            f"`sweep` must name hyper-parameters of the optimizer, {', '.join(numbers)}, or "
            f"parameters of `make_model`, which has no {', '.join(unnamed)}."
        )
    make_model = functools.partial(model.make_model, **unnamed) if unnamed else model.make_model
    model = dataclasses.replace(model, make_model=make_model)
    return model.offering(**{"base_width": config.base, "depth": config.depth, **chosen})
