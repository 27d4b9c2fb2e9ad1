"""The user's word for names that don't speak for themselves."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from jaxmup import _check
from jaxmup._check import listed
from jaxmup.bridge._options import Option
from jaxmup.bridge._units import FlaxLayer, TorchLayer, without_collection

Pairs: TypeAlias = Mapping[str, str | tuple[str, str] | None]
"""Paths of Flax by names of PyTorch; a path with a layout; or `None` for what is left out."""
LAYOUTS = ("linear", "conv1d", "conv", "conv_transpose")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A name of PyTorch with its path of Flax.

    Args:
      pattern: Name of a tensor or module of PyTorch; a `*` stands for a part without dots, `**`
        for any.
      path: Path of the leaf or layer of Flax, with the same parts for its `*`; `None` for what is
        left out, empty for what only needs a layout.
      layout: Key of the layout, if shapes don't tell it.
    """

    pattern: str
    path: str | None
    layout: str | None = None

    def expanded(self, name: str) -> str | None:
        """The path for a tensor; `None` if the pair is not about it.

        Example:
          >>> Pair("h.*.ln_1", "blocks/*/attention_norm").expanded("h.7.ln_1.weight")
          'blocks/7/attention_norm'
        """
        # Stars are replaced after escaping, the longer first, so that they are all that is special.
        pattern = re.escape(self.pattern).replace(r"\*\*", "(.*)").replace(r"\*", "([^.]*)")
        # A pattern ends where a part of the name does: "h.1" is not about "h.10".
        found = re.match(rf"{pattern}(?=\.|$)", name)
        if found is None:
            return None
        parts = iter(found.groups())
        return re.sub(r"\*", lambda _: next(parts), self.path or "")

    def __str__(self) -> str:
        value = self.path if self.layout is None else (self.path, self.layout)
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
    return tuple(_parsed(pattern, value) for pattern, value in pairs.items())


def _parsed(pattern: object, value: object) -> Pair:
    match pattern, value:
        case str(), str() | None:
            pair = Pair(pattern, value)
        case str(), [str() as path, str() as layout]:
            pair = Pair(pattern, path, layout)
        case _:
            raise TypeError(
                "A pair must map a name to a path, to a path and a layout, or to None. Got "
                f"{pattern!r}: {value!r}."
            )
    if pair.layout is not None:
        _check.one_of(f"pairs[{pattern!r}][1]", pair.layout, LAYOUTS)
    if pair.path is not None and pair.path.count("*") > pattern.count("*"):
        raise ValueError(f"The path of a pair must have no more `*` than its name. Got {pair}.")
    return pair


@dataclasses.dataclass(frozen=True)
class Settled:
    """The part of a conversion that the pairs settle; modules and layers are indices.

    Args:
      dropped: Modules of PyTorch that are left out.
      forced: Layers that each module of which a pair names a path may become.
      free: Layers that the other modules may become.
      layouts: Key of the layout of each module of which a pair names it, and whether the module
        must have a way of that layout.
    """

    dropped: frozenset[int]
    forced: Mapping[int, frozenset[int]]
    free: frozenset[int]
    layouts: Mapping[int, tuple[str, bool]]

    def allowed(self, module: int) -> frozenset[int]:
        """The layers that the pairs let a module become."""
        return self.forced.get(module, self.free)

    def among(self, module: int, options: Sequence[Option]) -> list[Option]:
        """Those of the ways to convert a module that are stored as the pairs say."""
        if module not in self.layouts:
            return list(options)
        key, required = self.layouts[module]
        found = [option for option in options if option[0].layout.key == key]
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
    forced = {u: _layers_of(pair, torch[u], flax) for u, pair in holding.items() if pair.path}
    return Settled(
        frozenset(u for u, pair in holding.items() if pair.path is None),
        forced,
        # A layer that a pair names is its modules' alone: no other may be matched with it.
        frozenset(range(len(flax))).difference(*forced.values()),
        {
            u: (pair.layout, bool(pair.path))
            for u, pair in holding.items()
            if pair.layout is not None
        },
    )


def _first(pairs: Sequence[Pair], module: TorchLayer) -> Pair | None:
    names = [source.name for source in module.tensors.values()]
    about = (pair for pair in pairs if any(pair.expanded(name) is not None for name in names))
    return next(about, None)


def _layers_of(pair: Pair, module: TorchLayer, flax: Sequence[FlaxLayer]) -> frozenset[int]:
    paths = {pair.expanded(source.name) for source in module.tensors.values()} - {None}
    found = frozenset(
        v for v, layer in enumerate(flax) if any(_is_under(layer, str(path)) for path in paths)
    )
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
    ) or f"{layer.name}/".startswith(f"{path}/")
