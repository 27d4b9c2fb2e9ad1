"""What the user says of names that don't speak for themselves."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxmup._tree import listed
from jaxmup.bridge._units import FlaxLayer, TorchLayer, without_collection

Rules = Mapping[str, str | tuple[str, str] | None]
LAYOUTS = ("linear", "conv1d", "conv", "conv_transpose")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
      pattern: name of a tensor or module of PyTorch; a `*` stands for a part without dots, `**`
        for any.
      path: of the leaf or layer of Flax, with the same parts for its `*`; `None` for what is left
        out, empty for what only needs a layout.
      layout: the key of the layout, if shapes don't tell it.
    """

    pattern: str
    path: str | None
    layout: str | None = None

    def expanded(self, name: str) -> str | None:
        """The path for a tensor; `None` if the rule is not about it.

        Example:
          >>> Rule("h.*.ln_1", "blocks/*/attention_norm").expanded("h.7.ln_1.weight")
          'blocks/7/attention_norm'
        """
        pattern = re.escape(self.pattern).replace(r"\*\*", "(.*)").replace(r"\*", "([^.]*)")
        found = re.match(rf"{pattern}(?=\.|$)", name)
        if found is None:
            return None
        parts = iter(found.groups())
        return re.sub(r"\*", lambda _: next(parts), self.path or "")

    def __str__(self) -> str:
        value = self.path if self.layout is None else (self.path, self.layout)
        return f"{self.pattern!r}: {value!r}"


def parse(rules: Rules | None) -> tuple[Rule, ...]:
    """Checks the rules.

    Raises:
      TypeError: if they are no mapping from strings to paths.
      ValueError: if a path repeats more parts of the name than its pattern has, or a layout is
        unknown.
    """
    rules = {} if rules is None else rules
    if not isinstance(rules, Mapping):
        raise TypeError(f"`rules` must map names to paths. Got {rules!r}.")
    return tuple(_parsed(pattern, value) for pattern, value in rules.items())


def _parsed(pattern: Any, value: Any) -> Rule:
    parts = list(value) if isinstance(value, tuple | list) else [value]
    paths = isinstance(value, str) or (len(parts) == 2 and all(isinstance(p, str) for p in parts))
    if not isinstance(pattern, str) or not (value is None or paths):
        raise TypeError(
            "A rule must map a name to a path, to a path and a layout, or to None. Got "
            f"{pattern!r}: {value!r}."
        )
    rule = Rule(pattern, *parts)
    if rule.layout is not None and rule.layout not in LAYOUTS:
        raise ValueError(f"The layout of a rule must be one of {LAYOUTS}. Got {rule}.")
    if rule.path is not None and rule.path.count("*") > pattern.count("*"):
        raise ValueError(f"The path of a rule must have no more `*` than its name. Got {rule}.")
    return rule


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What the rules leave open.

    Args:
      dropped: the modules of PyTorch that are left out, as indices.
      forced: for each module that a rule is about, the layers that it may become.
      free: the layers that the other modules may become.
      layouts: for each module of which a rule says it, how it is stored, and whether there must be
        such a way.
    """

    dropped: frozenset[int]
    forced: Mapping[int, frozenset[int]]
    free: frozenset[int]
    layouts: Mapping[int, tuple[str, bool]]

    def allowed(self, torch: int) -> frozenset[int]:
        """The layers that the rules let a module become."""
        return self.forced.get(torch, self.free)

    def among(self, torch: int, options: Sequence[Any]) -> list[Any]:
        """Those of the ways to convert a module that are stored as the rules say."""
        if torch not in self.layouts:
            return list(options)
        key, required = self.layouts[torch]
        found = [option for option in options if option[0].layout.key == key]
        return found if found or required else list(options)


def apply(rules: Sequence[Rule], torch: Sequence[TorchLayer], flax: Sequence[FlaxLayer]) -> Ruling:
    """What the rules say of these modules and layers; the first that is about a module holds.

    Raises:
      ValueError: naming a rule that is about nothing here.
    """
    holding = {u: rule for u, module in enumerate(torch) if (rule := _first(rules, module))}
    if idle := [rule for rule in rules if rule not in holding.values()]:
        raise ValueError(
            "Each rule must be about a tensor. These are about none, or earlier ones are about "
            f"theirs:{listed(map(str, idle))}\nThe modules are{listed(m.name for m in torch)}"
        )
    forced = {u: _layers_of(rule, torch[u], flax) for u, rule in holding.items() if rule.path}
    return Ruling(
        frozenset(u for u, rule in holding.items() if rule.path is None),
        forced,
        frozenset(range(len(flax))).difference(*forced.values()),
        {
            u: (rule.layout, bool(rule.path))
            for u, rule in holding.items()
            if rule.layout is not None
        },
    )


def _first(rules: Sequence[Rule], module: TorchLayer) -> Rule | None:
    names = [source.name for source in module.tensors.values()]
    about = (rule for rule in rules if any(rule.expanded(name) is not None for name in names))
    return next(about, None)


def _layers_of(rule: Rule, module: TorchLayer, flax: Sequence[FlaxLayer]) -> frozenset[int]:
    paths = {rule.expanded(source.name) for source in module.tensors.values()} - {None}
    found = frozenset(
        v for v, layer in enumerate(flax) if any(_is_under(layer, str(path)) for path in paths)
    )
    if not found:
        raise ValueError(
            f"A rule must lead to a layer of the model. {rule} leads from {module.name} to "
            f"{', '.join(map(str, paths))}. The layers are{listed(layer.name for layer in flax)}"
        )
    return found


def _is_under(layer: FlaxLayer, path: str) -> bool:
    path = without_collection(path)
    return any(
        f"{without_collection(part)}/".startswith(f"{path}/")
        for place in layer.places.values()
        for part in (place.path, f"{place.path}/{'/'.join(map(str, place.row))}")
    ) or f"{layer.name}/".startswith(f"{path}/")
