"""The parameters of an abstract model, and what it says of them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmup._infer import _linen, _nnx
from jaxmup._infer._leaf import Leaf
from jaxmup._infer._make import Source
from jaxmup._tree import leaves_by_path, listed, map_named

_MOST_ELEMENTS = np.iinfo(np.int64).max // np.dtype(np.float64).itemsize


class Model(NamedTuple):
    """The parameters of an abstract model.

    Args:
      leaves: what the model says of each, by name.
      tree: makes a tree like that of the parameters from values by name.
    """

    leaves: dict[str, Leaf]
    tree: Callable[[Mapping[str, Any]], Any]


def describe(source: Source, size: Any, what: str) -> Model:
    """The parameters of the model of this size.

    Raises:
      TypeError: if `inputs` and the kind of model do not fit each other.
      ValueError: naming the parameters, if there are none, or one is empty or too large to address.
    """
    made = source.make_abstract(size, what)
    if made.api == "nnx":
        model = Model(_nnx.leaves(made.model), lambda values: _nnx.tree(made.model, values))
    else:
        if made.api == "linen":
            leaves, params = _linen.leaves(made.rest, source.example(size))
        else:
            leaves, params = _plain_leaves(made.arrays), made.arrays
        model = Model(leaves, lambda values: map_named(lambda _, value: value, params, values))
    _require_sizes(model.leaves, what)
    return model


def _plain_leaves(tree: Any) -> dict[str, Leaf]:
    return {name: Leaf(tuple(leaf.shape)) for name, leaf in leaves_by_path(tree).items()}


def _require_sizes(leaves: Mapping[str, Leaf], what: str) -> None:
    if not leaves:
        raise ValueError(
            "`make_model` must return a model with parameters: an NNX or Linen module, or a tree "
            f"of arrays. That of `{what}` has none."
        )
    wrong = [
        f"{name} {leaf.shape}"
        for name, leaf in leaves.items()
        if not 1 <= math.prod(leaf.shape) <= _MOST_ELEMENTS
    ]
    if wrong:
        raise ValueError(
            "Every parameter must have at least one element, and no more bytes than an int64 "
            f"counts. In `{what}` these do not:{listed(wrong)}"
        )
