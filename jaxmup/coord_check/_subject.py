"""The models under check: how to make one of any size, and what a parametrization says of it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
from flax import linen as nn
from flax import nnx

from jaxmup._infer._infer import infer
from jaxmup._infer._make import Made, Source
from jaxmup._infer._rescale import rescale
from jaxmup._rules import Parametrization
from jaxmup._rules import parametrization as named_parametrization
from jaxmup._scaling import Scaling
from jaxmup._signature import open_parameters
from jaxmup._spec import ParamSpec
from jaxmup._tree import leaves_by_path, listed, resolve
from jaxmup.coord_check._modules import tag_nnx, tagging_linen
from jaxmup.coord_check._tags import tag
from jaxmup.linen._specs import specs as linen_specs
from jaxmup.nnx._specs import specs as nnx_specs

PARAMETRIZATION = "parametrization"  # of the parameter of `make_model` that takes one

Apply = Callable[[Any, Any], Any]
Forward = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model of one size.

    Args:
      size: as `make_model` takes it.
      specs: a tree of `ParamSpec` like its parameters.
      parametrization: the parametrization under check.
      scalings: what it makes of the specs.
      declares: whether the specs are declared by its layers, which apply a parametrization.
      draw: a key to the parameters, and the rest of what changes as the model is called, such as
        batch statistics.
      forward: `(params, rest, inputs)` to the outputs and the new `rest`, with tags inside.
    """

    size: Any
    specs: Any
    parametrization: Parametrization
    scalings: Any
    declares: bool
    draw: Callable[[Any], tuple[Any, Any]]
    forward: Forward

    @property
    def spec_of(self) -> dict[str, ParamSpec]:
        """The specs by name."""
        return leaves_by_path(self.specs)

    @property
    def scaling_of(self) -> dict[str, Scaling]:
        """The scalings by name."""
        return leaves_by_path(self.scalings)


@dataclasses.dataclass(frozen=True)
class Family:
    """What makes the models of all sizes; the arguments of `coord_check` that say so."""

    make_model: Callable[..., Any]
    sizes: tuple[Any, ...]
    inputs: Any
    parametrization: Parametrization | None = None
    apply: Apply | None = None
    rules: Mapping[Any, Any] | None = None

    @property
    def takes_parametrization(self) -> bool:
        """Whether `make_model` is told the parametrization."""
        return PARAMETRIZATION in open_parameters(self.make_model)

    def subjects(self) -> tuple[Subject, ...]:
        """The model of each size.

        Raises:
          TypeError: if `make_model` returns no model, or `apply` is missing or of no use.
          ValueError: if `make_model` fails, or its models do not grow.
        """
        made = [self._abstract(size) for size in self.sizes]
        self._require_apply(made[0])
        _require_growth(self.sizes, made)
        pairs = zip(self.sizes, made, strict=True)
        return tuple(self._subject(size, one) for size, one in pairs)

    @property
    def _source(self) -> Source:
        make = self.make_model
        if self.takes_parametrization:
            make = functools.partial(make, **{PARAMETRIZATION: self._parametrization(plain=False)})
        return Source(make)

    def _source_for(self, made: Made) -> Source:
        inputs = (self.inputs,) if made.api == "linen" else None
        return dataclasses.replace(self._source, inputs=inputs)

    def _parametrization(self, plain: bool) -> Parametrization:
        """The parametrization; without one muP for Adam, without multipliers in a plain model."""
        gauge = "table3" if plain else "table8"
        return self.parametrization or named_parametrization("mup", "adam", gauge=gauge)

    def _abstract(self, size: Any) -> Made:
        source = self._source
        try:
            if _is_linen(source, size):
                source = dataclasses.replace(source, inputs=(self.inputs,))
            return source.make_abstract(size, "size", jax.random.key(0))
        except Exception as error:  # whatever the user's function raises
            raise ValueError(
                f"`make_model` must make a model of each size. For {size!r} it raised "
                f"{type(error).__name__}: {error}"
            ) from error

    def _require_apply(self, made: Made) -> None:
        if made.api == "tree" and not made.parameters:
            raise TypeError(
                "`make_model` must return an NNX module, a Linen module or a tree of arrays. Got "
                f"{made.rest!r} for size {self.sizes[0]!r}."
            )
        if made.api == "tree" and self.apply is None:
            raise TypeError(
                "`apply` must be given for a tree of arrays, which cannot be called. Pass "
                "`apply=lambda params, inputs: outputs`."
            )
        if made.api == "linen" and self.apply is not None:
            raise TypeError(
                "`apply` is for NNX modules and trees of arrays. Got a Linen module: it is called "
                "with the inputs. Wrap it in a module that calls it as you want."
            )

    def _subject(self, size: Any, made: Made) -> Subject:
        declared = self._declared(made)
        source = self._source_for(made)
        if declared is not None:
            parametrization = self._parametrization(plain=False)
            specs, make = declared, functools.partial(source.make, size)
        else:
            base, delta = sorted(self.sizes, key=_measure)[:2]
            sizes = {"base": base, "target": size, "inputs": source.inputs}
            specs = infer(source.make_model, delta=delta, rules=self.rules, **sizes)
            parametrization = self._parametrization(plain=True)

            def make(key: Any) -> Made:
                model = rescale(source.make_model, specs, parametrization, key=key, **sizes)
                return _taken_apart(model, made)

        def draw(key: Any) -> tuple[Any, Any]:
            return _parts(make(key))

        forward = _forward(made, self.apply)
        scalings = resolve(specs, parametrization)
        is_declared = declared is not None
        return Subject(size, specs, parametrization, scalings, is_declared, draw, forward)

    def _declared(self, made: Made) -> Any:
        """The specs that jaxmup layers declare; `None` if any parameter is of another layer."""
        try:
            if made.api == "nnx":
                return nnx_specs(made.model)
            if made.api == "linen":
                return linen_specs(made.rest, self.inputs)
        except ValueError:
            return None
        return None


def _is_linen(source: Source, size: Any) -> bool:
    """Whether `make_model` makes a Linen module; found without allocating anything."""
    seen: list[Any] = []

    def arrays() -> Any:
        seen.append(source.make(size))
        return seen[-1].arrays

    jax.eval_shape(arrays)
    return isinstance(seen[-1].rest, nn.Module)


def _taken_apart(model: Any, like: Made) -> Made:
    if like.api == "linen":
        return Made("linen", model, like.rest)
    if like.api == "nnx":
        graph, state = nnx.split(model)
        return Made("nnx", state, graph)
    return Made("tree", model, like.rest)


def _parts(made: Made) -> tuple[Any, Any]:
    """The parameters of a model, and its other state."""
    if made.api == "linen":
        others = {name: values for name, values in made.arrays.items() if name != "params"}
        return made.arrays["params"], others
    if made.api == "nnx":
        _, params, rest = nnx.split(made.model, nnx.Param, ...)
        return params, rest
    return made.arrays, {}


def _forward(made: Made, apply: Apply | None) -> Forward:
    """The function that a model is."""
    if made.api == "linen":
        return functools.partial(_call_linen, made.rest)
    if made.api == "nnx":
        graph, _, _ = nnx.split(made.model, nnx.Param, ...)
        return functools.partial(_call_nnx, graph, apply)
    return functools.partial(_call_tree, made, cast(Apply, apply))


def _call_linen(module: Any, params: Any, rest: Any, inputs: Any) -> tuple[Any, Any]:
    with tagging_linen():
        if not rest:
            return module.apply({"params": params}, inputs), rest
        return module.apply({"params": params, **rest}, inputs, mutable=list(rest))


def _call_nnx(
    graph: Any, apply: Apply | None, params: Any, rest: Any, inputs: Any
) -> tuple[Any, Any]:
    model = tag_nnx(nnx.merge(graph, params, rest, copy=True))
    outputs = model(inputs) if apply is None else apply(model, inputs)  # type: ignore[operator]
    _, _, _, rest = nnx.split(model, nnx.Param, nnx.Intermediate, ...)
    return outputs, rest


def _call_tree(made: Made, apply: Apply, params: Any, rest: Any, inputs: Any) -> tuple[Any, Any]:
    model = dataclasses.replace(made, arrays=params).model
    return tag("", apply(model, inputs)), rest


def _measure(size: Any) -> Any:
    return tuple(size.values()) if isinstance(size, Mapping) else size


def _require_growth(sizes: Sequence[Any], made: Sequence[Made]) -> None:
    shapes = [{name: leaf.shape for name, leaf in one.parameters.items()} for one in made]
    for i, one in enumerate(shapes):
        if one in shapes[:i]:
            raise ValueError(
                "`make_model` must use the size that it is given. Its models of sizes "
                f"{sizes[shapes.index(one)]!r} and {sizes[i]!r} have the same parameters:"
                f"{listed(f'{name} {shape}' for name, shape in one.items())}"
            )
