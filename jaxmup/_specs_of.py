"""The specs of what a tool was given: a tree of specs, or a model of jaxmup layers."""

from typing import Any

import jax

from jaxmup._spec import ParamSpec
from jaxmup._tree import Specs


def specs_of(model: Any) -> Specs:
    """A tree of specs as it is, or the specs that the jaxmup layers of a model declare.

    Args:
      model: A tree with a `ParamSpec` at each leaf, an NNX module, or a `jaxmup.Model` at a size.

    Returns:
      A tree of specs; anything else is returned as it is, for its user to refuse.

    Raises:
      ValueError: naming the parameters that no jaxmup layer has made.

    Example:
      >>> import jaxmup
      >>> from flax import nnx
      >>> layer = jaxmup.nnx.Linear(3, 128, base_out_features=64, rngs=nnx.Rngs(0))
      >>> specs_of(layer)["kernel"].role
      'input'
    """
    if all(isinstance(leaf, ParamSpec) for leaf in jax.tree.leaves(model)):
        return model  # without a second of loading Flax
    from flax import nnx

    import jaxmup.nnx
    from jaxmup._model import Instance

    if isinstance(model, Instance):
        return model.declared()
    return jaxmup.nnx.specs(model) if isinstance(model, nnx.Module) else model
