"""The scales that a pass applies to a module, and the sums that it returns for it.

Both are short vectors beside the module's parameters, so that whatever stacks or slices those,
such as a scan over layers, does the same to them. The pass returns a tally as the cotangent of a
zero: the cotangents of a module that is used several times add up, and so do its tallies.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxmup._check import is_traced
from jaxmup._tree import Params, Tree

Shape: TypeAlias = tuple[int, ...]


class Given(NamedTuple):
    """Scales that a pass applies, each a scalar or one for each module of a stack.

    Args:
      fixed: 1 where the scales below are applied, 0 where each use of the module measures its own.
      activation: Factor on the outputs.
      gradient: Factor on the gradient that leaves the module through its inputs.
      update: Factor on the gradient of the parameters, or on their learning rate.
    """

    fixed: Any
    activation: Any
    gradient: Any
    update: Any


class Tally(NamedTuple):
    """Sums over the uses of a module in one pass, each a scalar or one for each of a stack.

    Args:
      uses: 1 for each use that the loss depends on.
      activation: Mean square of the outputs, scaled.
      gradient: Mean square of the gradient that leaves through the inputs, scaled; of several
        inputs, the largest.
      update: Mean square of the change of the outputs per learning rate, scaled.
      reached: 1 where the gradient of the outputs is not zero.
      dead: Fraction of the output features whose gradient is zero for the whole batch.
      activation_scale: Factor that was applied to the outputs.
      gradient_scale: Factor that was applied to the gradient that leaves.
      update_scale: Factor that was applied to the gradient of the parameters.
    """

    uses: Any
    activation: Any
    gradient: Any
    update: Any
    reached: Any
    dead: Any
    activation_scale: Any
    gradient_scale: Any
    update_scale: Any

    def per_use(self) -> "Tally":
        """The means over the uses, of which there must be one."""
        return Tally(*(field / self.uses for field in self))


class Seen(NamedTuple):
    """Facts about a module, from an abstract run.

    Args:
      lead: Sizes of the leading axes that scans and `vmap` add to its parameters.
      gradient: Whether it has an input that a gradient can leave through.
      dtype: Dtype of its scales: the real dtype of its parameters, float32 at least.
    """

    lead: Shape
    gradient: bool
    dtype: DTypeLike


def packed(fields: Given | Tally) -> Array:
    """The fields as one array, along a new last axis."""
    return jnp.stack(jnp.broadcast_arrays(*fields), axis=-1)


def given(vector: Array) -> Given:
    """The fields of a packed `Given`."""
    return Given(*jnp.moveaxis(vector, -1, 0))


def tally(vector: ArrayLike) -> Tally:
    """The fields of a packed `Tally`, by NumPy unless it is traced."""
    xp = namespace(vector)
    return Tally(*xp.moveaxis(xp.asarray(vector), -1, 0))


def any_traced(tree: Tree) -> bool:
    """True if any of the leaves has no value yet."""
    return any(map(is_traced, jax.tree.leaves(tree)))


def namespace(tree: Tree) -> ModuleType:
    """NumPy, or for what is traced JAX's."""
    return jnp if any_traced(tree) else np


def free(seen: Seen) -> np.ndarray:
    """A packed `Given` that fixes nothing."""
    return _constant(seen, Given(fixed=0.0, activation=1.0, gradient=1.0, update=1.0))


def fixed(
    seen: Seen, activation: ArrayLike = 1.0, gradient: ArrayLike = 1.0, update: ArrayLike = 1.0
) -> np.ndarray:
    """A packed `Given` that fixes every scale, each a scalar or one for each of a stack."""
    return _constant(seen, Given(1.0, activation, gradient, update))


def blank(seen: Seen) -> np.ndarray:
    """The zero whose cotangent is the tally."""
    return _constant(seen, (0.0,) * len(Tally._fields))


def _constant(seen: Seen, fields: tuple[ArrayLike, ...]) -> np.ndarray:
    # By NumPy, which has nothing to compile.
    wide = [np.broadcast_to(np.asarray(field, seen.dtype), seen.lead) for field in fields]
    return np.stack(wide, axis=-1)


def real_dtype(params: Params) -> DTypeLike:
    """The widest real dtype of the leaves, float32 at least."""
    dtypes = [jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(params)]
    return jnp.result_type(jnp.float32, *dtypes)


def stacked_axes(name: str, outer: Mapping[str, Shape], inner: Mapping[str, Shape]) -> Shape:
    """The sizes of the leading axes that each use of the module takes a slice of.

    Args:
      name: Name of the module.
      outer: Shape of each of its parameters in the model, by name.
      inner: Shape of each of its parameters where it is used.

    Raises:
      ValueError: if the axes are not the first ones, or not those of all its parameters.
    """
    leads: set[Shape | None] = set()
    for parameter, shape in inner.items():
        extra = len(outer[parameter]) - len(shape)
        leads.add(outer[parameter][:extra])
        if extra < 0 or outer[parameter][extra:] != shape:
            leads.add(None)
    if len(leads) != 1 or None in leads:
        raise ValueError(
            f"A scan or `vmap` over modules must stack their parameters along the first axis. "
            f"{name} has {dict(outer)} in the model and {dict(inner)} where it is used. "
            "Stack them along axis 0."
        )
    return next(lead for lead in leads if lead is not None)


def members(name: str, lead: Sequence[int]) -> list[tuple[Shape, str]]:
    """Index and name of each module of a stack, such as `"blocks/up[3]"`."""
    return [(index, name + "".join(f"[{i}]" for i in index)) for index in np.ndindex(*lead)]
