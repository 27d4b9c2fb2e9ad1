"""Recurrent cells."""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax.nn.initializers import zeros

from jaxmup._parameter import orthogonal
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.nnx._keys import Keys
from jaxmup.nnx._linear import Linear

_WITHOUT_VALUES = dict.fromkeys(("kernel_init", "recurrent_kernel_init", "bias_init"), zeros)


class _Cell:
    """The constructor of all cells: Flax's cell, with jaxmup's linear layers inside."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_in_features: int | None = None,
        base_hidden_features: int | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        rngs: nnx.Rngs,
        **flax: Any,
    ):
        keys: Any = Keys(rngs)
        arguments = {**flax, **_WITHOUT_VALUES}
        super().__init__(in_features, hidden_features, rngs=keys, **arguments)  # type: ignore[call-arg]
        parameters = inspect.signature(super().__init__).parameters
        inits = {name: parameters[name].default for name in _WITHOUT_VALUES}
        inits["recurrent_kernel_init"] = orthogonal(inits["recurrent_kernel_init"])
        inits |= flax
        if "kernel_init" not in flax:  # Flax's default is that of its linear layer
            del inits["kernel_init"]
        shared = {
            "parametrization": parametrization,
            "lr_scale": lr_scale,
            "depth_ratio": depth_ratio,
            "rngs": keys.again(),
        }
        _replace_linear(self, (base_in_features, base_hidden_features), inits, shared)  # type: ignore[arg-type]


class SimpleCell(_Cell, nnx.SimpleCell):
    """`flax.nnx.SimpleCell` under an abcd-parametrization.

    At base width it is `flax.nnx.SimpleCell` bit for bit. What a cell does with its inputs is a
    hidden or an input matrix, what it does with its state a hidden one.

    Args:
      in_features: Size of the last axis of the inputs.
      hidden_features: Size of the state.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_hidden_features: `hidden_features` of the base model; `None` if it does not grow.
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      rngs: Random keys, as `flax.nnx.SimpleCell` takes them.
      **flax: Other arguments of `flax.nnx.SimpleCell`.

    Raises:
      ValueError: if a size, base or scale is out of range, or a dtype is not a floating-point one.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> cell = jaxmup.nnx.SimpleCell(3, 128, base_hidden_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(cell)["dense_h"]["kernel"].role
      'hidden'
    """


class GRUCell(_Cell, nnx.GRUCell):
    """`flax.nnx.GRUCell` under an abcd-parametrization.

    At base width it is `flax.nnx.GRUCell` bit for bit. Its arguments are those of
    `jaxmup.nnx.SimpleCell` and `flax.nnx.GRUCell`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> cell = jaxmup.nnx.GRUCell(3, 128, base_hidden_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(cell)["dense_i"]["kernel"].role
      'input'
    """


class LSTMCell(_Cell, nnx.LSTMCell):
    """`flax.nnx.LSTMCell` under an abcd-parametrization.

    At base width it is `flax.nnx.LSTMCell` bit for bit. Its arguments are those of
    `jaxmup.nnx.SimpleCell` and `flax.nnx.LSTMCell`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> cell = jaxmup.nnx.LSTMCell(3, 128, base_hidden_features=64, rngs=nnx.Rngs(0))
      >>> jaxmup.nnx.specs(cell)["hi"]["kernel"].role
      'hidden'
    """


def _replace_linear(
    cell: nnx.SimpleCell | nnx.GRUCell | nnx.LSTMCell,
    bases: tuple[int | None, int | None],
    given: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> None:
    """Puts jaxmup's linear layers in place of those that Flax's constructor has made.

    Args:
      cell: Cell that Flax's constructor has made.
      bases: Sizes of inputs and state in the base model.
      given: Initializers and metadata of the cell, by the names of Flax's arguments.
      shared: Arguments of every layer.
    """
    base_in, base_hidden = bases
    made = [(name, layer) for name, layer in vars(cell).items() if isinstance(layer, nnx.Linear)]
    for name, layer in made:  # in the order in which Flax made them, which is that of the draws
        of_state = name.removeprefix("dense_").startswith("h")
        kernel = "recurrent_kernel" if of_state else "kernel"
        names = {"kernel_init": f"{kernel}_init", "kernel_metadata": f"{kernel}_metadata"}
        names |= {name: name for name in ("bias_init", "bias_metadata")}
        # A layer may have the kernels of several gates side by side.
        gates = layer.out_features // cell.hidden_features
        ours = Linear(
            layer.in_features,
            layer.out_features,
            use_bias=layer.use_bias,
            dtype=layer.dtype,
            param_dtype=layer.param_dtype,
            promote_dtype=layer.promote_dtype,
            base_in_features=base_hidden if of_state else base_in,
            base_out_features=None if base_hidden is None else gates * base_hidden,
            **{name: given[theirs] for name, theirs in names.items() if theirs in given},
            **shared,
        )
        setattr(cell, name, ours)
