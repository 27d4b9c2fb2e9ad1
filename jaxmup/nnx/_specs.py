"""The specs of a model."""

from collections.abc import Mapping

from flax import nnx

from jaxmup._spec import ParamSpec
from jaxmup._tree import specs_of_leaves
from jaxmup.nnx._layer import SPEC, name_of


def specs(model: nnx.Module, *, given: Mapping[str, ParamSpec] | None = None) -> nnx.State:
    """The `ParamSpec` of every parameter of a model, as a tree like `nnx.state(model, nnx.Param)`.

    Works on abstract models too: `specs(nnx.eval_shape(make_model))` allocates nothing. Axes that
    `nnx.vmap` or `nnx.scan` has added are batch axes.

    Args:
      model: An NNX module.
      given: Specs of parameters that no jaxmup layer made, by name (`"norm/scale"`).

    Raises:
      TypeError: if `model` is no NNX module.
      ValueError: naming every parameter without a spec, or given names that match nothing.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> layer = jaxmup.nnx.Linear(3, 128, base_out_features=64, rngs=nnx.Rngs(0))
      >>> specs(layer)["kernel"].role
      'input'
    """
    # NNX takes containers of modules too, and `None` for an empty one.
    if not isinstance(model, nnx.Module) and not (isinstance(model, list | tuple | dict) and model):
        raise TypeError(f"`model` must be an NNX module. Got {model!r}.")
    flat = list(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    shapes = {name_of(path): tuple(param.shape) for path, param in flat}
    found = specs_of_leaves(shapes, declared(model), given)
    return nnx.from_flat_state([(path, found[name_of(path)]) for path, _ in flat])


def declared(model: nnx.Module) -> dict[str, ParamSpec]:
    """The specs that jaxmup layers declare, by name, without the axes that lifting has added."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    metadata = {name_of(path): param.get_metadata() for path, param in flat}
    return {name: found[SPEC] for name, found in metadata.items() if SPEC in found}
