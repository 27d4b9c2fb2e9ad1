"""Rules that users give for parameters whose layer says nothing of their axes."""

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

UNUSED = "The outputs of the model do not depend on them."
READ = "Pass `inputs`, and `apply` if the model is no module, so that its program is read."


def with_rules(leaves: Mapping[str, Leaf], rules: Rules | None) -> dict[str, Leaf]:
    """The leaves, each with what a rule or its own axis names say of its axes.

    Raises:
      TypeError: if a rule is neither for a path nor for a tuple of axis names.
      ValueError: naming the leaves: if a rule matches nothing, two rules match one leaf, or a rule
        does not fit its leaf or says something else than the layer.
    """
    checked = {} if rules is None else {key: _kinds(key, value) for key, value in rules.items()}
    found: dict[str, Leaf] = {}
    used = set()
    wrong: list[str] = []
    for name, leaf in leaves.items():
        keys = [key for key in checked if _matches(key, name, leaf)]
        used.update(keys)
        wrong += _conflicts(name, leaf, {key: checked[key] for key in keys})
        kinds = checked[keys[0]] if keys else _own_kinds(leaf)
        found[name] = leaf if leaf.kinds is not None else leaf.with_kinds(kinds)
        if keys:  # the user has said how the layer uses it
            found[name] = _without_use(found[name])
    unused = [f"{key!r}" for key in checked if key not in used]
    if unused:
        raise ValueError(
            f"Every rule must match a parameter. These match none:{listed(unused)}\n"
            f"The parameters are{listed(_described(leaves))}"
        )
    if wrong:
        raise ValueError(f"Rules and parameters must fit each other. Got{listed(wrong)}\n{HOW}")
    return found


def require_kinds(leaves: Mapping[str, Leaf], has_program: bool) -> None:
    """Raises a `ValueError` naming every leaf of whose axes nothing is known."""
    unknown = {name: leaf for name, leaf in leaves.items() if leaf.kinds is None}
    if unknown:
        raise ValueError(
            "The axes of a parameter must be known from its uses in the program, from the type of "
            f"its layer, from axis names or from a rule. {len(unknown)} are not:"
            f"{listed(_described(unknown))}\n{UNUSED if has_program else READ} {HOW}"
        )


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
    if not any(names) or any(name not in (None, *KINDS) for name in names):
        return None
    return tuple(next(kind for kind in KINDS if kind == (name or "batch")) for name in names)


def _conflicts(name: str, leaf: Leaf, rules: Mapping[Any, Kinds]) -> Iterator[str]:
    where = f"{name} {leaf.shape}"
    if len(rules) > 1:
        yield f"{where}: {len(rules)} rules match it, {', '.join(map(repr, rules))}"
    for key, kinds in rules.items():
        if len(kinds) != len(leaf.shape):
            yield f"{where}: the rule {key!r} has {len(kinds)} axes"
        elif leaf.spec is not None:
            yield f"{where}: the rule {key!r} is for a jaxmup layer, which has its own"
        elif leaf.kinds not in (None, kinds):
            yield f"{where}: the rule {key!r} says {kinds}, its layer {leaf.kinds}"


def _without_use(leaf: Leaf) -> Leaf:
    return dataclasses.replace(leaf, uses=leaf.uses - {"lookup", "attend"})
