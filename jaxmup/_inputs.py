"""Arguments that a model is called with: which are positional, and which are arrays."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmup._tree import Tree


class Call(NamedTuple):
    """The arguments of one call of a model.

    Args:
      args: Positional arguments, each any tree.
      kwargs: Keyword arguments, each any tree.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}

    def with_zeros(self) -> "Call":
        """The call with zeros in place of `jax.ShapeDtypeStruct`s."""
        return jax.tree.map(
            lambda x: jax.numpy.zeros(x.shape, x.dtype) if _is_shape(x) else x, self
        )


def as_call(inputs: Any) -> Call:
    """The call that `inputs` stand for.

    A plain tuple holds positional arguments, and a mapping with no other keys than `"args"` and
    `"kwargs"` both kinds. Anything else is one positional argument: an array, and any other tree,
    a `NamedTuple` or a dataclass among them.

    Example:
      >>> as_call((1, False))
      Call(args=(1, False), kwargs={})
      >>> as_call({"args": 1, "kwargs": {"train": False}})
      Call(args=(1,), kwargs={'train': False})
      >>> as_call({"tokens": 1, "mask": 2})
      Call(args=({'tokens': 1, 'mask': 2},), kwargs={})
    """
    if isinstance(inputs, Call):
        return inputs
    if isinstance(inputs, Mapping) and inputs and inputs.keys() <= {"args", "kwargs"}:
        positional = inputs.get("args", ())
        return Call(as_call(positional).args, dict(inputs.get("kwargs", {})))
    return Call(inputs if type(inputs) is tuple else (inputs,), {})


@dataclasses.dataclass(frozen=True)
class Static:
    """A tree without its arrays.

    Args:
      structure: Structure of the tree.
      is_array: For each leaf, True if it is an array.
      values: Leaves that are no arrays, such as the flag of `train=False`.
    """

    structure: Any
    is_array: tuple[bool, ...]
    values: tuple[Any, ...]

    def joined(self, arrays: Sequence[Any]) -> Tree:
        """The tree with these arrays in their places."""
        sources = {True: iter(arrays), False: iter(self.values)}
        return jax.tree.unflatten(self.structure, [next(sources[kind]) for kind in self.is_array])


def take_arrays(tree: Tree) -> tuple[list[Any], Static]:
    """The arrays of a tree, which may be traced, and the rest, which stays as Python has it.

    Example:
      >>> arrays, static = take_arrays(Call((np.ones(2), False)))
      >>> static.joined(["traced"])
      Call(args=('traced', False), kwargs={})
    """
    leaves, structure = jax.tree.flatten(tree)
    kinds = tuple(map(is_array, leaves))
    arrays = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind]
    others = tuple(leaf for leaf, kind in zip(leaves, kinds, strict=True) if not kind)
    return arrays, Static(structure, kinds, others)


def is_array(leaf: Any) -> bool:
    """True if a leaf is an array of JAX or NumPy, or the shape of one."""
    return isinstance(leaf, jax.Array | np.ndarray) or _is_shape(leaf)


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype that a value has once it is traced, which without x64 is never of 64 bits.

    Example:
      >>> shape_of(np.zeros(2, "int64"))
      ShapeDtypeStruct(shape=(2,), dtype=int32)
    """
    # JAX does so itself for arrays; of shapes with 64 bits it warns from version 0.12 on.
    dtype = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(array.shape, dtype)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
