"""The variables of a Linen module: parts of it by path, and the scales that stand beside them."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jax import Array

from jaxmup._tree import Params, Tree, leaves_by_path
from jaxmup.empirical._measurable import ModulePath

Variables: TypeAlias = Mapping[str, Any]
"""The collections of a Linen module by name."""
COLLECTION = "empirical"  # the collection of the scales
# Beside the parameters of a module for one pass: a scan over layers slices them alike.
SLOT = "jaxmup.empirical"


def scales_by_path(variables: Variables) -> dict[ModulePath, dict[str, Array]]:
    """The scales of each module that has some, by its path."""
    found: dict[ModulePath, dict[str, Array]] = {}
    for name, leaf in leaves_by_path(variables.get(COLLECTION, {})).items():
        *path, scale = name.split("/")
        found.setdefault(tuple(path), {})[scale] = leaf
    return found


def module_paths(params: Params) -> list[ModulePath]:
    """The paths of all modules that have parameters, the outermost first.

    Example:
      >>> module_paths({"mlp": {"up": {"kernel": 1}}})
      [(), ('mlp',), ('mlp', 'up')]
    """
    found: list[ModulePath] = []

    def visit(path: ModulePath, tree: Tree) -> None:
        if isinstance(tree, Mapping):
            found.append(path)
            for name, child in tree.items():
                visit((*path, name), child)

    visit((), params)
    return found


def part_at(tree: Tree, path: ModulePath) -> Tree:
    """The subtree at a path."""
    for name in path:
        tree = tree[name]
    return tree


def with_part(tree: Tree, path: ModulePath, part: Tree) -> Tree:
    """The tree with `part` at the path.

    Example:
      >>> with_part({"a": {"b": 1}}, ("a", "c"), 2)
      {'a': {'b': 1, 'c': 2}}
    """
    if not path:
        return part
    name, *rest = path
    return {**tree, name: with_part(tree.get(name, {}), tuple(rest), part)}


def with_slots(params: Params, slots: Mapping[ModulePath, Tree]) -> Params:
    """Parameters with a slot beside those of each module."""
    for path, slot in slots.items():
        params = with_part(params, (*path, SLOT), slot)
    return params
