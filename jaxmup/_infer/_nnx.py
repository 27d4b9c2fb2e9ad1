"""Axes of the parameters of an NNX module, as the types of its layers say them."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

import jaxmup.nnx
from jaxmup._infer._layers import (
    DENSE,
    EMBED,
    attention_use,
    conv_kinds,
    einsum_kinds,
    general_kinds,
    known_kinds,
    owned_by_jaxmup,
)
from jaxmup._infer._leaf import Kinds, Leaf, Use
from jaxmup._spec import Axis, ParamSpec
from jaxmup.nnx._layer import name_of

Path = tuple[Any, ...]
_AXES = "mup_axes"  # the metadata key under which an `nnx.Param` may carry the names of its axes

_NORM: Mapping[str, Kinds] = {"scale": ("output",), "bias": ("output",)}
_LORA: Mapping[str, Kinds] = {"lora_a": ("input", "output"), "lora_b": ("input", "output")}


def _linear_general(layer: nnx.LinearGeneral) -> Mapping[str, Kinds]:
    sizes = (layer.batch_axis, layer.in_features, layer.out_features)
    return general_kinds(*map(len, sizes))


def _conv_transpose(layer: nnx.ConvTranspose) -> Mapping[str, Kinds]:
    return conv_kinds(len(layer.kernel_size), transposed=layer.transpose_kernel)


# The axes that each layer made, by the name of the parameter.
_LAYERS: dict[type[nnx.Module], Callable[[Any], Mapping[str, Kinds]]] = {
    nnx.Linear: lambda layer: DENSE,
    nnx.LoRALinear: lambda layer: DENSE,
    nnx.LinearGeneral: _linear_general,
    nnx.Einsum: lambda layer: einsum_kinds(layer.einsum_str),
    nnx.Conv: lambda layer: conv_kinds(len(layer.kernel_size)),
    nnx.ConvTranspose: _conv_transpose,
    nnx.Embed: lambda layer: EMBED,
    nnx.LayerNorm: lambda layer: _NORM,
    nnx.RMSNorm: lambda layer: _NORM,
    nnx.GroupNorm: lambda layer: _NORM,
    nnx.BatchNorm: lambda layer: _NORM,
    nnx.InstanceNorm: lambda layer: _NORM,
    nnx.LoRA: lambda layer: _LORA,
    nnx.PReLU: lambda layer: {"negative_slope": ()},
}
# What these hold computes with weights of another size than the parameters'.
_NORMALIZING = (nnx.SpectralNorm, nnx.WeightNorm)


def leaves(model: nnx.Module, params: nnx.State) -> dict[str, Leaf]:
    """The parameters of an abstract model by name."""
    flat = list(nnx.to_flat_state(params))
    owners = {path: _owners(model, path) for path, _ in flat}
    ours = {path for path, _ in flat if owned_by_jaxmup(owners[path][-1])}
    declared: dict[Path, ParamSpec] = {}
    if ours:
        given = {
            name_of(path): ParamSpec(tuple(Axis("batch", size) for size in param.shape))
            for path, param in flat
            if path not in ours
        }
        declared = dict(nnx.to_flat_state(jaxmup.nnx.specs(model, given=given)))  # type: ignore[arg-type]
    return {
        name_of(path): _leaf(path, param, owners[path], declared[path] if path in ours else None)
        for path, param in flat
    }


def _leaf(path: Path, param: Any, owners: list[Any], spec: ParamSpec | None) -> Leaf:
    metadata = param.get_metadata()
    names = metadata.get(_AXES, metadata.get("out_sharding"))
    leaf = Leaf(
        tuple(param.shape),
        names=None if names is None else tuple(names),
        spec=spec,
        uses=_uses(path, owners),
    )
    if spec is not None or any(isinstance(owner, _NORMALIZING) for owner in owners):
        return leaf
    return leaf.with_kinds(known_kinds(owners[-1], _LAYERS).get(path[-1]))


def _uses(path: Path, owners: list[Any]) -> frozenset[Use]:
    if isinstance(owners[-1], nnx.Embed):
        return frozenset({"lookup"})
    attention = owners[-2] if len(owners) > 1 else None
    if not isinstance(attention, nnx.MultiHeadAttention):
        return frozenset()
    flax_own = type(attention).__call__ is nnx.MultiHeadAttention.__call__
    return attention_use(attention, path[-2], flax_own, nnx.dot_product_attention)


def _owners(model: nnx.Module, path: Path) -> list[Any]:
    """The modules and containers from the model down to the one that holds the parameter."""
    owners: list[Any] = [model]
    for part in path[:-1]:
        owner = owners[-1]
        owners.append(vars(owner)[part] if part in _attributes(owner) else owner[part])
    return owners


def _attributes(owner: Any) -> Mapping[str, Any]:
    return vars(owner) if isinstance(owner, nnx.Module) else {}
