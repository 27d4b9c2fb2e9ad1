"""Scales absorbed into the weights, where that changes nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxmup._tree import PathName, Tree
from jaxmup.empirical._choose import module_name
from jaxmup.empirical._linen import linen_measurable
from jaxmup.empirical._measurable import ModuleName, ModulePath
from jaxmup.empirical._models import AnyModel, HeldArrays, HeldLinen, HeldNNX, held
from jaxmup.empirical._scaled import Scaled, replaced, scaled_modules
from jaxmup.empirical._variables import COLLECTION, scales_by_path

_LINEAR = (
    *(nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose, nnx.Embed),
    *(nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvTranspose, nn.ConvLocal, nn.Embed),
)
_NORMS = (
    *(nnx.LayerNorm, nnx.RMSNorm, nnx.BatchNorm, nnx.GroupNorm, nnx.InstanceNorm),
    *(nn.LayerNorm, nn.RMSNorm, nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm),
)


@dataclasses.dataclass(frozen=True)
class Absorbed:
    """A model without wrappers, as far as that is exact.

    Args:
      model: NNX model, or variables of the Linen module.
      kept: Names of the modules that are still wrapped, each with the reason.
      dropped: Names of the modules whose gradients were scaled. The gradient of the plain model is
        the true one, so that training goes on differently.
    """

    model: Any
    kept: Mapping[str, str]
    dropped: tuple[str, ...]


def absorb_scales(
    model: AnyModel,
    *,
    variables: HeldArrays = None,
    inputs: Tree = None,
    arguments: Mapping[str, Any] | None = None,
) -> Absorbed:
    """The plain model of a calibrated one: `scale_actv_y` multiplied into the parameters.

    Exact for Flax's and jaxmup's layers whose outputs are proportional to all their parameters
    together: linear ones, convolutions, embeddings, and norms that have a gain. Any other module
    stays wrapped, with this one scale, and is named.

    The outputs stay the same, but not the gradients: a weight that is `s` times as large has a
    gradient `1 / s` times as large, and scales of gradients have nowhere to go. A learning rate of
    `learning_rates(model)` becomes `s²` times as large.

    Args:
      model: Calibrated NNX model, Linen module, or `Instance` of either.
      variables: Calibrated variables of the Linen module; of an `Instance` the calibrated model.
      inputs: Arguments of the Linen module's call, as for `calibrate`; only shapes and dtypes
        count.
      arguments: Further keyword arguments of that call.

    Raises:
      TypeError: if the model is of neither API.
      ValueError: if there is nothing to absorb.

    Example:
      >>> from flax import nnx
      >>> layer = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
      >>> plain = absorb_scales(Scaled(layer, jnp.array(3.0))).model
      >>> bool((plain.kernel[...] == 3 * layer.kernel[...]).all())
      True
    """
    if isinstance(model, nnx.Module):
        return _absorb_nnx(model)
    given = held(model, variables, inputs, arguments)
    return _absorb_nnx(given.model) if isinstance(given, HeldNNX) else _absorb_linen(given)


def _absorb_nnx(model: nnx.Module) -> Absorbed:
    model = nnx.clone(model)
    wrapped = scaled_modules(model)
    _require_some(wrapped)
    kept = {
        module_name(p): why for p, w in wrapped.items() if (why := _obstacle(w.module)) is not None
    }
    dropped = tuple(module_name(p) for p, w in wrapped.items() if w.scale_grad_x is not None)

    def absorbed(path: ModulePath, module: nnx.Module) -> nnx.Module | None:
        if not isinstance(module, Scaled):
            return None
        scale = module.scale_actv_y[...]
        if module_name(path) in kept:
            return Scaled(module.module, scale)
        for variable in _variables(module.module):
            variable[...] = _times(variable[...], scale)
        return module.module

    return Absorbed(replaced(model, absorbed), kept, dropped)


def _variables(module: nnx.Module) -> list[nnx.Param]:
    return [value for value in vars(module).values() if isinstance(value, nnx.Param)]


def _absorb_linen(given: HeldLinen) -> Absorbed:
    module, variables, inputs, apply = given
    scales = scales_by_path(variables)
    _require_some(scales)
    measured, _ = linen_measurable(module, variables, None, inputs, lambda outputs: outputs, apply)
    called = measured.modules()
    names = {measured.names[path]: found for path, found in scales.items()}
    obstacles = {name: _obstacle(called[name]) for name in names}
    kept = {name: why for name, why in obstacles.items() if why is not None}
    dropped = tuple(name for name, found in names.items() if "scale_grad_x" in found)

    def times(name: ModuleName, parameter: PathName, values: Array) -> Array:
        return values if name in kept else _times(values, names[name]["scale_actv_y"])

    left = {name: {"scale_actv_y": names[name]["scale_actv_y"]} for name in kept}
    found = measured.map_parameters(times).scaled(left)
    if not kept:
        del found[COLLECTION]
    return Absorbed(found, kept, dropped)


def _require_some(wrapped: Mapping[ModulePath, object]) -> None:
    if not wrapped:
        raise ValueError(
            "There must be scales to absorb. Got none. Use `calibrate` or `wrap` first."
        )


def _obstacle(module: nnx.Module | nn.Module) -> str | None:
    """The reason why a factor on all parameters is not one on the outputs; `None` if it is."""
    kind = type(module)
    # A subclass of a layer may call itself otherwise.
    own = next(cls for cls in kind.__mro__ if "__call__" in vars(cls))
    if not own.__module__.startswith(("flax.", "jaxmup.")):
        return f"nothing is known of how {kind.__name__} uses its parameters"
    if isinstance(module, _LINEAR):
        return None
    if isinstance(module, _NORMS):
        has_gain = getattr(module, "use_scale", True)
        return None if has_gain else f"{kind.__name__} has a bias, but no gain"
    return f"the outputs of {kind.__name__} are not proportional to its parameters"


def _times(values: Array, scale: Array) -> Array:
    """The values of a stack times a scale for each, in the dtype of the values."""
    wide = jnp.promote_types(values.dtype, scale.dtype)
    factor = scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
    return (values.astype(wide) * factor).astype(values.dtype)
