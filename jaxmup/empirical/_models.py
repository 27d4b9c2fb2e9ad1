"""The models that can be measured: of either API with arrays, or an `Instance` that is drawn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxmup import _check
from jaxmup._inputs import Call, as_call
from jaxmup._model import Instance, Model
from jaxmup._tree import Tree
from jaxmup.empirical._linen import linen_measurable
from jaxmup.empirical._measurable import LossFn, Measurable, ModuleName
from jaxmup.empirical._nnx import nnx_measurable
from jaxmup.empirical._require import require_called, require_inputs
from jaxmup.empirical._tally import Seen
from jaxmup.empirical._variables import Variables

AnyModel: TypeAlias = nnx.Module | nn.Module | Instance
"""A model that can be measured."""
HeldArrays: TypeAlias = nnx.Module | Variables | None
"""The variables of a Linen module; of an `Instance`, the model as a user holds it."""


class HeldNNX(NamedTuple):
    """An NNX model as a user holds it.

    Args:
      model: NNX model.
      inputs: Arguments of its call.
      apply: Function `apply(model, *args, **kwargs)` that calls it; `None` for its own call.
    """

    model: nnx.Module
    inputs: Call
    apply: Callable[..., Any] | None = None


class HeldLinen(NamedTuple):
    """A Linen module as a user holds it.

    Args:
      module: Linen module.
      variables: Variables of the module.
      inputs: Arguments of its call.
      apply: Function `apply(module, *args, **kwargs)` that calls it, bound; `None` for its own
        call.
    """

    module: nn.Module
    variables: Variables
    inputs: Call
    apply: Callable[..., Any] | None = None


def held(
    model: AnyModel,
    variables: HeldArrays,
    inputs: Tree,
    arguments: Mapping[str, Any] | None,
    key: Array | None = None,
) -> HeldNNX | HeldLinen:
    """The model that a user gave.

    Args:
      model: NNX module, Linen module, or an `Instance` of either.
      variables: Variables of a Linen module; for an `Instance` the model as a user holds it, or
        `None` to draw it.
      inputs: Arguments of the call, as for `jaxmup.Model`; `None` for those of an `Instance`.
      arguments: Further keyword arguments of the call.
      key: Key with which an `Instance` is drawn; `None` for `jax.random.key(0)`.

    Raises:
      TypeError: if the model is of neither API, or `variables` and it do not fit each other.
    """
    if isinstance(model, Instance):
        return _of_instance(model, variables, inputs, arguments, key)
    call = _with_keywords(as_call(inputs), arguments)
    if isinstance(model, nnx.Module) and variables is None:
        return HeldNNX(model, call)
    if isinstance(model, nn.Module) and isinstance(variables, Mapping):
        return HeldLinen(model, variables, call)
    size = " Give a `Model` its size with `.at(size)`." if isinstance(model, Model) else ""
    raise TypeError(
        "`model` must be an NNX module, or a Linen module with its `variables`. Got "
        f"{type(model).__name__} and variables of type {type(variables).__name__}.{size}"
    )


def _of_instance(
    instance: Instance,
    variables: HeldArrays,
    inputs: Tree,
    arguments: Mapping[str, Any] | None,
    key: Array | None,
) -> HeldNNX | HeldLinen:
    if instance.kind == "tree" or instance.axis_names:
        raise TypeError(
            "A model must consist of Flax modules, outside of named axes, for them to be measured. "
            f"Got one of kind {instance.kind!r} with axes {instance.axis_names}."
        )
    given = instance.inputs if inputs is None else as_call(inputs)
    if given is None:
        raise TypeError("`inputs` must be given here, or to the `Model`. Got none in either.")
    call, apply = _with_keywords(given, arguments), instance.apply
    if variables is None:
        variables = instance.join(instance.draw(jax.random.key(0) if key is None else key))
    if instance.kind == "nnx" and isinstance(variables, nnx.Module):
        return HeldNNX(variables, call, apply)
    if instance.kind == "linen" and isinstance(variables, Mapping):
        return HeldLinen(instance.make(None), variables, call, apply)
    raise TypeError(
        f"`variables` must be a model of kind {instance.kind!r} as a user holds it: an NNX module, "
        f"or the variables of a Linen module. Got {type(variables).__name__}."
    )


def _with_keywords(call: Call, arguments: Mapping[str, Any] | None) -> Call:
    return call._replace(kwargs={**call.kwargs, **(arguments or {})})


def measurable(
    given: HeldNNX | HeldLinen, modules: Sequence[str] | None, loss_fn: LossFn
) -> tuple[Measurable, dict[ModuleName, dict[str, Array]]]:
    """A model whose modules can be measured, and the scales that it has already."""
    if isinstance(given, HeldNNX):
        model, inputs, apply = given
        return nnx_measurable(model, modules, inputs, loss_fn, apply)
    module, variables, inputs, apply = given
    return linen_measurable(module, variables, modules, inputs, loss_fn, apply)


def observed(model: Measurable) -> dict[ModuleName, Seen]:
    """The facts about each module, once inputs and calls are as they must be."""
    seen = called(model)
    require_inputs(model.inputs.args, next(iter(seen)))
    return seen


def called(model: Measurable) -> dict[ModuleName, Seen]:
    """The facts about each module, without a look at the values of the inputs."""
    seen = model.observe()
    require_called(model.names.values(), seen)
    return seen


def count_examples(inputs: Call, given: int | None) -> int:
    """The number of examples that the loss is a mean over: the length of the first axis, or given.

    Raises:
      TypeError: if it is no integer.
      ValueError: if it is not positive, or there is no such axis.
    """
    if given is not None:
        _check.size("num_examples", given, remedy=_EXAMPLES)
        return int(given)
    shapes = [leaf.shape for leaf in jax.tree.leaves(inputs) if getattr(leaf, "ndim", 0)]
    if not shapes or shapes[0][0] < 1:
        raise ValueError(
            "`num_examples` must be given where the inputs have no first axis of examples. Got "
            f"inputs of shapes {shapes}. {_EXAMPLES}"
        )
    return shapes[0][0]


_EXAMPLES = "It is the number of examples that the loss is a mean over."
