"""The user's word for names that don't speak for themselves."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from jaxmup._check import listed
from jaxmup._tree import PathName
from jaxmup.bridge import _joints, _storage
from jaxmup.bridge._joints import Joint
from jaxmup.bridge._options import Option
from jaxmup.bridge._storage import LAYOUTS, Storage
from jaxmup.bridge._units import FlaxLayer, TorchLayer, without_collection

Pairs: TypeAlias = Mapping[str, str | tuple[str, ...] | None]
"""Paths of Flax by names of PyTorch; a path with the storage; or `None` for what is left out.

Paths under the name `""` keep the values of the model.
"""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A name of PyTorch with its path of Flax.

    Args:
      pattern: Name of a tensor or module of PyTorch; a `*` stands for a part without dots, `**`
        for any.
      path: Path of the leaf or layer of Flax, with the same parts for its `*`; `None` for what is
        left out, empty for what only needs a layout.
      storage: How PyTorch stores it, if shapes don't tell.
      joint: The layer of Flax that holds it beside others, if one does; then the path ends with its
        own name in brackets.
    """

    pattern: str
    path: str | None
    storage: Storage | None = None
    joint: Joint | None = None

    def expanded(self, name: str) -> str | None:
        """The path for a tensor; `None` if the pair is not about it.

        Example:
          >>> Pair("h.*.ln_1", "blocks/*/attention_norm").expanded("h.7.ln_1.weight")
          'blocks/7/attention_norm'
        """
        found = self._match(name)
        if found is None:
            return None
        parts = iter(found.groups())
        return re.sub(r"\*", lambda _: next(parts), self.path or "")

    def owner(self, name: str) -> str:
        """The part of a name, whole or that of a module, that the pattern is about."""
        found = self._match(name)
        return found.group() if found else ""

    def _match(self, name: str) -> re.Match[str] | None:
        # Stars are replaced after escaping, the longer first, so that they are all that is special.
        pattern = re.escape(self.pattern).replace(r"\*\*", "(.*)").replace(r"\*", "([^.]*)")
        # A pattern ends where a part of the name does: "h.1" is not about "h.10".
        return re.match(rf"{pattern}(?=\.|$)", name)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the layers that one tensor holds; empty if it holds one."""
        return self.storage.parts if self.storage else ()

    def __str__(self) -> str:
        value = self.path if self.storage is None else (self.path, self.storage.words)
        return f"{self.pattern!r}: {value!r}"


def parse(pairs: Pairs | None) -> tuple[Pair, ...]:
    """The pairs, checked.

    Raises:
      TypeError: if they are no mapping from strings to paths.
      ValueError: if a path repeats more parts of the name than its pattern has, or a layout is
        unknown.
    """
    pairs = {} if pairs is None else pairs
    if not isinstance(pairs, Mapping):
        raise TypeError(f"`pairs` must map names to paths. Got {pairs!r}.")
    return tuple(
        pair
        for pattern, value in pairs.items()
        if pattern != ""
        for pair in _parsed(pattern, value)
    )


ALIAS = "as "


def aliases(pairs: Pairs | None) -> dict[str, str]:
    """Tensors that a checkpoint holds under another name, with that name.

    Example:
      >>> aliases({"lm_head.weight": ("readout", "as wte.weight"), "wte": "embed"})
      {'lm_head.weight': 'wte.weight'}

    Raises:
      ValueError: if the name of one is a pattern.
    """
    found: dict[str, str] = {}
    for name, value in pairs.items() if isinstance(pairs, Mapping) else ():
        match value:
            case [str(), str() as words] if words.startswith(ALIAS):
                found[name] = words.removeprefix(ALIAS)
    if wrong := [f"{name!r}: {other!r}" for name, other in found.items() if "*" in name + other]:
        raise ValueError(f"A tensor with two names must be named in full. Got{listed(wrong)}")
    return found


def kept(pairs: Pairs | None, paths: Sequence[PathName]) -> frozenset[PathName]:
    """Leaves that keep the values of the model, which the pairs have under an empty name.

    Raises:
      TypeError: if something else than paths stands there.
      ValueError: if a path is that of no leaf.
    """
    value = (pairs or {}).get("", ())
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
        raise TypeError(f"A pair of an empty name must lead to paths that are kept. Got {value!r}.")
    found: set[PathName] = set()
    for pattern in patterns:
        regex = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        led = {p for p in paths if re.fullmatch(regex, without_collection(p))}
        if not led:
            raise ValueError(
                f"A pair must lead to a leaf of the model. {''!r}: {pattern!r} leads to none of"
                f"{listed(paths)}"
            )
        found |= led
    return frozenset(found)


def _parsed(pattern: object, value: object) -> list[Pair]:
    match pattern, value:
        case str(), str() | [str(), str()] if "|" in pattern:
            pairs = _joining(pattern, *([value, ""] if isinstance(value, str) else value))
            pair = pairs[0]
        case str(), str() | None:
            pairs = [pair := Pair(pattern, value)]
        case str(), [str() as path, str() as words] if words.startswith(ALIAS):
            pairs = [pair := Pair(pattern, path)]
        case str(), [str() as path, str() as words]:
            pairs = [pair := Pair(pattern, path, _stored(pattern, words))]
        case _:
            raise TypeError(
                "A pair must map a name to a path, to a path and a layout, or to None. Got "
                f"{pattern!r}: {value!r}."
            )
    if pair.path is not None and pair.path.count("*") > pattern.count("*"):
        raise ValueError(f"The path of a pair must have no more `*` than its name. Got {pair}.")
    return pairs


def _joining(pattern: str, path: str, words: str) -> list[Pair]:
    """A pair for each of the modules `attn.q|k|v`, with its part of the one layer of Flax."""
    owner, dot, last = pattern.rpartition(".")
    parts = tuple(last.split("|"))
    joint = _joints.parse(parts, words)
    if joint is None or not all(parts) or len(set(parts)) < len(parts):
        raise ValueError(
            "Modules that one layer of Flax holds must be named once each, and their order be "
            f"'heads' or one such as '8 groups', if they do not stand one after another. Got "
            f"{pattern!r}: {(path, words)!r}."
        )
    return [Pair(f"{owner}{dot}{part}", f"{path}[{part}]", None, joint) for part in parts]


def _stored(pattern: str, words: str) -> Storage:
    storage = _storage.parse(words)
    if storage is None:
        raise ValueError(
            f"`pairs[{pattern!r}][1]` must be one of {', '.join(map(repr, LAYOUTS))}; the parts of "
            "a packed tensor in their order, such as 'q|k|v', 'heads q|k|v' or '4 q|v|k'; or the "
            "sizes of the feature map that its inputs are, such as 'flatten 512,7,7'. Got "
            f"{words!r}."
        )
    return storage


@dataclasses.dataclass(frozen=True)
class Settled:
    """The part of a conversion that the pairs settle; modules and layers are indices.

    Args:
      dropped: Modules of PyTorch that are left out.
      forced: Layers that each module of which a pair names a path may become.
      free: Layers that the other modules may become.
      storages: How each module of which a pair says it is stored, and whether the module must have
        a way that is.
    """

    dropped: frozenset[int]
    forced: Mapping[int, frozenset[int]]
    free: frozenset[int]
    storages: Mapping[int, tuple[Storage, bool]]

    def allowed(self, module: int) -> frozenset[int]:
        """The layers that the pairs let a module become."""
        return self.forced.get(module, self.free)

    def among(self, module: int, options: Sequence[Option]) -> list[Option]:
        """Those of the ways to convert a module that are stored as the pairs say."""
        if module not in self.storages:
            return list(options)
        storage, required = self.storages[module]
        found = storage.among(options)
        # A pattern such as "**.conv*" may also name modules that have one way, of no key.
        return found if found or required else list(options)


def apply(pairs: Sequence[Pair], torch: Sequence[TorchLayer], flax: Sequence[FlaxLayer]) -> Settled:
    """All that the pairs say of these modules and layers; the first about a module holds.

    Raises:
      ValueError: naming a pair that is about nothing here.
    """
    holding = {u: pair for u, module in enumerate(torch) if (pair := _first(pairs, module))}
    if idle := [pair for pair in pairs if pair not in holding.values()]:
        raise ValueError(
            "Each pair must be about a tensor. These are about none, or earlier ones are about "
            f"theirs:{listed(map(str, idle))}\nThe modules are{listed(m.name for m in torch)}"
        )
    forced = {
        u: _layers_of(pair, torch[u], flax)
        for u, pair in holding.items()
        if pair.path or pair.parts
    }
    return Settled(
        frozenset(u for u, pair in holding.items() if pair.path is None),
        forced,
        # A layer that a pair names is its modules' alone: no other may be matched with it.
        frozenset(range(len(flax))).difference(*forced.values()),
        {
            u: (pair.storage, bool(pair.path or pair.parts))
            for u, pair in holding.items()
            if pair.storage is not None
        },
    )


def packed_owners(pairs: Sequence[Pair], torch: Sequence[TorchLayer]) -> dict[str, tuple[str, ...]]:
    """Paths of Flax whose layers PyTorch packs in one tensor, with the names of those layers."""
    found: dict[str, tuple[str, ...]] = {}
    for module in torch:
        pair = _first(pairs, module)
        if pair is not None and pair.parts:
            paths = (pair.expanded(source.name) for source in module.tensors.values())
            found |= {without_collection(p): pair.parts for p in paths if p is not None}
    return found


def joint_layers(
    pairs: Sequence[Pair], torch: Sequence[TorchLayer]
) -> dict[PathName, tuple[Joint, dict[str, int]]]:
    """Paths of layers of Flax that hold several modules, with the size of the weight of each.

    Raises:
      ValueError: if one of the modules is not there.
    """
    found: dict[PathName, tuple[Joint, dict[str, int]]] = {}
    for module in torch:
        pair = _first(pairs, module)
        if pair is not None and pair.joint is not None and "weight" in module.tensors:
            source = module.tensors["weight"]
            path, _, part = str(pair.expanded(source.name)).removesuffix("]").rpartition("[")
            _, sizes = found.setdefault(without_collection(path), (pair.joint, {}))
            sizes[part] = math.prod(source.shape)
    for path, (joint, sizes) in found.items():
        if lacking := [part for part in joint.parts if part not in sizes]:
            raise ValueError(
                f"Every module that {path} holds must be there. Of {'|'.join(joint.parts)} there "
                f"is no {', '.join(lacking)}."
            )
    return found


def standing_alone(
    pairs: Sequence[Pair], names: Sequence[str], paths: Collection[str]
) -> dict[str, str]:
    """Tensors that a pair leads to one leaf, whatever their names say, with the path of the leaf.

    They leave their modules, and the leaves their layers: so `gamma` becomes the scale of a norm.

    Args:
      pairs: The pairs.
      names: Names of the tensors.
      paths: Paths of the leaves, without the names of Linen's collections.
    """
    led: dict[tuple[str, str], list[str]] = {}
    for name in names:
        pair = next((pair for pair in pairs if pair.expanded(name) is not None), None)
        if pair is not None and pair.path and not pair.parts:
            path = without_collection(str(pair.expanded(name)))
            if path in paths:
                led.setdefault((pair.owner(name), path), []).append(name)
    # A module of several tensors cannot be one leaf.
    return {tensors[0]: path for (_, path), tensors in led.items() if len(tensors) == 1}


def _first(pairs: Sequence[Pair], module: TorchLayer) -> Pair | None:
    names = [source.name for source in module.tensors.values()]
    about = (pair for pair in pairs if any(pair.expanded(name) is not None for name in names))
    return next(about, None)


def _layers_of(pair: Pair, module: TorchLayer, flax: Sequence[FlaxLayer]) -> frozenset[int]:
    paths = {pair.expanded(source.name) for source in module.tensors.values()} - {None}
    candidates = [v for v, layer in enumerate(flax) if not pair.parts or layer.kind == "packed"]
    found = frozenset(v for v in candidates if any(_is_under(flax[v], str(path)) for path in paths))
    if not found:
        raise ValueError(
            f"A pair must lead to a layer of the model. {pair} leads from {module.name} to "
            f"{', '.join(map(str, paths))}. The layers are{listed(layer.name for layer in flax)}"
        )
    return found


def _is_under(layer: FlaxLayer, path: str) -> bool:
    """True if the layer, or one of its leaves, stands at `path` or below it.

    A row of a stack is meant by the path of a leaf with the index behind it, such as
    `"blocks/norm/scale/3"`; a path without one means all rows, which their numbers tell apart.
    """
    path = without_collection(path)
    return any(
        f"{without_collection(part)}/".startswith(f"{path}/")
        for place in layer.places.values()
        for part in (place.path, f"{place.path}/{'/'.join(map(str, place.row))}")
    ) or f"{layer.name}/".startswith((f"{path}/", f"{path}["))
