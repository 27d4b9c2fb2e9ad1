"""The choice of the modules of a model that are wrapped."""

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from jaxmup._tree import listed

ROOT = "model"  # the name of a model that is itself what is wrapped


def module_name(path: Iterable[Any]) -> str:
    """The name of a module, such as `"blocks/0/query"`.

    Example:
      >>> module_name(("blocks", 0)), module_name(())
      ('blocks/0', 'model')
    """
    return "/".join(map(str, path)) or ROOT


def innermost(paths: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The paths that no other one continues.

    Example:
      >>> innermost([(), ("mlp",), ("mlp", "up")])
      [('mlp', 'up')]
    """
    paths = list(paths)
    outer = {path[:end] for path in paths for end in range(len(path))}
    return [path for path in paths if path not in outer]


def choose(
    candidates: Collection[str], leaves: Iterable[str], patterns: Sequence[str] | None
) -> list[str]:
    """The modules that the patterns name.

    Args:
      candidates: every module with parameters, by name.
      leaves: those that hold no other module with parameters.
      patterns: names in which `*` matches any text; `None` for all leaves.

    Raises:
      ValueError: if there is none, a pattern matches none, or one chosen module holds another.

    Example:
      >>> choose(["mlp", "mlp/up", "mlp/down"], ["mlp/up", "mlp/down"], ["mlp/*"])
      ['mlp/up', 'mlp/down']
    """
    if patterns is None:
        chosen = list(leaves)
    else:
        found = named(candidates, patterns, "a module that has parameters")
        chosen = [name for name in candidates if name in found]
    if not chosen:
        raise ValueError("There must be a module with parameters to calibrate. Got none.")
    nested = [name for name in chosen if not _outer_names(name).isdisjoint(chosen)]
    if nested:
        raise ValueError(
            f"No chosen module may hold another one. Got{listed(nested)}\nwithin{listed(chosen)}"
        )
    return chosen


def named(names: Collection[str], patterns: Sequence[str], what: str) -> frozenset[str]:
    """The names that the patterns match.

    Raises:
      ValueError: if a pattern matches none; `what` says of what.
    """
    unused = [p for p in patterns if not fnmatch.filter(names, p)]
    if unused:
        raise ValueError(f"Every pattern must match {what}. Got{listed(unused)}\nof{listed(names)}")
    return frozenset(n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns))


def _outer_names(name: str) -> set[str]:
    """The names of the modules that a module stands in."""
    parts = name.split("/")
    return {module_name(parts[:end]) for end in range(len(parts))} - {name}
