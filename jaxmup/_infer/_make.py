"""Calling a user's `make_model`, abstractly or not, and taking apart what it returns."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

from jaxmup._tree import leaves_by_path, path_name


@dataclasses.dataclass(frozen=True)
class Source:
    """What makes models: the arguments that `infer` and `rescale` share.

    Args:
      make_model: returns an NNX module, a Linen module or a tree of arrays; it is called with
        `key=` or `rngs=` if it has such a parameter.
      inputs: what a Linen module is called with, or a function of the size that returns it.
    """

    make_model: Callable[..., Any]
    inputs: Any = None

    def takes_key(self, size: Any) -> bool:
        """Whether `make_model` has a parameter `key` or `rngs` that `size` leaves open."""
        return bool(self._keys(size, None))

    def make(self, size: Any, key: Any = None) -> "Made":
        """The model of this size, drawn with `key`; without one, Linen has no variables."""
        keys = self._keys(size, key)
        model = _call(self.make_model, size, **keys)
        if isinstance(model, nn.Module):
            variables = None if key is None else model.init(key, *map(_array, self.example(size)))
            return Made("linen", variables, model)
        if isinstance(model, nnx.Module):
            graph, state = nnx.split(model)
            return Made("nnx", state, graph)
        arrays = jax.tree.map(lambda leaf: leaf if _is_array(leaf) else None, model)
        return Made("tree", arrays, jax.tree.map(lambda x: None if _is_array(x) else x, model))

    def make_abstract(self, size: Any, what: str, key: Any = None) -> "Made":
        """The same without allocating anything: the arrays are `jax.ShapeDtypeStruct`s.

        Raises:
          TypeError: if `inputs` and the kind of model do not fit each other.
          ValueError: if `make_model` fails for this size.
        """
        seen: list[Made] = []

        def arrays(key: Any) -> Any:
            seen.append(self.make(size, key))
            return seen[-1].arrays

        try:
            shapes = jax.eval_shape(arrays, key)
        except (ArithmeticError, TypeError, ValueError) as error:
            message = f"`make_model` must build `{what}` = {size!r}. It failed: {error}"
            raise ValueError(message) from error
        made = dataclasses.replace(seen[-1], arrays=shapes)
        if (made.api == "linen") != (self.inputs is not None):
            raise TypeError(
                "`inputs` must be given for a Linen module, which has no parameters before it is "
                f"called, and for nothing else. Got a model of type {made.api!r} and "
                f"inputs={self.inputs!r}."
            )
        return made

    def _keys(self, size: Any, key: Any) -> dict[str, Any]:
        """The keyword arguments that `make_model` draws its values with."""
        # Without a key only shapes are wanted: any values will do.
        rngs = _uncounted if key is None else nnx.Rngs
        key = jax.random.key(0) if key is None else key
        function = self.make_model
        while isinstance(function, functools.partial):
            function = function.func
        if isinstance(function, type):  # the metaclass of NNX hides the signature
            function = function.__init__
        parameters = inspect.signature(function).parameters
        return {
            name: draw(key)
            for name, draw in (("key", lambda key: key), ("rngs", rngs))
            if name in parameters and not (isinstance(size, Mapping) and name in size)
        }

    def example(self, size: Any) -> tuple[Any, ...]:
        """What a Linen module of this size is called with."""
        inputs = _call(self.inputs, size) if callable(self.inputs) else self.inputs
        return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


@dataclasses.dataclass(frozen=True)
class Made:
    """A model, taken apart into arrays and the rest.

    Args:
      api: whose model it is; `tree` for any tree of arrays.
      arrays: a tree of arrays, or of their shapes; `None` for a Linen module without variables.
      rest: an NNX graph definition, a Linen module, or what is no array of a tree.
    """

    api: Literal["nnx", "linen", "tree"]
    arrays: Any
    rest: Any

    @property
    def model(self) -> Any:
        """What a user trains: an NNX model, the variables of a Linen module, or a tree."""
        if self.api == "nnx":
            return nnx.merge(self.rest, self.arrays)
        if self.api == "linen":
            return self.arrays
        return jax.tree.map(
            lambda array, other: other if array is None else array,
            self.arrays,
            self.rest,
            is_leaf=lambda leaf: leaf is None,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name."""
        if self.api == "nnx":
            return leaves_by_path(nnx.filter_state(self.arrays, nnx.Param))
        if self.api == "linen":
            return leaves_by_path(self.arrays.get("params", {}))
        return leaves_by_path(self.arrays)

    def with_parameters(self, values: Mapping[str, Any]) -> "Made":
        """The same model with these values for the parameters that they name."""
        if self.api == "linen":
            arrays = {**self.arrays, "params": _with_leaves(self.arrays["params"], values)}
        else:
            arrays = _with_leaves(self.arrays, values)
        return dataclasses.replace(self, arrays=arrays)


def _call(function: Callable[..., Any], size: Any, **keys: Any) -> Any:
    return function(**size, **keys) if isinstance(size, Mapping) else function(size, **keys)


def _uncounted(key: Any) -> nnx.Rngs:
    """`nnx.Rngs(key)` for shapes alone: its count is in NumPy, which is not traced.

    Flax asks each count for its sharding. To say that a traced one has none, JAX goes through all
    that was traced before, which takes minutes in a model of many layers.
    """
    rngs = nnx.Rngs(key)
    count: Any = np.zeros((), np.uint32)
    rngs.default.count = nnx.RngCount(count, tag="default")
    return rngs


def _array(example: Any) -> Any:
    is_shape = isinstance(example, jax.ShapeDtypeStruct)
    return jax.numpy.zeros(example.shape, example.dtype) if is_shape else example


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _with_leaves(tree: Any, values: Mapping[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: values.get(path_name(path), leaf), tree
    )
