"""The models under check: one of each size, called with tags inside."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from jaxmup._check import listed
from jaxmup._infer._parametrized import Parametrized, declared, inferred
from jaxmup._infer._rules import Rules
from jaxmup._inputs import Static
from jaxmup._model import Apply, Instance, Model, Parts
from jaxmup._parametrization import Parametrization
from jaxmup._parametrization import parametrization as named_parametrization
from jaxmup._tree import Size, Tree
from jaxmup.coord_check._modules import tag_nnx, tagging_linen
from jaxmup.coord_check._tags import tag

Forward: TypeAlias = Callable[[Any, Any, list[Any]], tuple[Any, Tree]]
"""Parameters, the rest of the arrays and the arrays of a call to its outputs and the new rest."""


@dataclasses.dataclass(frozen=True)
class Subject(Parametrized):
    """The model of one size.

    Args:
      forward: The model as a pure function of arrays, with tags inside.
      declares: True if its layers declare the specs, and apply a parametrization of their own.
    """

    forward: Forward
    declares: bool


def subjects(
    model: Model,
    sizes: Sequence[Size],
    static: Static,
    parametrization: Parametrization | None = None,
    rules: Rules | None = None,
) -> tuple[Subject, ...]:
    """The model of each size.

    Args:
      model: The model under check, with inputs.
      sizes: Sizes of the models.
      static: The arguments of a call without their arrays.
      parametrization: The parametrization under check; `None` for muP with Adam, in the gauge
        without multipliers for a model of other layers.
      rules: Kinds of axes, as for `infer`.

    Raises:
      TypeError: if `make_model` returns no model, or one that cannot be called.
      ValueError: if `make_model` fails, or its models do not grow.
    """
    return tuple(
        _subject(each, static, declares=each.instance.specs is not None)
        for each in under(parametrization, model, sizes, rules=rules)
    )


def under(
    parametrization: Parametrization | None,
    model: Model,
    sizes: Sequence[Size],
    *,
    rules: Rules | None = None,
    gains: bool = True,
) -> list[Parametrized]:
    """The model of each size under a parametrization; takes the arguments of `subjects`.

    Args:
      parametrization: The parametrization.
      model: The model, with inputs.
      sizes: Sizes of the models.
      rules: Kinds of axes.
      gains: False if no parameter of a model of other layers carries a forward gain.

    Raises:
      TypeError, ValueError: as `subjects`.
    """
    layers = parametrization or named_parametrization("mup", "adam")
    model = model.offering(parametrization=layers)
    instances = [model.at(size) for size in sizes]
    _require_call(instances[0])
    _require_growth(instances)
    plain = parametrization or named_parametrization("mup", "adam", gauge="table3")
    base, delta = sorted(sizes, key=_measure)[:2]
    how: Any = {"base": base, "delta": delta, "rules": rules, "gains": gains}
    return [
        declared(instance, layers)
        if instance.specs is not None
        else inferred(model, plain, target=instance.size, **how)
        for instance in instances
    ]


def _subject(of: Parametrized, static: Static, *, declares: bool) -> Subject:
    fields = {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    return Subject(**fields, forward=_forward(of.instance, static), declares=declares)


def _forward(instance: Instance, static: Static) -> Forward:
    tagged = dataclasses.replace(instance, apply=_tagged(instance))

    def forward(params: Any, rest: Any, arrays: list[Any]) -> tuple[Any, Tree]:
        return tagged.call(Parts(params, rest), static.joined(arrays))

    def forward_linen(params: Any, rest: Any, arrays: list[Any]) -> tuple[Any, Tree]:
        with tagging_linen():
            return forward(params, rest, arrays)

    return forward_linen if instance.kind == "linen" else forward


def _tagged(instance: Instance) -> Apply | None:
    """The function that calls the model, with tags where no framework can be told to make them."""
    if instance.kind == "linen" and instance.apply is None:
        return None
    call = instance.apply or _call_itself

    @functools.wraps(call)  # a key is given to those that ask for one
    def apply(made: Any, *args: Any, **kwargs: Any) -> Any:
        if instance.kind == "nnx":
            return call(tag_nnx(made), *args, **kwargs)
        return tag("", call(made, *args, **kwargs))

    return apply


def _call_itself(model: Any, *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _require_call(instance: Instance) -> None:
    if instance.kind != "tree":
        return
    if not instance.parameters:
        raise TypeError(
            "`make_model` must return an NNX module, a Linen module or a tree of arrays. Got "
            f"{instance.join(instance.parts)!r} for size {instance.size!r}."
        )
    if instance.apply is None and not callable(instance.join(instance.parts)):
        raise TypeError(
            "`apply` must be given for a tree of arrays, which cannot be called. Pass "
            "`apply=lambda params, inputs: outputs`."
        )


def _measure(size: Size) -> Any:
    return tuple(size.values()) if isinstance(size, Mapping) else size


def _require_growth(instances: Sequence[Instance]) -> None:
    shapes = [{name: leaf.shape for name, leaf in one.parameters.items()} for one in instances]
    for i, one in enumerate(shapes):
        if one in shapes[:i]:
            raise ValueError(
                "`make_model` must use the size that it is given. Its models of sizes "
                f"{instances[shapes.index(one)].size!r} and {instances[i].size!r} have the same "
                f"parameters:{listed(f'{name} {shape}' for name, shape in one.items())}"
            )
