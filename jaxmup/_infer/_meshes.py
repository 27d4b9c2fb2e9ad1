"""A model on a mesh of devices: made without it, then laid out as its constructor does."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxmup._program import ClosedJaxpr, Node, flatten, no_mesh

T = TypeVar("T")

Place: TypeAlias = Callable[[Array], Array]
"""Lays an array out over devices; equal ones have one hash."""


def off_mesh(function: Callable[[], T]) -> T:
    """What a function of the user's programs returns, outside of the mesh if they can do without.

    The sizes of a base model need not divide a mesh, and nothing of it stays. Flax lays nothing out
    in there; a program that names axes of the mesh itself is run inside of it.
    """
    if is_on_mesh():
        with contextlib.suppress(Exception), nnx.use_eager_sharding(False), no_mesh():
            return function()
    with nnx.use_eager_sharding(False):
        return function()


def is_on_mesh() -> bool:
    """True inside of a mesh of devices."""
    return not jax.sharding.get_abstract_mesh().empty


def place_of(leaf: Any) -> Place:
    """Lays a value out as the constructor of this abstract leaf does, as far as its type says."""
    if isinstance(leaf, nnx.Variable):
        return _place_of_variable(leaf)
    sharding = getattr(leaf, "sharding", None)  # of a mesh of explicit axes
    return Constrained(sharding.spec) if isinstance(sharding, NamedSharding) else anywhere


def places_in(program: ClosedJaxpr) -> list[Place]:
    """The layouts of a program's outputs that it asks for itself, by a sharding constraint."""
    flat = flatten(program)
    return [_place_in(node) for node in flat.outputs]


def _place_in(node: Node) -> Place:
    while node.op != "sharding_constraint":
        alike = [parent for parent in node.parents if parent.shapes[0] == node.shapes[0]]
        if len(alike) != 1:
            return anywhere
        (node,) = alike
    return Constrained(node.equations[0].params["sharding"].spec)


def anywhere(value: Array) -> Array:
    """The value, wherever it is."""
    return value


@dataclasses.dataclass(frozen=True)
class Constrained:
    """Lays a value out over the axes of the mesh.

    Args:
      spec: Axes of the mesh along each axis of the value.
    """

    spec: PartitionSpec

    def __call__(self, value: Array) -> Array:
        """The value, laid out."""
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.are_all_axes_explicit:
            return jax.sharding.reshard(value, self.spec)
        return jax.lax.with_sharding_constraint(value, self.spec)


def _place_of_variable(variable: nnx.Variable[Any]) -> Place:
    metadata = variable.get_metadata()
    if not metadata.get("eager_sharding") or not metadata.get("out_sharding"):
        return anywhere
    names = ("out_sharding", "sharding_rules", "mesh")
    return _AsVariable(tuple((name, metadata[name]) for name in names if name in metadata))


@dataclasses.dataclass(frozen=True)
class _AsVariable:
    """Lays a value out as the metadata of an NNX variable say.

    Args:
      metadata: Name and value of each.
    """

    metadata: Sequence[tuple[str, Any]]

    def __call__(self, value: Array) -> Array:
        """The value, laid out by the constructor of Flax's variable."""
        return nnx.Param(value, **dict(self.metadata)).get_value()
