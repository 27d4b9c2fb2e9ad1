"""NNX: modules replaced on a copy of the model, by modules that note or measure their calls."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxmup._inputs import Call
from jaxmup._tree import Gradients, Params, PathName, Tree, leaves_by_path
from jaxmup.empirical._choose import choose, innermost, module_name
from jaxmup.empirical._measurable import (
    Directions,
    LossFn,
    Measurable,
    ModuleName,
    ModulePath,
    NamedScales,
    Note,
    Scales,
)
from jaxmup.empirical._scaled import (
    Scale,
    Scaled,
    Wrapper,
    modules_by_path,
    replaced,
    scaled_modules,
    unwrapped,
)
from jaxmup.empirical._split import Args, Kwargs, Split, split_call
from jaxmup.empirical._use import Settings, measured
from jaxmup.nnx._layer import name_of


class _Noted(Wrapper):
    """Notes each call of the module."""

    def __init__(self, module: nnx.Module, note: Callable[[Params, bool, Any], None]):
        self.module = module
        self.note = note

    def _apply(self, method: str, args: Args, kwargs: Kwargs) -> Any:
        outputs = getattr(self.module, method)(*args, **kwargs)
        inputs = split_call(args, kwargs)[1]
        self.note(nnx.state(self.module, nnx.Param), bool(inputs), outputs)
        return outputs


class _Measuring(Wrapper):
    """Measures and scales what passes through the module."""

    def __init__(
        self,
        module: nnx.Module,
        settings: Settings,
        scales: Array | np.ndarray,
        tally: Array,
        direction: Gradients | None,
    ):
        self.module = module
        self.settings = settings
        self.scales = Scale(jnp.asarray(scales))
        self.tally = Scale(tally)
        # A scan over modules slices a module, not a state.
        self.direction = None if direction is None else _with_params(module, direction)

    def _apply(self, method: str, args: Args, kwargs: Kwargs) -> Any:
        graph, params, rest = nnx.split(self.module, nnx.Param, ...)
        split, inputs, arrays = split_call(args, kwargs)
        call = _NNXCall(graph, method, split)
        direction = None if self.direction is None else nnx.state(self.direction, nnx.Param)
        scales, tally = self.scales[...], self.tally[...]
        return measured(
            call, self.settings, params, (rest, arrays), scales, tally, direction, *inputs
        )


@dataclasses.dataclass(frozen=True)
class _NNXCall:
    """The call of a module as a pure function of its state."""

    graph: nnx.GraphDef[Any]
    method: str
    split: Split

    def __call__(self, params: Params, constants: Tree, *inputs: Array) -> Array:
        rest, arrays = constants
        rest = jax.tree.map(lambda leaf: leaf, rest)  # variables that this trace may write to
        args, kwargs = self.split.joined(inputs, arrays)
        return getattr(nnx.merge(self.graph, params, rest), self.method)(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class NNXMeasurable(Measurable):
    """An NNX model.

    Args:
      graph: Definition of its graph, without scales.
      apply: Function `apply(model, *args, **kwargs)` that calls the model; `None` for its own call.
    """

    graph: nnx.GraphDef[Any]
    apply: Callable[..., Any] | None = None

    def noted(self, note: Note) -> Array:
        return self._loss(
            self.params, lambda name, module: _Noted(module, functools.partial(note, name))
        )

    def measured(
        self,
        params: Params,
        settings: Settings,
        scales: Scales,
        tallies: Mapping[ModuleName, Array],
        directions: Directions,
    ) -> Array:
        def wrapper(name: ModuleName, module: nnx.Module) -> nnx.Module:
            facts = (settings.of(name), scales[name], tallies[name], directions.get(name))
            return _Measuring(module, *facts)

        return self._loss(params, wrapper)

    def _loss(
        self, params: Params, wrapper: Callable[[ModuleName, nnx.Module], nnx.Module]
    ) -> Array:
        args, kwargs = self.inputs
        rest = jax.tree.map(lambda leaf: leaf, self.rest)  # variables that this trace may write to
        model = self._replaced(nnx.merge(self.graph, params, rest), wrapper)
        return self.loss_fn(
            model(*args, **kwargs) if self.apply is None else self.apply(model, *args, **kwargs)
        )

    def _replaced(
        self, model: nnx.Module, wrapper: Callable[[ModuleName, nnx.Module], nnx.Module]
    ) -> Any:
        names = self.names
        return replaced(
            model, lambda path, module: wrapper(names[path], module) if path in names else None
        )

    def tied(self) -> frozenset[ModuleName]:
        modules = modules_by_path(nnx.merge(self.graph, self.params, self.rest))
        owners = collections.defaultdict(set)
        for path, name in self.names.items():
            for _, variable in nnx.iter_graph(modules[path]):
                if isinstance(variable, nnx.Param):
                    owners[id(variable)].add(name)
        return frozenset(name for names in owners.values() if len(names) > 1 for name in names)

    def parts(self, params: Params, names: Collection[ModuleName]) -> dict[ModuleName, Params]:
        modules = modules_by_path(nnx.merge(self.graph, params, self.rest)) if names else {}
        by_name = {self.names[path]: m for path, m in modules.items() if path in self.names}
        return {name: nnx.state(by_name[name], nnx.Param) for name in names}

    def leaves(self, part: Params) -> dict[PathName, Array]:
        return leaves_by_path(nnx.to_pure_dict(part))

    def map_parameters(self, function: Callable[[ModuleName, PathName, Array], Array]) -> Self:
        def mapped(path: ModulePath, values: Array) -> Array:
            for end in range(len(path)):
                if path[:end] in self.names:
                    return function(self.names[path[:end]], name_of(path[end:]), values)
            return values

        flat = [
            (path, variable.replace(mapped(path, variable[...])))
            for path, variable in nnx.to_flat_state(self.params)
        ]
        return dataclasses.replace(self, params=nnx.from_flat_state(flat))

    def scaled(self, scales: NamedScales) -> nnx.Module:
        model = nnx.clone(nnx.merge(self.graph, self.params, self.rest))
        return self._replaced(model, lambda name, module: Scaled(module, **scales[name]))


def nnx_measurable(
    model: nnx.Module,
    patterns: Sequence[str] | None,
    inputs: Call,
    loss_fn: LossFn,
    apply: Callable[..., Any] | None = None,
) -> tuple[NNXMeasurable, dict[ModuleName, dict[str, Array]]]:
    """A model to measure, and the scales that it has already.

    Args:
      model: Model, which may be wrapped.
      patterns: Names of the modules to wrap; `None` for those that are wrapped already, or every
        leaf.
      inputs: Arguments of the model's call.
      loss_fn: Loss of the outputs.
      apply: Function that calls the model; `None` for its own call.
    """
    bare, wrapped = unwrapped(model) if scaled_modules(model) else (model, {})
    modules = modules_by_path(bare)
    with_parameters = {p: m for p, m in modules.items() if jax.tree.leaves(nnx.state(m, nnx.Param))}
    leaves = map(module_name, innermost(with_parameters))
    by_name = {module_name(path): path for path in with_parameters}
    if patterns is None and wrapped:
        chosen = [by_name[name] for name in wrapped]
    else:
        chosen = [by_name[name] for name in choose(by_name, leaves, patterns)]
    graph, params, rest = nnx.split(bare, nnx.Param, ...)
    names = {path: module_name(path) for path in chosen}
    return NNXMeasurable(params, rest, names, inputs, loss_fn, graph, apply), wrapped


def _with_params(module: nnx.Module, params: Params) -> nnx.Module:
    copy = nnx.clone(module)
    nnx.update(copy, params)
    return copy
