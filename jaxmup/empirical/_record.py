"""What is fixed of a module before a pass, and what the pass says of it afterwards.

Both are short vectors beside the module's parameters, so that whatever stacks or slices those,
such as a scan over layers, does the same to them. The pass returns a record as the cotangent of a
zero: the cotangents of a module that is used several times add up, and so do its records.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


class Given(NamedTuple):
    """Scales that a pass applies.

    Args:
      fixed: 1 where the scales below are applied, 0 where each use of the module measures its own.
      activation: factor on the outputs.
      gradient: factor on the gradient that leaves the module through its inputs.
      update: factor on the gradient of the parameters, or on their learning rate.
    """

    fixed: Any
    activation: Any
    gradient: Any
    update: Any


class Record(NamedTuple):
    """Sums over the uses of a module in one pass.

    Args:
      uses: 1 for each use that the loss depends on.
      activation: mean square of the outputs, scaled.
      gradient: mean square of the gradient that leaves through the inputs, scaled, of the largest.
      update: mean square of the change of the outputs per learning rate, scaled.
      reached: 1 where the gradient of the outputs is not zero.
      dead: fraction of the output features whose gradient is zero for the whole batch.
      activation_scale: the factor that was applied to the outputs.
      gradient_scale: the same, to the gradient that leaves.
      update_scale: the same, to the gradient of the parameters.
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

    def per_use(self) -> "Record":
        """The means over the uses, of which there must be one."""
        return Record(*(field / self.uses for field in self))


class Seen(NamedTuple):
    """What an abstract run says of a module.

    Args:
      lead: sizes of the leading axes that scans and `vmap` add to its parameters.
      gradient: whether it has an input that a gradient can leave through.
      dtype: of its scales: the real dtype of its parameters, float32 at least.
    """

    lead: tuple[int, ...]
    gradient: bool
    dtype: Any


def packed(fields: Given | Record) -> Array:
    """The fields as one array, along a new last axis."""
    return jnp.stack(jnp.broadcast_arrays(*fields), axis=-1)


def given(vector: Array) -> Given:
    """The fields of `packed`."""
    return Given(*jnp.moveaxis(vector, -1, 0))


def record(vector: Any) -> Record:
    """The same of a record, by NumPy unless it is traced."""
    xp = namespace(vector)
    return Record(*xp.moveaxis(xp.asarray(vector), -1, 0))


def is_traced(tree: Any) -> bool:
    """Whether any of the leaves has no value yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def namespace(x: Any) -> Any:
    """NumPy, or for what is traced JAX's."""
    return jnp if is_traced(x) else np


def free(seen: Seen) -> np.ndarray:
    """A `Given` that fixes nothing."""
    return _constant(seen, Given(fixed=0.0, activation=1.0, gradient=1.0, update=1.0))


def fixed(seen: Seen, activation: Any = 1.0, gradient: Any = 1.0, update: Any = 1.0) -> np.ndarray:
    """A `Given` that fixes every scale, each a scalar or one for each module of a stack."""
    return _constant(seen, Given(1.0, activation, gradient, update))


def blank(seen: Seen) -> np.ndarray:
    """The zero whose cotangent is the record."""
    return _constant(seen, (0.0,) * len(Record._fields))


def _constant(seen: Seen, fields: tuple[Any, ...]) -> np.ndarray:
    # By NumPy, which has nothing to compile.
    wide = [np.broadcast_to(np.asarray(field, seen.dtype), seen.lead) for field in fields]
    return np.stack(wide, axis=-1)


def real_dtype(tree: Any) -> Any:
    """The widest real dtype of the leaves, float32 at least."""
    dtypes = [jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(tree)]
    return jnp.result_type(jnp.float32, *dtypes)


def stacked_axes(name: str, outer: Mapping[str, Any], inner: Mapping[str, Any]) -> tuple[int, ...]:
    """The sizes of the leading axes that each use of the module takes a slice of.

    Args:
      name: of the module.
      outer: shapes of its parameters in the model, by their names.
      inner: the same where it is used.

    Raises:
      ValueError: if the axes are not the first ones, or not those of all its parameters.
    """
    leads = set()
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
    return next(iter(leads))


def members(name: str, lead: Sequence[int]) -> list[tuple[tuple[int, ...], str]]:
    """Index and name of each module of a stack, such as `"blocks/up[3]"`."""
    return [(index, name + "".join(f"[{i}]" for i in index)) for index in np.ndindex(*lead)]
