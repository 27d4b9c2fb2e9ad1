"""What every layer shares: how it makes its parameters and finds their multipliers."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from jax import Array

from jaxmup._parameter import Parameter

MULTIPLIERS = "multipliers"


class Layer(nn.Module):
    """A layer that makes its parameters from their declarations."""

    def make_parameters(
        self, declared: Mapping[str, Parameter], dtype: Any
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """The layer's parameters and their multipliers, by name.

        A multiplier is a constant of the program, unless the collection `"multipliers"` holds one.
        A method of its own, so that `specs` sees what every layer of a module declares.

        Args:
          declared: the parameters in the order in which Flax's layer makes them.
          dtype: dtype of the parameters.
        """
        params = {
            name: self.param(name, parameter.init, parameter.spec.shape, dtype)
            for name, parameter in declared.items()
        }
        multipliers = {
            name: self.get_variable(MULTIPLIERS, name, parameter.multiplier)
            for name, parameter in declared.items()
        }
        return params, multipliers
