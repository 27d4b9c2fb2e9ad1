"""Recurrent cells."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxmup._parameter import orthogonal
from jaxmup.linen._layer import Layer, Weights, once
from jaxmup.linen._linear import dense_axes

Carry = TypeVar("Carry", Array, tuple[Array, Array])  # the state of a cell


class _Cell(Layer):
    """A cell of linear maps of inputs and state, whose names begin with i and h.

    Args:
      base_in_features: Size of the last axis of the inputs in the base model; `None` if it does not
        grow.
      base_features: `features` of the base model; `None` if it does not grow.
    """

    base_in_features: int | None = None
    base_features: int | None = None

    def call_cell(
        self, cell: type[nn.Module], has_bias: Mapping[str, bool], carry: Carry, inputs: Array
    ) -> tuple[Carry, Array]:
        """Calls Flax's cell, whose linear maps have the names, and a bias or none, as given."""
        own: Any = self
        flax: Any = cell
        recurrent = own.recurrent_kernel_init
        if recurrent is flax.recurrent_kernel_init:  # the default
            recurrent = once(orthogonal, recurrent)
        weights = {}
        for name, use_bias in has_bias.items():
            of_state = name.startswith("h")
            of_inputs = jnp.shape(inputs)[-1], self.base_in_features
            state = own.features, self.base_features
            weights[name] = Weights(
                axes=once(dense_axes, state if of_state else of_inputs, state, use_bias=use_bias),
                kernel_init=recurrent if of_state else own.kernel_init,
                bias_init=own.bias_init,
                name=name,
                **self.shared(),
            )()
        zeros = nn.initializers.zeros
        settings = {"kernel_init": zeros, "recurrent_kernel_init": zeros, "bias_init": zeros}
        return self.call_flax(cell, weights, carry, inputs, settings=settings)


class SimpleCell(_Cell, nn.SimpleCell):
    """`flax.linen.SimpleCell` under an abcd-parametrization.

    At base width it is `flax.linen.SimpleCell` bit for bit, whose other arguments it has. What a
    cell does with its inputs is a hidden or an input matrix, what it does with its state a hidden
    one. Multipliers act on the kernels.

    Args:
      features: Size of the state.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_in_features: Size of the last axis of the inputs in the base model; `None` if it does not
        grow.
      base_features: `features` of the base model; `None` if it does not grow.
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.

    Raises:
      ValueError: at the first call, if a size, base or scale is out of range, or a dtype is not a
        floating-point one.

    Example:
      >>> import jaxmup
      >>> cell = jaxmup.linen.SimpleCell(128, base_features=64)
      >>> specs = jaxmup.linen.specs(cell, jnp.ones((1, 128)), jnp.ones((1, 3)))
      >>> specs["h"]["kernel"].role
      'hidden'
    """

    @nn.compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """The new state, and the output."""
        return self.call_cell(nn.SimpleCell, {"i": True, "h": False}, carry, inputs)


class GRUCell(_Cell, nn.GRUCell):
    """`flax.linen.GRUCell` under an abcd-parametrization.

    At base width it is `flax.linen.GRUCell` bit for bit. Its arguments are those of
    `jaxmup.linen.SimpleCell` and `flax.linen.GRUCell`.

    Example:
      >>> import jaxmup
      >>> cell = jaxmup.linen.GRUCell(128, base_features=64)
      >>> specs = jaxmup.linen.specs(cell, jnp.ones((1, 128)), jnp.ones((1, 3)))
      >>> specs["in"]["kernel"].role
      'input'
    """

    @nn.compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """The new state, and the output."""
        has_bias = dict.fromkeys(("ir", "iz", "in", "hn"), True)
        return self.call_cell(nn.GRUCell, {**has_bias, "hr": False, "hz": False}, carry, inputs)


class LSTMCell(_Cell, nn.LSTMCell):
    """`flax.linen.LSTMCell` under an abcd-parametrization.

    At base width it is `flax.linen.LSTMCell` bit for bit. Its arguments are those of
    `jaxmup.linen.SimpleCell` and `flax.linen.LSTMCell`.

    Example:
      >>> import jaxmup
      >>> cell, state = jaxmup.linen.LSTMCell(128, base_features=64), jnp.ones((1, 128))
      >>> specs = jaxmup.linen.specs(cell, (state, state), jnp.ones((1, 3)))
      >>> specs["hi"]["kernel"].role
      'hidden'
    """

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Array], inputs: Array
    ) -> tuple[tuple[Array, Array], Array]:
        """The new state, and the output."""
        has_bias = {side + gate: side == "h" for side in "ih" for gate in "ifgo"}
        return self.call_cell(nn.LSTMCell, has_bias, carry, inputs)
