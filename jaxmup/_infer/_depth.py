"""Parameters of the base model that stand for those of a target with another depth."""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from jaxmup._tree import listed


def counterparts(base: Mapping[str, Hashable], target: Iterable[str]) -> dict[str, str]:
    """The name in the base model of each parameter of the target.

    Parameters of the same name stand for each other, unless the two models have different numbers
    of layers: then all those layers must be alike in the base model, and the first stands for each.

    Args:
      base: Things that must be alike, such as shapes, by the name of the parameter.
      target: Names of the target's parameters.

    Raises:
      ValueError: naming the parameters of the target that no parameter of the base stands for, or
        layers whose number differs and that are not alike.

    Example:
      >>> base = {"blocks/0/w": (8, 8), "blocks/1/w": (8, 8), "head/w": (8, 2)}
      >>> counterparts(base, ["blocks/0/w", "blocks/1/w", "blocks/2/w", "head/w"])["blocks/2/w"]
      'blocks/0/w'
    """
    tree = _nested({name: (name, value) for name, value in base.items()})
    wanted = _nested({name: name for name in target})
    return dict(_matched(tree, wanted, ""))


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _matched(base: Any, target: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(target, str) and isinstance(base, tuple):
        yield target, base[0]
        return
    if isinstance(target, str) or isinstance(base, tuple):
        raise ValueError(_STRUCTURE.format(listed([where])))
    for stem in dict.fromkeys(_stem(key) for key in (*base, *target)):
        ours, theirs = ([key for key in tree if _stem(key) == stem] for tree in (base, target))
        if set(ours) == set(theirs):
            pairs = [(key, key) for key in theirs]
        else:
            _require_alike([base[key] for key in ours], theirs, f"{where}{stem}")
            pairs = [(ours[0], key) for key in theirs]
        for our, their in pairs:
            yield from _matched(base[our], target[their], f"{where}{their}/")


def _stem(key: str) -> str:
    """The common part of layers of one kind: of `"Block_3"` and `"Block_4"`, `"3"` and `"4"`."""
    return re.sub(r"\d+$", "*", key)


def _require_alike(layers: list[Any], wanted: list[str], where: str) -> None:
    if not layers or not wanted:
        raise ValueError(_STRUCTURE.format(listed([where])))
    if any(_values(layer) != _values(layers[0]) for layer in layers[1:]):
        raise ValueError(
            f"Where base and target have different numbers of layers, the layers must be alike in "
            f"the base model. Those of {where} are not: their number is {len(layers)} in `base` "
            f"and {len(wanted)} in `target`. Give both the same depth, or name layers that differ "
            "differently."
        )


def _values(tree: Any) -> Any:
    """`tree` without names."""
    if isinstance(tree, tuple):
        return tree[1]
    return {key: _values(child) for key, child in tree.items()}


_STRUCTURE = (
    "Base and target must have the same parameters, but for the number of layers of one kind. "
    "They differ at{}\nBuild both with the same options."
)
