"""The RMS of arrays: sums inside of a compiled run, the rest outside of it.

XLA takes most of a coordinate check to compile, and compiles every sum, root and division on its
own. So each array is read once, by one operation for both of its sums, and the rest is NumPy's.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._tree import Tree

Quantity = Literal[
    "activation",
    "activation_change",
    "logits",
    "logits_change",
    "weight",
    "weight_change",
    "gradient",
    "scaled_gradient",
    "update",
    "update_ratio",
    "decay",
    "decay_ratio",
    "eps",
]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One quantity of a module or parameter.

    Args:
      quantity: Quantity that was measured.
      name: Name of the module or parameter.
      shape: Shape of one of its values.
      layered: Whether there is one for each layer of a scanned stack; then the last axis is theirs.
      rms: Root mean square, of shape `(seeds, steps)` or `(seeds, steps, layers)`; float32.
      mean_abs: Mean absolute value, of the same shape; `None` for ratios.
    """

    quantity: Quantity
    name: str
    shape: tuple[int, ...]
    layered: bool
    rms: np.ndarray
    mean_abs: np.ndarray | None = None


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["squares", "absolutes"],
    meta_fields=["quantity", "name", "shape", "layered", "entries"],
)
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over one value, from which a `Measured` is made once the run is over.

    Args:
      quantity: Quantity that the value is.
      name: Name of the module or parameter.
      shape: Shape of the value, of one layer.
      layered: Whether there is one sum for each layer.
      entries: Number of entries, of each layer.
      squares: Sum of the squares of the entries; float32.
      absolutes: Sum of the absolute values of the entries; float32.
    """

    quantity: Quantity
    name: str
    shape: tuple[int, ...]
    layered: bool
    entries: int
    squares: Any
    absolutes: Any

    @classmethod
    def of(
        cls,
        quantity: Quantity,
        name: str,
        values: Array,
        shape: tuple[int, ...],
        layered: bool,
        where: Array | None = None,
    ) -> "Sums":
        """The sums over `values`; with `where` those of the chosen entries, scaled up to all."""
        axes = tuple(range(1 if layered else 0, values.ndim))
        entries = math.prod(values.shape[axis] for axis in axes)
        if where is not None:
            values = jnp.where(where, values, 0)
        sums = _sums(values, axes)
        if where is not None:
            share = jnp.mean(where, axes)
            sums = sums[0] / share, sums[1] / share
        return cls(quantity, name, shape, layered, entries, *sums)

    def measured(self) -> Measured:
        """The root mean square and the mean absolute value, outside of the compiled run."""
        rms = np.sqrt(self.squares / self.entries)
        facts = (self.quantity, self.name, self.shape, self.layered)
        return Measured(*facts, rms, self.absolutes / self.entries)


def _sums(values: Array, axes: Sequence[int]) -> tuple[Array, Array]:
    """The sums of squares and of absolute values over the last axes, which are `axes`."""
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    sums = jnp.square(values), jnp.abs(values)
    # Over the very last axis first: a long sum in float32 loses what is added to it late. Both sums
    # are one variadic reduction, which reads the array once.
    for some in (tuple(axes[-1:]), tuple(axes[:-1])):
        sums = jax.lax.reduce(sums, (values.dtype.type(0),) * 2, _add, some)
    return sums


def _add(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    return one[0] + other[0], one[1] + other[1]


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["tree", "shapes"])
@dataclasses.dataclass(frozen=True)
class Packed:
    """Many small arrays as one: XLA takes long to compile a loop that has hundreds of results.

    Args:
      values: All entries, in order, on the last axis.
      tree: Structure of the tree that the arrays are the leaves of.
      shapes: Shape of each array, without the axes before the last.
    """

    values: Array
    tree: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, arrays: Tree) -> "Packed":
        """The leaves of a tree of arrays."""
        leaves, tree = jax.tree.flatten(arrays)
        values = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
        return cls(values, tree, tuple(np.shape(leaf) for leaf in leaves))

    def unpacked(self) -> Tree:
        """The packed tree, with NumPy arrays at its leaves."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = np.split(np.asarray(self.values), ends[:-1], axis=-1)
        leaves = [
            part.reshape(*part.shape[:-1], *shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.tree, leaves)
