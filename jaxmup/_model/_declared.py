"""The specs of what a tool was given in place of a tree of specs."""

from typing import Any

from flax import nnx

import jaxmup.nnx
from jaxmup._model._model import Instance
from jaxmup._tree import Specs


def specs_of(model: Any) -> Specs:
    """The specs that the jaxmup layers of a model declare; anything else is returned as it is.

    Args:
      model: An NNX module, or a `Model` at a size.

    Raises:
      ValueError: naming the parameters that no jaxmup layer has made.

    Example:
      >>> import jaxmup
      >>> from flax import nnx
      >>> layer = jaxmup.nnx.Linear(3, 128, base_out_features=64, rngs=nnx.Rngs(0))
      >>> specs_of(layer)["kernel"].role
      'input'
    """
    if isinstance(model, Instance):
        return model.declared()
    if isinstance(model, nnx.Module):
        return jaxmup.nnx.specs(model)
    return model
