"""Models in another gauge, and models whose multipliers are data."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxmup import functional
from jaxmup._parameter import Move, gauge_move
from jaxmup._parametrization import Parametrization
from jaxmup._spec import ParamSpec
from jaxmup._tree import added_axes
from jaxmup.nnx._layer import ACTS_ON, SPEC, Multiplier, multiplier_name, name_of

M = TypeVar("M", bound=nnx.Module)


class Owned(NamedTuple):
    """A parameter that a jaxmup layer made, and the layer.

    Args:
      path: Place of the parameter in the model.
      layer: The layer.
      name: Name of the parameter, an attribute of the layer.
      param: The parameter.
      spec: Spec of the parameter.
    """

    path: tuple[Any, ...]
    layer: nnx.Module
    name: str
    param: nnx.Param[Array]
    spec: ParamSpec


def trace_multipliers(model: M) -> M:
    """A copy of a model whose multipliers are data instead of constants of the program.

    `nnx.split` and `nnx.jit` then take them for arguments, and XLA compiles the same program for
    every gauge, so that two gauges whose multipliers differ by powers of two compute the same bits.
    (A constant 1.0 is folded away, and what surrounds it rounded elsewhere.) One compiled step
    serves every gauge if it gets the arrays alone (`nnx.as_pure` of the state): the specs are
    metadata of the parameters, and where they are part of the argument another gauge compiles anew.

    A multiplier has the axes that `nnx.vmap` has added to its parameter. The price of data is the
    multiplication by 1.0, which a constant would save.

    Args:
      model: An NNX module; it is left as it is.

    Returns:
      The model with a `Multiplier` at `<parameter>_multiplier` of every jaxmup layer, in float64
      where that is enabled, else in float32.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> layer = jaxmup.nnx.Linear(8, 2, base_in_features=4, rngs=nnx.Rngs(0))
      >>> trace_multipliers(layer).kernel_multiplier[...]
      Array(0.5, dtype=float32)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"`model` must be an NNX module. Got {model!r}.")
    model = nnx.clone(model)
    for owned in list(_owned_parameters(model)):
        multiplier = getattr(owned.layer, multiplier_name(owned.name))
        if not isinstance(multiplier, Multiplier):
            shape = owned.param.shape
            added = added_axes(name_of(owned.path), owned.spec, shape)
            # One value for each layer of a stack, so that `vmap` and `scan` take them apart alike.
            values = jnp.full([shape[i] for i in added], multiplier, jnp.result_type(float))
            setattr(owned.layer, multiplier_name(owned.name), nnx.data(Multiplier(values)))
    return model


def regauged(model: M, parametrization: Parametrization) -> M:
    """A copy of a model that stores the same effective weights in another gauge.

    With `θ = m_new / m_old` for each parameter, `m → θ m` and `w → w / θ` leave `W = m · w` as it
    is, so the model computes the same function; where θ is a power of two, to the last bit. The
    specs say what the layers now apply. The state of an optimizer has to move along.

    Args:
      model: An NNX module; it is left as it is. Its multipliers may be constants or data.
      parametrization: Parametrization whose gauge the copy is in. It must give the same initial
        effective weights as the model's: another gauge, no other physics.

    Raises:
      TypeError: if `parametrization` is no `Parametrization`.
      ValueError: naming the parameter, if `parametrization` gives its effective weight another
        standard deviation, or if two layers apply multipliers to it.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> readout = jaxmup.nnx.Linear(8, 2, base_in_features=4, rngs=nnx.Rngs(0))
      >>> moved = regauged(readout, jaxmup.parametrization("mup", gauge="table3"))
      >>> readout.kernel_multiplier, moved.kernel_multiplier
      (0.5, 1.0)
      >>> x = jnp.ones((1, 8))
      >>> bool(jnp.all(moved(x) == readout(x)))
      True

    References:
      Yang and Littwin, "Tensor Programs IVb", arXiv:2308.01814, Proposition 2.2.3.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"`model` must be an NNX module. Got {model!r}.")
    if not isinstance(parametrization, Parametrization):
        raise TypeError(f"`parametrization` must be a `Parametrization`. Got {parametrization!r}.")
    model = nnx.clone(model)
    parameters = list(_owned_parameters(model))
    _require_one_owner(parameters)
    moves = [_move(owned, parametrization) for owned in parameters]
    for owned, move in zip(parameters, moves, strict=True):
        owned.param.set_value(functional.scale(owned.param[...], 1 / move.theta))
        owned.param.set_metadata(**{SPEC: move.spec})
        _set_multiplier(owned, move.multiplier)
        setattr(owned.layer, ACTS_ON, parametrization.multiplier_acts_on)
    return model


def _owned_parameters(model: nnx.Module) -> Iterator[Owned]:
    """Every parameter with a multiplier, once for each layer that applies one to it."""
    for path, layer in nnx.iter_modules(model):
        for name, value in sorted(vars(layer).items()):
            if isinstance(value, nnx.Param) and hasattr(layer, multiplier_name(name)):
                yield Owned((*path, name), layer, name, value, _spec_of((*path, name), value))


def _spec_of(path: tuple[Any, ...], param: nnx.Param[Array]) -> ParamSpec:
    metadata = param.get_metadata()
    if SPEC not in metadata:
        raise ValueError(
            f"A jaxmup layer's parameter must carry its spec. {name_of(path)} of shape "
            f"{param.shape} has none. Set the value of the layer's own parameter instead of "
            "putting another one in its place."
        )
    return metadata[SPEC]


def _move(owned: Owned, parametrization: Parametrization) -> Move:
    try:
        return gauge_move(owned.spec, parametrization)
    except ValueError as error:
        raise ValueError(f"{name_of(owned.path)}: {error}") from None


def _require_one_owner(parameters: Sequence[Owned]) -> None:
    first: dict[int, Owned] = {}
    for owned in parameters:
        other = first.setdefault(id(owned.param), owned)
        if other is not owned:
            raise ValueError(
                "A parameter must belong to one layer, since its gauge is that of the tensor. "
                f"{name_of(other.path)} and {name_of(owned.path)} are the same parameter. Share "
                "the layer instead, or tie a readout by `Embed.attend`."
            )


def _set_multiplier(owned: Owned, value: float) -> None:
    name = multiplier_name(owned.name)
    current = getattr(owned.layer, name)
    if isinstance(current, Multiplier):
        current.set_value(jnp.full_like(current[...], value))
    else:
        setattr(owned.layer, name, value)
