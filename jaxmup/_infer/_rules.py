"""The word of users on the axes of parameters: by rules, and by axis names that are kinds."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, get_args

from jaxmup._infer._leaf import Kinds, Leaf
from jaxmup._spec import AxisKind
from jaxmup._tree import listed

Rules: TypeAlias = Mapping[str | tuple[str | None, ...], tuple[str, ...]]
"""The kind of each axis of the parameters that a pattern of paths, or their axis names, match."""
KINDS: tuple[AxisKind, ...] = get_args(AxisKind)
HOW = (
    'Give a rule: `rules={"blocks/*/kernel": ("input", "output")}` for the parameters whose path '
    'matches, or `rules={("embed", "mlp"): ("input", "output")}` for those with these axis names, '
    "with one of " + ", ".join(map(repr, KINDS)) + " for each axis."
)


def with_rules(leaves: Mapping[str, Leaf], rules: Rules | None) -> dict[str, Leaf]:
    """The leaves, each with what a rule or its own axis names say of its axes.

    A rule is for those of the leaves that it matches that have as many axes as it names.

    Raises:
      TypeError: if a rule is neither for a path nor for a tuple of axis names.
      ValueError: naming the leaves: if a rule matches nothing, or nothing with its number of axes,
        two rules say different things of one leaf, or a rule is for a leaf of a jaxmup layer.
    """
    checked = {} if rules is None else {key: _kinds(key, value) for key, value in rules.items()}
    matched = {
        key: {name: leaf for name, leaf in leaves.items() if _matches(key, name, leaf)}
        for key in checked
    }
    unused = [f"{key!r}" for key, found in matched.items() if not found]
    if unused:
        raise ValueError(
            f"Every rule must match a parameter. These match none:{listed(unused)}\n"
            f"The parameters are{listed(_described(leaves))}"
        )
    of_rank = {
        key: {n: leaf for n, leaf in found.items() if len(leaf.shape) == len(checked[key])}
        for key, found in matched.items()
    }
    wrong = [*_of_no_leaf(checked, matched, of_rank), *_conflicts(leaves, checked, of_rank)]
    if wrong:
        raise ValueError(f"Rules and parameters must fit each other. Got{listed(wrong)}\n{HOW}")
    given = {name: checked[key] for key, found in of_rank.items() for name in found}
    return {
        name: dataclasses.replace(leaf, known=given.get(name, _own_kinds(leaf)))
        for name, leaf in leaves.items()
    }


def _described(leaves: Mapping[str, Leaf]) -> Iterator[str]:
    for name, leaf in leaves.items():
        names = "" if leaf.names is None else f", axis names {leaf.names}"
        yield f"{name} {leaf.shape}{names}"


def _kinds(key: Any, value: Any) -> Kinds:
    if isinstance(key, tuple) and all(isinstance(part, str | None) for part in key):
        _require_distinct(key)
    elif not isinstance(key, str):
        raise TypeError(f"A rule must be for a path or a tuple of axis names. Got {key!r}. {HOW}")
    if not isinstance(value, tuple | list) or any(kind not in KINDS for kind in value):
        raise ValueError(f"A rule must say what each axis does. Got {key!r}: {value!r}. {HOW}")
    return tuple(value)


def _require_distinct(names: tuple[str | None, ...]) -> None:
    given = [name for name in names if name is not None]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise ValueError(f"Axis names must differ. Got {', '.join(twice)} twice in {names}. {HOW}")


def _matches(key: Any, name: str, leaf: Leaf) -> bool:
    return fnmatch.fnmatchcase(name, key) if isinstance(key, str) else key == leaf.names


def _own_kinds(leaf: Leaf) -> Kinds | None:
    """The axis names, where they are kinds of axes; an axis without a name is a batch axis."""
    names = leaf.names or ()
    if len(names) != len(leaf.shape) or not any(names):
        return None
    if any(name not in (None, *KINDS) for name in names):
        return None
    return tuple(next(kind for kind in KINDS if kind == (name or "batch")) for name in names)


def _of_no_leaf(
    rules: Mapping[Any, Kinds],
    matched: Mapping[Any, Mapping[str, Leaf]],
    of_rank: Mapping[Any, Mapping[str, Leaf]],
) -> Iterator[str]:
    for key, kinds in rules.items():
        if not of_rank[key]:
            for name, leaf in matched[key].items():
                yield f"{name} {leaf.shape}: the rule {key!r} has {len(kinds)} axes"


def _conflicts(
    leaves: Mapping[str, Leaf],
    rules: Mapping[Any, Kinds],
    of_rank: Mapping[Any, Mapping[str, Leaf]],
) -> Iterator[str]:
    for name, leaf in leaves.items():
        keys = [key for key, found in of_rank.items() if name in found]
        where = f"{name} {leaf.shape}"
        if len({rules[key] for key in keys}) > 1:
            words = " and ".join(f"{key!r} {rules[key]}" for key in keys)
            yield f"{where}: rules that match it say different things, {words}"
        if keys and leaf.spec is not None:
            yield f"{where}: the rule {keys[0]!r} is for a jaxmup layer, which has its own"
