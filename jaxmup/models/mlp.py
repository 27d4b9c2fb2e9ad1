"""A multilayer perceptron: the smallest model that has parameters of every role."""

from collections.abc import Callable

import jax
from flax import nnx
from jax import Array

from jaxmup import _check
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.nnx import Linear


class MLP(nnx.Module):
    """`depth` hidden layers of `width` units, each with the activation, and a linear readout.

    So there are `depth + 1` kernels: one of role input, `depth - 1` of role hidden, one of role
    output.

    Args:
      in_features: Size of the last axis of the inputs.
      out_features: Size of the last axis of the outputs; it does not grow.
      width: Number of units of each hidden layer.
      depth: Number of hidden layers, at least 1.
      base_width: `width` of the base model.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      activation: Function that is applied entrywise after each hidden layer.
      rngs: Random keys for the initial values.

    Raises:
      ValueError: if a size is not a positive integer.

    Example:
      >>> import jax.numpy as jnp
      >>> model = MLP(64, 10, width=256, depth=3, base_width=64, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((2, 64))).shape
      (2, 10)
      >>> [layer.kernel.shape for layer in model.hidden]
      [(64, 256), (256, 256), (256, 256)]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int,
        depth: int,
        base_width: int,
        parametrization: Parametrization | ParametrizationName = "mup",
        activation: Callable[[Array], Array] = jax.nn.relu,
        rngs: nnx.Rngs,
    ):
        for name, size in {"width": width, "depth": depth, "base_width": base_width}.items():
            _check.size(name, size)
        sizes = [in_features] + [width] * depth
        bases = [None] + [base_width] * depth
        self.hidden = nnx.List(
            Linear(
                sizes[i],
                sizes[i + 1],
                base_in_features=bases[i],
                base_out_features=bases[i + 1],
                parametrization=parametrization,
                rngs=rngs,
            )
            for i in range(depth)
        )
        self.readout = Linear(
            width,
            out_features,
            base_in_features=base_width,
            parametrization=parametrization,
            rngs=rngs,
        )
        self.activation = activation

    def __call__(self, inputs: Array) -> Array:
        """Shape `(..., in_features)` to `(..., out_features)`."""
        for layer in self.hidden:
            inputs = self.activation(layer(inputs))
        return self.readout(inputs)
