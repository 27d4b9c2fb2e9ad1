"""New values for the parameters of calibrated modules."""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup.empirical._solve import Subject


@functools.partial(jax.jit, static_argnums=(2, 3))
def _normal(key: Array, path: np.uint32, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.normal(jax.random.fold_in(key, path), shape, dtype)


def redrawn(subject: Any, key: Array, seen: Any) -> Subject:
    """Weights from a unit normal, biases zero; gains and what is no weight are kept.

    A bias is a parameter of that name; a gain is named `scale`, as Flax's norms do; a weight is any
    other parameter with two axes or more in one module, without those that stack modules.

    Args:
      subject: the model.
      key: each parameter draws with its own, by the path of the parameter.
      seen: what an abstract run says of each module.
    """

    def draw(module: str, parameter: str, values: Array) -> Array:
        kind = parameter.rpartition("/")[2]
        if kind == "bias":
            return jnp.zeros_like(values)
        if kind == "scale" or values.ndim - len(seen[module].lead) < 2:
            return values
        path = np.uint32(zlib.crc32(f"{module}/{parameter}".encode()))
        return _normal(key, path, values.shape, values.dtype)

    return subject.map_parameters(draw)
