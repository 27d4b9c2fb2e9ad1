"""A model on a mesh of devices: made without it, then laid out as its constructor does."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
from flax import linen as nn
from flax import nnx
from flax.linen.spmd import logical_to_mesh_axes
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxmup._check import listed
from jaxmup._program import ClosedJaxpr, Node, flatten, no_mesh
from jaxmup._tree import path_name

T = TypeVar("T")

Place: TypeAlias = Callable[[Array], Array]
"""Lays an array out over devices; equal ones have one hash."""


def off_mesh(function: Callable[[], T]) -> T:
    """The result of a function of the user's programs, outside of the mesh if they can do without.

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


def require_divisible(params: Any) -> None:
    """Raises a `ValueError` unless the mesh divides each parameter along the axes of its layout.

    Args:
      params: Parameters as shapes, in the boxes of Flax that say how they are laid out.
    """
    with_paths, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_boxed)
    _require_divisible(
        (path_name(path), jax.tree.leaves(leaf)[0].shape, _spec_of(leaf))
        for path, leaf in with_paths
    )


def require_places(places: Mapping[str, Place], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a `ValueError` unless the mesh divides each parameter where a program constrains it.

    Args:
      places: Layout of each parameter.
      shapes: Shape of each.
    """
    _require_divisible(
        (name, shapes[name], place.spec)
        for name, place in places.items()
        if isinstance(place, Constrained)
    )


def _require_divisible(laid_out: Iterable[tuple[str, tuple[int, ...], PartitionSpec]]) -> None:
    wrong = [line for one in laid_out for line in _indivisible(*one)]
    if wrong:
        raise ValueError(
            f"The mesh must divide the model of `target`. It does not divide{listed(wrong)}\n"
            "Choose a target whose sizes are multiples, or lay these axes out otherwise."
        )


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable | nn.meta.AxisMetadata)


def _spec_of(leaf: Any) -> PartitionSpec:
    """The axes of the mesh that the box of a parameter names."""
    if isinstance(leaf, nnx.Variable):
        names = leaf.get_metadata().get("out_sharding")
        is_named = isinstance(names, tuple | list | PartitionSpec)
        return nnx.get_partition_spec(leaf).get_value() if is_named else PartitionSpec()
    if isinstance(leaf, nn.LogicallyPartitioned):
        return logical_to_mesh_axes(leaf.names, leaf.rules) or PartitionSpec()
    return leaf.get_partition_spec() if isinstance(leaf, nn.Partitioned) else PartitionSpec()


def _indivisible(name: str, shape: tuple[int, ...], spec: PartitionSpec) -> Iterator[str]:
    devices = jax.sharding.get_abstract_mesh().shape
    for axis, entry in enumerate(spec):
        names = entry if isinstance(entry, tuple) else (entry,)
        number = math.prod(devices.get(one, 1) for one in names)
        if shape[axis] % number:
            over = " and ".join(map(repr, names))
            yield f"{name} {shape}: axis {axis} over {over} of {number} devices"


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
