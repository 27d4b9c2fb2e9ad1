"""The two factors of a parametrization in a chain: on gradients (d) and on updates (c)."""

from typing import Literal, NamedTuple

import optax

from jaxmup._tree import OptState, Params, Scalings, Updates
from jaxmup.functional import scale
from jaxmup.optim._checks import CheckedScalings
from jaxmup.optim._leaves import without_float0


class ScaleGradientsState(NamedTuple):
    """State of `scale_gradients`, which has none; the type says what stands in the chain."""


class ReadyChainState(NamedTuple):
    """State of `scale_gradients` in a ready chain, all of whose factors come from scalings."""


class ScaleUpdatesState(NamedTuple):
    """State of `scale_updates`, which has none; the type says what stands in the chain."""


def scale_gradients(scalings: Scalings) -> optax.GradientTransformation:
    """Multiplies each gradient by its `Scaling.grad`; first in a chain.

    Args:
      scalings: Tree of `Scaling` with the names of the parameters: a `State`, a dict, any pytree.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`.
      ValueError: if the scalings are not all for one optimizer family; at `init` and `update`, if a
        leaf has no scaling or a scaling no leaf, naming them; at `init`, if their shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 256, base=64))
      >>> rule = jaxmup.parametrization("mup", "adam", gauge="tp4b")
      >>> tx = scale_gradients({"w": jaxmup.resolve(jaxmup.ParamSpec(axes), rule)})
      >>> gradients = {"w": jnp.ones(1)}
      >>> tx.update(gradients, tx.init(gradients))[0]["w"]
      Array([4.], dtype=float32)

    References:
      Yang and Littwin, "Tensor Programs IVb", arXiv:2308.01814, Definition 2.2.1.
    """
    return scale_by(CheckedScalings(scalings), "grad", ScaleGradientsState())


def scale_updates(scalings: Scalings) -> optax.GradientTransformation:
    """Multiplies each update by its `Scaling.lr`; anywhere after the optimizer.

    The factor is a constant of the chain and not a second schedule, so no scheduler can overwrite
    it. Decay added before it is scaled with the update; decay added after it is not.

    Args:
      scalings: Tree of `Scaling` with the names of the parameters: a `State`, a dict, any pytree.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`.
      ValueError: if the scalings are not all for one optimizer family; at `init` and `update`, if a
        leaf has no scaling or a scaling no leaf, naming them; at `init`, if their shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 256, base=64))
      >>> rule = jaxmup.parametrization("mup", "adam")
      >>> tx = scale_updates({"w": jaxmup.resolve(jaxmup.ParamSpec(axes), rule)})
      >>> updates = {"w": jnp.ones(1)}
      >>> tx.update(updates, tx.init(updates))[0]["w"]
      Array([0.25], dtype=float32)
    """
    return scale_by(CheckedScalings(scalings), "lr", ScaleUpdatesState())


def scale_by(
    scalings: CheckedScalings, field: Literal["grad", "lr"], state: NamedTuple
) -> optax.GradientTransformation:
    """Multiplies each leaf by this field of its scaling; `state` says what stands in the chain."""

    def init(params: Params) -> OptState:
        scalings.require_parameters(params)
        return state

    def update(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, OptState]:
        del params
        updates = without_float0(updates)
        return scalings.map(lambda scaling, u: scale(u, getattr(scaling, field)), updates), state

    return optax.GradientTransformation(init, update)
