"""Scales absorbed into the weights, where that changes nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxmup.empirical._choose import module_name
from jaxmup.empirical._linen import COLLECTION, linen_subject, scales_by_path
from jaxmup.empirical._nnx import Scaled, scaled_modules
from jaxmup.empirical._subject import as_arguments

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
      model: an NNX model, or the variables of the Linen module.
      kept: the modules that are still wrapped, and why.
      dropped: the modules whose gradients were scaled. The gradient of the plain model is the true
        one, so that training goes on differently.
    """

    model: Any
    kept: Mapping[str, str]
    dropped: tuple[str, ...]


def absorb_scales(
    model: Any,
    *,
    variables: Mapping[str, Any] | None = None,
    inputs: Any = None,
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
      model: a calibrated NNX model, or a Linen module.
      variables: of the Linen module, calibrated.
      inputs: what the Linen module is called with; only shapes and dtypes count.
      arguments: keyword arguments of that call.

    Raises:
      ValueError: if there is nothing to absorb.

    Example:
      >>> from flax import nnx
      >>> layer = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
      >>> plain = absorb_scales(Scaled(layer, jnp.array(3.0))).model
      >>> bool((plain.kernel[...] == 3 * layer.kernel[...]).all())
      True
    """
    if variables is None:
        return _absorb_nnx(model)
    return _absorb_linen(model, variables, as_arguments(inputs), arguments or {})


def _absorb_nnx(model: nnx.Module) -> Absorbed:
    model = nnx.clone(model)
    wrapped = scaled_modules(model)
    _require_some(wrapped)
    kept = {
        module_name(p): why for p, w in wrapped.items() if (why := _obstacle(w.module)) is not None
    }
    dropped = tuple(module_name(p) for p, w in wrapped.items() if w.scale_grad_x is not None)

    def absorbed(path: Any, node: Any) -> Any:
        if not isinstance(node, Scaled):
            return node
        scale = node.scale_actv_y[...]
        if module_name(path) in kept:
            return Scaled(node.module, scale)
        for variable in _variables(node.module):
            variable[...] = _times(variable[...], scale)
        return node.module

    return Absorbed(nnx.recursive_map(absorbed, model), kept, dropped)


def _variables(module: nnx.Module) -> list[nnx.Param]:
    return [value for value in vars(module).values() if isinstance(value, nnx.Param)]


def _absorb_linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    inputs: tuple[Any, ...],
    arguments: Mapping[str, Any],
) -> Absorbed:
    scales = scales_by_path(variables)
    _require_some(scales)
    subject, _ = linen_subject(module, variables, None, inputs, arguments, lambda outputs: outputs)
    called = subject.modules()
    names = {subject.names[path]: found for path, found in scales.items()}
    obstacles = {name: _obstacle(called[name]) for name in names}
    kept = {name: why for name, why in obstacles.items() if why is not None}
    dropped = tuple(name for name, found in names.items() if "scale_grad_x" in found)

    def times(name: str, parameter: str, values: Array) -> Array:
        return values if name in kept else _times(values, names[name]["scale_actv_y"])

    left = {name: {"scale_actv_y": names[name]["scale_actv_y"]} for name in kept}
    found = subject.map_parameters(times).scaled(left)
    if not kept:
        del found[COLLECTION]
    return Absorbed(found, kept, dropped)


def _require_some(wrapped: Any) -> None:
    if not wrapped:
        raise ValueError(
            "There must be scales to absorb. Got none. Use `calibrate` or `wrap` first."
        )


def _obstacle(module: Any) -> str | None:
    """Why a factor on all parameters is not one on the outputs; `None` if it is."""
    kind = type(module)
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
