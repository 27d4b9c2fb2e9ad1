"""Questions to a person: packed projections, flattened maps, pairs that names contradict."""

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from jaxmup.bridge._layouts import INPUT_FIRST, LINEAR, Shape
from jaxmup.bridge._plan import Entry
from jaxmup.bridge._units import QKV, FlaxLayer, TorchLayer, without_collection
from jaxmup.bridge._words import read

Siblings: TypeAlias = Mapping[str, FlaxLayer]
"""Layers under one owner, by their own names."""
_PAIRS_OF_PARTS = (frozenset({"gate", "up"}), frozenset({"key", "value"}))


def packed(modules: Sequence[TorchLayer], layers: Sequence[FlaxLayer]) -> Iterator[str]:
    """Words on modules that may hold the weights of several layers, once for each kind of name.

    Args:
      modules: Modules without a layer.
      layers: Layers without a module.
    """
    families = _siblings(layers)
    seen: set[str] = set()
    for module in modules:
        weight = module.tensors.get("weight")
        if weight is None or len(weight.shape) != 2 or module.words.template in seen:
            continue
        for owner, siblings in families.items():
            names = _parts(weight.shape, siblings)
            if names:
                seen.add(module.words.template)
                yield _packed_words(module.name, weight.shape, owner, names)
                break


def _packed_words(module: str, weight: Shape, owner: str, names: Sequence[str]) -> str:
    is_attention = set(names) == set(QKV)
    parts = "q|k|v" if is_attention else "|".join(names)
    text = (
        f"{module}.weight {weight} may hold {', '.join(names[:-1])} and {names[-1]} of "
        f"{owner or 'the model'}, and no name tells in which order. A pair does: "
        f'{{"{module}": ("{owner}", "{parts}")}} if they stand one after another.'
    )
    if not is_attention:
        return text
    return (
        f"{text} Of attention there are other orders: 'q|k|v' is that of GPT-2, Phi-3, MPT, Qwen, "
        "Baichuan and timm; 'heads q|k|v', head by head or group by group, that of GPT-NeoX, "
        "BLOOM, Falcon, GPT-BigCode and InternLM2; '4 q|v|k', in four blocks, that of CodeGen. "
        "Look at how the model's code takes the product apart."
    )


def _siblings(layers: Sequence[FlaxLayer]) -> dict[str, dict[str, FlaxLayer]]:
    found: dict[str, dict[str, FlaxLayer]] = {}
    for layer in layers:
        if "kernel" in layer.places:
            owner, _, name = without_collection(layer.name.partition("[")[0]).rpartition("/")
            found.setdefault(owner, {}).setdefault(name, layer)
    return found


def _parts(weight: Shape, siblings: Siblings) -> tuple[str, ...]:
    """Layers whose rows are together those of a weight; none if no known set of them is."""
    for outputs, inputs in (weight, weight[::-1]):
        rows = {
            name: math.prod(layer.places["kernel"].shape) // inputs
            for name, layer in siblings.items()
            if layer.places["kernel"].shape[0] == inputs
        }
        for names in _known_sets(rows):
            if sum(rows[name] for name in names) == outputs:
                return names
    return ()


def _known_sets(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Query, key and value, gate and up, whatever they are called, first; then any two or three."""
    if frozenset(QKV) <= frozenset(names):
        yield QKV
    for wanted in _PAIRS_OF_PARTS:
        if wanted <= frozenset(names):
            yield tuple(sorted(wanted))
    for number in (3, 2):
        yield from itertools.combinations(names, number)


# Words of one row exclude each other; those of one set mean the same.
_EXCLUSIVE = (
    ({"query"}, {"key"}, {"value"}),
    ({"gate"}, {"up"}, {"down"}),
    ({"mean"}, {"var"}),
    ({"scale", "gamma"}, {"bias", "beta"}),
)


def contradicted(entries: Iterable[Entry]) -> Iterator[str]:
    """Words on tensors that pairs lead to a leaf which their names say is another.

    Args:
      entries: Entries of the plan.
    """
    for entry in entries:
        if len(entry.sources) == len(entry.targets) == 1:
            source, place = entry.sources[0].name, str(entry.targets[0])
            said, led = _words(source), _words(place)
            for row in _EXCLUSIVE:
                one, other = ([i for i, same in enumerate(row) if same & w] for w in (said, led))
                if len(one) == len(other) == 1 and one != other:
                    yield (
                        f"{source} becomes {place}: the names say two different things. Is the "
                        "pair right?"
                    )


def _words(name: str) -> frozenset[str]:
    """Words of a name, with the local name that the vocabulary leaves out."""
    local = re.split(r"[./]", name)[-1]
    return read(name).words | {local.removeprefix("running_")}


def flattened(
    modules: Sequence[TorchLayer], entries: Iterable[Entry], settled: Collection[str]
) -> Iterator[str]:
    """Words on dense layers that may take a flattened feature map.

    They are the first behind a convolution, and have a multiple of its channels for inputs.

    Args:
      modules: Modules of PyTorch, in their order.
      entries: Entries of the plan.
      settled: Names of modules of which a pair says how they are stored.
    """
    of_source = {source.name: entry for entry in entries for source in entry.sources}
    before: tuple[str, int] | None = None
    for module in modules:
        entry = of_source.get(module.tensors["weight"].name) if "weight" in module.tensors else None
        if entry is None or len(entry.sources[0].shape) < 2:
            continue  # a norm keeps the channels
        shape = entry.sources[0].shape
        if len(shape) > 2:
            channels = shape[1] if entry.layout.key == "conv_transpose" else shape[0]
            before = module.name, channels
            continue
        inputs = shape[0] if entry.layout == INPUT_FIRST else shape[1]
        is_dense = entry.layout in (LINEAR, INPUT_FIRST)
        if before is not None and is_dense and module.name not in settled:
            positions, rest = divmod(inputs, before[1])
            if positions > 1 and not rest:
                yield _flattened_words(module.name, entry, inputs, positions, before)
        before = None


def _flattened_words(
    module: str, entry: Entry, inputs: int, positions: int, before: tuple[str, int]
) -> str:
    path = without_collection(entry.targets[0].path).rpartition("/")[0]
    name, channels = before
    side = math.isqrt(positions)
    window = f"{side},{side}" if side**2 == positions else f"H,W, where H · W = {positions}"
    return (
        f"{entry.sources[0].name} has {inputs} inputs: {positions} positions of {channels} "
        f"channels of {name}? PyTorch flattens a feature map with its channels first, Flax last. "
        f'If it is one, say its sizes with a pair, {{"{module}": ("{path}", "flatten '
        f'{channels},{window}")}}; if not, {{"{module}": ("{path}", "linear")}}.'
    )
