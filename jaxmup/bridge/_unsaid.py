"""Settings that no tensor holds: compared where both sides say them, else listed."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from flax import nnx

from jaxmup._check import listed
from jaxmup._tree import PathName
from jaxmup.bridge import _orders
from jaxmup.bridge._layer_settings import Foreign, LayerSettings, of_flax, of_torch, same
from jaxmup.bridge._model_settings import (
    APPROXIMATE,
    EXACT,
    ModelSettings,
    Settings,
    open_settings,
)
from jaxmup.bridge._plan import Entry, Plan
from jaxmup.bridge._units import without_collection
from jaxmup.bridge._words import read

Layers: TypeAlias = Mapping[PathName, nnx.Module]
_NOTHING = ModelSettings({}, (), {}, {}, {})
_NAMED = 3  # layers in a line
_ONES = ("strides", "kernel_dilation", "feature_group_count")  # 1 unless told otherwise


class _Matched(NamedTuple):
    """A layer of Flax and a module that becomes it.

    Args:
      path: Path of the layer.
      name: Name of the module.
      leaves: Names of the leaves of the layer.
      rank: Number of axes of the first tensor of the module.
      ours: Settings here; none of a layer in a tree.
      theirs: Settings in PyTorch; none where the module is not known.
    """

    path: PathName
    name: str
    leaves: frozenset[str]
    rank: int
    ours: LayerSettings
    theirs: LayerSettings

    @property
    def is_norm(self) -> bool:
        """True for a layer with a scale or with averages, and no kernel."""
        return "kernel" not in self.leaves and ("scale" in self.leaves or self.averages)

    @property
    def averages(self) -> bool:
        """True for a batch norm."""
        return "var" in self.leaves


def with_unsaid(made: Plan, layers: Layers, settings: Settings | None) -> Plan:
    """The plan with what differs beside the tensors among its notes, and a list of the rest.

    Args:
      made: The plan.
      layers: Layers of the Flax model by path; none of a tree.
      settings: Module or configuration of the other side, if one is given.

    Raises:
      As `open_settings`; and `ValueError` if the module is not that of the tensors.
    """
    given = _NOTHING if settings is None else open_settings(settings)
    matched = list(_matched(made.entries, layers, given.modules))
    if given.modules and not any(layer.name in given.modules for layer in matched):
        raise ValueError(
            "`settings` must be the module whose tensors are converted. It has no module of these "
            f"names:{listed(layer.name for layer in matched)}\nIts modules are"
            f"{listed(name for name in given.modules if name)}"
        )
    notes = (
        *made.notes,
        *_orders.contradicted(made.entries, given.orders),
        *_differences(matched, given),
        *_other_gelu(layers, given),
    )
    unsaid = (*_of_layers(matched, given), *_of_the_model(matched, given))
    return dataclasses.replace(made, notes=notes, unsaid=unsaid)


def _matched(
    entries: Sequence[Entry], layers: Layers, modules: Mapping[str, Any]
) -> Iterator[_Matched]:
    leaves: dict[PathName, set[str]] = {}
    first: dict[tuple[PathName, str], Entry] = {}
    for entry in entries:
        for place in entry.targets:
            path, _, local = without_collection(place.path).rpartition("/")
            leaves.setdefault(path, set()).add(local)
            for source in entry.sources:
                first.setdefault((path, _module_of(source.name)), entry)
    for (path, name), entry in first.items():
        source = entry.sources[0]
        yield _Matched(
            path,
            name,
            frozenset(leaves[path]),
            len(source.shape),
            of_flax(layers[path]) if path in layers else {},
            of_torch(modules[name], source.dtype) if name in modules else {},
        )


def _module_of(tensor: str) -> str:
    """The module that a tensor is of; that of a weight with a parametrization is the layer."""
    owner = re.fullmatch(r"(?:(.*?)\.)?parametrizations\..*", tensor)
    return (owner[1] or "") if owner else tensor.rpartition(".")[0]


def _differences(matched: Sequence[_Matched], given: ModelSettings) -> Iterator[str]:
    """Words on settings that both sides say, and say differently."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for layer in matched:
        for argument, ours in layer.ours.items():
            theirs = [layer.theirs[argument]] if argument in layer.theirs else []
            if argument == "epsilon" and not theirs and layer.is_norm:
                theirs = list(given.epsilons)
            if theirs and not any(same(ours, value) for value in theirs):
                said = " or ".join(map(_shown, theirs))
                is_one = len(theirs) == 1 and not isinstance(theirs[0], Foreign)
                remedy = f"Build with {argument}={said}." if is_one else "Look at its code."
                found.setdefault((argument, _shown(ours), said, remedy), []).append(layer.path)
    for (argument, ours, theirs, remedy), paths in found.items():
        yield (
            f"{argument} of {_names(paths)} is {ours} here{_EXPLAINED.get((argument, ours), '')} "
            f"and {theirs} in PyTorch{_EXPLAINED.get((argument, ''), '')}. {remedy}"
        )


_EXPLAINED = {
    ("momentum", ""): ", which there is called 1 minus that",
    ("padding", "'SAME'"): ", which with strides depends on the size of the input,",
}


def _of_layers(matched: Sequence[_Matched], given: ModelSettings) -> Iterator[str]:
    """Words on settings of layers that only one side says, or none."""
    norms = [layer for layer in matched if layer.is_norm]
    ask = [layer for layer in norms if not layer.theirs and not given.epsilons]
    yield from _here(ask, "epsilon", "PyTorch's is 1e-05 unless told otherwise")
    averages = [layer for layer in matched if layer.averages]
    ask = [layer for layer in averages if not layer.theirs]
    yield from _here(ask, "momentum", "PyTorch's 0.1 is 0.9 here")
    if averages:
        yield (
            f"the running variance of {_names([layer.path for layer in averages])} is divided by "
            "n - 1 in PyTorch, by n in Flax"
        )
    strided = [layer for layer in matched if layer.ours.get("padding") == "SAME"]
    if ask := [layer.path for layer in strided if not layer.theirs]:
        yield (
            f"padding of {_names(ask)} is 'SAME' here, which with strides depends on the size of "
            "the input; PyTorch's padding=1 is padding=1 here"
        )
    convolutions = [layer for layer in matched if "kernel" in layer.leaves and layer.rank > 2]
    if ask := [layer.path for layer in convolutions if not layer.ours and not layer.theirs]:
        yield f"padding of {_names(ask)}: 'SAME' in Flax and none in PyTorch unless told otherwise"
    yield from _there([layer for layer in matched if not layer.ours], given)


def _here(ask: Sequence[_Matched], argument: str, theirs: str) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for layer in ask:
        if argument in layer.ours:
            found.setdefault(f"is {_shown(layer.ours[argument])} here", []).append(layer.path)
        elif not layer.ours:
            default = _DEFAULT[argument, layer.averages]
            found.setdefault(f"is {default} in Flax unless told otherwise", []).append(layer.path)
    for words, paths in found.items():
        yield f"{argument} of {_names(paths)} {words}; {theirs}"


# Of Flax's layers by whether they average over batches.
_DEFAULT = {("epsilon", False): "1e-06", ("epsilon", True): "1e-05", ("momentum", True): "0.99"}


def _there(layers: Sequence[_Matched], given: ModelSettings) -> Iterator[str]:
    """Words on what PyTorch's side says of layers of which nothing is known here."""
    found: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        for argument, theirs in layer.theirs.items():
            if argument not in _ONES or theirs not in (1, (1,) * max(layer.rank - 2, 0)):
                found.setdefault((argument, _shown(theirs)), []).append(layer.path)
        if layer.is_norm and not layer.theirs and given.epsilons:
            said = " or ".join(map(_shown, given.epsilons))
            found.setdefault(("epsilon", said), []).append(layer.path)
    for (argument, theirs), paths in found.items():
        yield f"{argument} of {_names(paths)} is {theirs} in PyTorch, in the terms of Flax"


def _of_the_model(matched: Sequence[_Matched], given: ModelSettings) -> Iterator[str]:
    """Words on what is between the layers."""
    weights = [layer for layer in matched if "kernel" in layer.leaves]
    if given.activations:
        each = (f"{name} is {here}" if here else name for name, here in given.activations.items())
        yield f"activations of PyTorch: {', '.join(each)}"
    elif len(weights) > 1:
        yield (
            "activations: `jax.nn.gelu` is approximate unless told otherwise, PyTorch's GELU exact"
        )
    if "model_type" in given.scales:
        yield f"the factor on the logits of attention is 1 in {given.model_type}"
    elif given.scales:
        yield f"the factor on the logits of attention: {_items(given.scales)}"
    elif any("query" in read(layer.path).words for layer in weights):
        yield "the factor on the logits of attention, in most models head_dim ** -0.5"
    if given.others:
        yield f"what else the configuration says: {_items(given.others)}"


def _other_gelu(layers: Layers, given: ModelSettings) -> Iterator[str]:
    """Words on a GELU that a module of Flax holds, where PyTorch's is the other one."""
    ours = {x for layer in layers.values() for value in vars(layer).values() if (x := _gelu(value))}
    theirs = {value for value in given.activations.values() if value in (EXACT, APPROXIMATE)}
    if ours and theirs and ours.isdisjoint(theirs):
        yield f"GELU is {', '.join(ours)} here and {', '.join(theirs)} in PyTorch."


def _gelu(value: object) -> str | None:
    if value is jax.nn.gelu:
        return APPROXIMATE
    if isinstance(value, functools.partial) and value.func is jax.nn.gelu:
        return APPROXIMATE if value.keywords.get("approximate", True) else EXACT
    return None


def _names(paths: Iterable[PathName]) -> str:
    """Layers in a line: the first of them, and how many more there are."""
    named = list(dict.fromkeys(path or "the model" for path in paths))
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more


def _items(held: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in held.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, Foreign) else repr(value)
