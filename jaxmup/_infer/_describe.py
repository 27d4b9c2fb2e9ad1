"""The parameters of an abstract model, and what it says of them."""

import math
from collections.abc import Mapping

import numpy as np

from jaxmup._check import listed
from jaxmup._infer import _linen, _nnx
from jaxmup._infer._leaf import Leaf
from jaxmup._model import Instance

_MOST_ELEMENTS = np.iinfo(np.int64).max // np.dtype(np.float64).itemsize


def describe(instance: Instance) -> dict[str, Leaf]:
    """The parameters of a model by name, each with what the model says of it.

    Raises:
      ValueError: naming the parameters, if there are none, or one is empty or too large to address.
    """
    if instance.kind == "nnx":
        leaves = _nnx.leaves(instance.join(instance.parts), instance.params)
    elif instance.kind == "linen":
        leaves = _linen.leaves(instance)
    else:
        leaves = {name: Leaf(tuple(leaf.shape)) for name, leaf in instance.parameters.items()}
    _require_sizes(leaves, instance.what)
    return leaves


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
