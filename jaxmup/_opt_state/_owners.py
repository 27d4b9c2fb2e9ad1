"""The parameters that leaves of an optimizer's state belong to, and the transforms of each."""

from collections.abc import Callable, Iterable, Iterator

import jax
from jax import Array
from jax.tree_util import KeyPath

from jaxmup._opt_state._transform import FIXED
from jaxmup._opt_state._walk import Branches, Chain, Link, StatePath
from jaxmup._tree import PathName, Tree, path_name


class Owners:
    """The parameters that the leaves of an optimizer's state belong to.

    Args:
      parameters: Names of all parameters.

    Example:
      >>> Owners(["a/w", "b"]).leaves({"a": {"w": (1, 2)}, "b": 3})
      [('a/w', 1), ('a/w', 2), ('b', 3)]
    """

    def __init__(self, parameters: Iterable[PathName]):
        self._parameters = set(parameters)
        self._held: dict[StatePath, frozenset[PathName] | None] = {}

    def leaves(self, tree: Tree) -> list[tuple[PathName | None, Array]]:
        """The leaves of a field with their owners; `None` owns what all parameters share."""
        paths = jax.tree_util.tree_leaves_with_path(tree)
        return [(self._owner(path), leaf) for path, leaf in paths]

    def map(self, function: Callable[[PathName | None, Array], Array], tree: Tree) -> Tree:
        """Maps `function(owner, leaf)` over a field."""
        leaves = [function(owner, leaf) for owner, leaf in self.leaves(tree)]
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)

    def _owner(self, path: KeyPath) -> PathName | None:
        # Not by `named_leaves`, whose names depend on the whole tree: `optax.masked` may leave
        # nothing of an attention layer but the leaf "value", which is then no key of Orbax's.
        name = path_name(path)
        while name not in self._parameters:
            # A transform may keep several arrays for a parameter, below its name.
            name, parted, _ = name.rpartition("/")
            if not parted:
                return None
        return name

    def links(self, chain: Chain, parameter: PathName) -> Iterator[Link]:
        """The transforms of a chain that the update of `parameter` goes through."""
        for part in chain:
            if isinstance(part, Branches):
                for branch in part.chains.values():
                    if self._includes(branch, parameter):
                        yield from self.links(branch, parameter)
            else:
                # `optax.masked` lets updates by, and no state says which: but what a transform
                # inside keeps for a parameter, it keeps for no other.
                held = self._of_link(part)
                if held is None or parameter in held:
                    yield part

    def _includes(self, branch: Chain, parameter: PathName) -> bool:
        """Says if `parameter` belongs to this branch of a partition, as far as its states tell."""
        links = [part for part in branch if isinstance(part, Link)]
        held = [found for found in map(self._of_link, links) if found is not None]
        return not held or any(parameter in found for found in held)

    def _of_link(self, link: Link) -> frozenset[PathName] | None:
        """The parameters that a transform keeps arrays for; `None` if it keeps none for any."""
        if link.path not in self._held:
            fields = [field.value for field in link.fields if field.movement != FIXED]
            owners = {owner for tree in fields for owner, _ in self.leaves(tree)}
            found = frozenset(owner for owner in owners if owner is not None)
            # No leaf at all is what a mask leaves of the moments of parameters that it takes out;
            # leaves that nobody owns are shared by all.
            all_masked = any(not jax.tree.leaves(tree) for tree in fields)
            self._held[link.path] = found if found or all_masked else None
        return self._held[link.path]
