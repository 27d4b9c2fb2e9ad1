"""Linen: calls of chosen modules intercepted, with what they need beside their parameters."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import jax
from flax import linen as nn
from jax import Array

from jaxmup._inputs import Call
from jaxmup._tree import Params, PathName, leaves_by_path, path_name
from jaxmup.empirical._choose import choose, innermost, module_name
from jaxmup.empirical._intercept import Handle, Intercepted, intercepted
from jaxmup.empirical._measurable import (
    Arrays,
    Directions,
    LossFn,
    Measurable,
    ModuleName,
    NamedScales,
    Note,
    Scales,
)
from jaxmup.empirical._split import Args, Kwargs, split_call
from jaxmup.empirical._use import Settings, measured
from jaxmup.empirical._variables import (
    COLLECTION,
    Variables,
    module_paths,
    part_at,
    scales_by_path,
    with_part,
    with_slots,
)


@dataclasses.dataclass(frozen=True)
class LinenMeasurable(Measurable):
    """A Linen module; `rest` holds its collections without parameters and scales.

    Args:
      module: Linen module.
      apply: Function `apply(module, *args, **kwargs)` that calls the module, bound to its
        variables; `None` to call the module itself.
    """

    module: nn.Module
    apply: Callable[..., Any] | None = None

    def noted(self, note: Note) -> Array:
        def handle(call: Intercepted, args: Args, kwargs: Kwargs) -> Any:
            outputs = call.next(*args, **kwargs)
            has_gradient = bool(split_call(args, kwargs)[1])
            note(self.names[call.path], call.params, has_gradient, outputs)
            return outputs

        return self._loss(self.params, handle)

    def modules(self) -> dict[ModuleName, nn.Module]:
        """The chosen modules, as an abstract run meets them."""
        found: dict[ModuleName, nn.Module] = {}

        def handle(call: Intercepted, args: Args, kwargs: Kwargs) -> Any:
            found[self.names[call.path]] = call.module
            return call.next(*args, **kwargs)

        def run(arrays: Arrays) -> Array:
            here = self.with_arrays(arrays)
            return here._loss(here.params, handle)

        jax.eval_shape(run, self.arrays)
        return found

    def tied(self) -> frozenset[ModuleName]:
        return frozenset()  # Linen shares modules, not parameters

    def measured(
        self,
        params: Params,
        settings: Settings,
        scales: Scales,
        tallies: Mapping[ModuleName, Array],
        directions: Directions,
    ) -> Array:
        def handle(call: Intercepted, args: Args, kwargs: Kwargs) -> Array:
            split, inputs, arrays = split_call(args, kwargs)
            slot = call.slot
            return measured(
                call.pure(split),
                settings.of(self.names[call.path]),
                call.params,
                (call.rest, arrays),
                slot["scales"],
                slot["tally"],
                slot.get("direction"),
                *inputs,
            )

        slots = {}
        for path, name in self.names.items():
            slots[path] = {"scales": scales[name], "tally": tallies[name]}
            if name in directions:
                slots[path]["direction"] = directions[name]
        return self._loss(with_slots(params, slots), handle)

    def _loss(self, params: Params, handle: Handle) -> Array:
        args, kwargs = self.inputs
        variables = {"params": params, **self.rest}
        mutable = nn.DenyList(("params",))
        with intercepted(self.names, handle):
            if self.apply is None:
                outputs, _ = self.module.apply(variables, *args, mutable=mutable, **kwargs)
            else:
                run = nn.apply(self.apply, self.module, mutable=mutable)
                outputs, _ = run(variables, *args, **kwargs)
        return self.loss_fn(outputs)

    def parts(self, params: Params, names: Collection[ModuleName]) -> dict[ModuleName, Params]:
        return {name: part_at(params, path) for path, name in self.names.items() if name in names}

    def leaves(self, part: Params) -> dict[PathName, Array]:
        return leaves_by_path(nn.unbox(part))

    def map_parameters(self, function: Callable[[ModuleName, PathName, Array], Array]) -> Self:
        params = self.params
        for path, name in self.names.items():
            part = jax.tree_util.tree_map_with_path(
                lambda key, leaf, name=name: function(name, path_name(key), leaf),
                part_at(params, path),
            )
            params = with_part(params, path, part)
        return dataclasses.replace(self, params=params)

    def scaled(self, scales: NamedScales) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path, name in self.names.items():
            if name in scales:
                tree = with_part(tree, path, dict(scales[name]))
        return {"params": self.params, **self.rest, COLLECTION: tree}


def linen_measurable(
    module: nn.Module,
    variables: Variables,
    patterns: Sequence[str] | None,
    inputs: Call,
    loss_fn: LossFn,
    apply: Callable[..., Any] | None = None,
) -> tuple[LinenMeasurable, dict[ModuleName, dict[str, Array]]]:
    """A module to measure, and the scales that its variables have already.

    Args:
      module: Linen module.
      variables: Variables of the module.
      patterns: Names of the modules to wrap; `None` for those that have scales already, or every
        leaf.
      inputs: Arguments of the module's call.
      loss_fn: Loss of the outputs.
      apply: Function that calls the module, bound to its variables; `None` for its own call.
    """
    params = variables["params"]
    existing = scales_by_path(variables)
    paths = module_paths(params)
    if patterns is None and existing:
        chosen = list(existing)
    else:
        by_name = {module_name(path): path for path in paths}
        chosen = [by_name[n] for n in choose(by_name, map(module_name, innermost(paths)), patterns)]
    names = {path: module_name(path) for path in chosen}
    rest = {n: tree for n, tree in variables.items() if n not in ("params", COLLECTION)}
    found = LinenMeasurable(params, rest, names, inputs, loss_fn, module, apply)
    return found, {names[path]: scales for path, scales in existing.items() if path in names}
