"""New values for the parameters of calibrated modules."""

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._tree import PathName
from jaxmup.empirical._measurable import M, ModuleName
from jaxmup.empirical._tally import Seen


def redrawn(model: M, key: Array | None, seen: Mapping[ModuleName, Seen]) -> M:
    """Weights from a unit normal, biases zero; gains and what is no weight are kept.

    A bias is a parameter of that name; a gain is named `scale`, as Flax's norms do; a weight is any
    other parameter with two axes or more in one module, without those that stack modules.

    They are drawn by NumPy: JAX would compile a program for every shape.

    Args:
      model: Model to measure.
      key: Key from which each parameter's own is made, by its path; `None` for
        `jax.random.key(0)`.
      seen: Facts about each module.
    """
    words = (0, 0) if key is None else np.ravel(jax.random.key_data(key)).tolist()

    def draw(module: ModuleName, parameter: PathName, values: Array) -> Array:
        kind = parameter.rpartition("/")[2]
        if kind == "bias":
            return _like(values, np.zeros(values.shape))
        if kind == "scale" or values.ndim - len(seen[module].lead) < 2:
            return values
        path = zlib.crc32(f"{module}/{parameter}".encode())
        return _like(values, _normal(np.random.default_rng((*words, path)), values))

    return model.map_parameters(draw)


def _normal(generator: np.random.Generator, values: Array) -> np.ndarray:
    """Independent entries with `E |x|² = 1`."""
    if jnp.iscomplexobj(values):
        parts = generator.standard_normal((2, *values.shape))
        return (parts[0] + 1j * parts[1]) / np.sqrt(2)
    wide = np.float64 if values.dtype == np.float64 else np.float32
    return generator.standard_normal(values.shape, wide)


def _like(values: Array, drawn: np.ndarray) -> Array:
    """An array of the same dtype, on the same devices."""
    return jax.device_put(drawn.astype(values.dtype), getattr(values, "sharding", None))
