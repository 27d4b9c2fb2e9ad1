"""The parameters of an abstract model, and what it says of them itself."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.core import meta

from jaxmup._check import listed
from jaxmup._infer._leaf import Leaf
from jaxmup._model import Instance
from jaxmup._tree import PathName, path_name

_AXES = "mup_axes"  # the metadata key under which an `nnx.Param` may carry the names of its axes
_MOST_ELEMENTS = np.iinfo(np.int64).max // np.dtype(np.float64).itemsize


def describe(instance: Instance) -> dict[str, Leaf]:
    """The parameters of a model by name, with their axis names and what jaxmup layers declare.

    Raises:
      ValueError: naming the parameters, if there are none, or one is empty or too large to address.
    """
    instance.require_parameters()
    leaves = {name: Leaf(tuple(leaf.shape)) for name, leaf in instance.parameters.items()}
    _require_sizes(leaves, instance.what)
    names, specs = _axis_names(instance), instance.specs_of_layers
    return {
        name: Leaf(leaf.shape, names=names.get(name), spec=specs.get(name))
        for name, leaf in leaves.items()
    }


def _axis_names(instance: Instance) -> dict[PathName, tuple[str | None, ...]]:
    """The axis names that a model has on its parameters, in the metadata of Flax."""

    def names(leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            metadata = leaf.get_metadata()
            return metadata.get(_AXES, metadata.get("out_sharding"))
        return leaf.names if isinstance(leaf, meta.Partitioned) else None

    leaves = jax.tree_util.tree_leaves_with_path(
        instance.params, is_leaf=lambda x: isinstance(x, nnx.Variable | meta.AxisMetadata)
    )
    found = {path_name(path): names(leaf) for path, leaf in leaves}
    return {name: tuple(given) for name, given in found.items() if given is not None}


def _require_sizes(leaves: Mapping[str, Leaf], what: str) -> None:
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
