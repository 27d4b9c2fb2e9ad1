"""What the layers of `flax.nnx` say of their parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

import jaxmup.nnx
from jaxmup._infer._leaf import Kinds, Leaf, Use, einsum_kinds
from jaxmup._spec import Axis, ParamSpec

Path = tuple[Any, ...]

_DENSE: Mapping[str, Kinds] = {"kernel": ("input", "output"), "bias": ("output",)}
_NORM: Mapping[str, Kinds] = {"scale": ("output",), "bias": ("output",)}
_LORA: Mapping[str, Kinds] = {"lora_a": ("input", "output"), "lora_b": ("input", "output")}


def _linear_general(layer: nnx.LinearGeneral) -> Mapping[str, Kinds]:
    batch: Kinds = ("batch",) * len(layer.batch_axis)
    outputs: Kinds = ("output",) * len(layer.out_features)
    inputs: Kinds = ("input",) * len(layer.in_features)
    return {"kernel": batch + inputs + outputs, "bias": batch + outputs}


def _conv(layer: nnx.Conv) -> Mapping[str, Kinds]:
    window: Kinds = ("batch",) * len(layer.kernel_size)
    return {"kernel": (*window, "input", "output"), "bias": ("output",)}


def _conv_transpose(layer: nnx.ConvTranspose) -> Mapping[str, Kinds]:
    window: Kinds = ("batch",) * len(layer.kernel_size)
    channels: Kinds = ("output", "input") if layer.transpose_kernel else ("input", "output")
    return {"kernel": (*window, *channels), "bias": ("output",)}


# The axes that each layer made, by the name of the parameter. A growing vocabulary is no width:
# a lookup sums over none of its axes.
_LAYERS: dict[type[nnx.Module], Callable[[Any], Mapping[str, Kinds]]] = {
    nnx.Linear: lambda layer: _DENSE,
    nnx.LoRALinear: lambda layer: _DENSE,
    nnx.LinearGeneral: _linear_general,
    nnx.Einsum: lambda layer: einsum_kinds(layer.einsum_str),
    nnx.Conv: _conv,
    nnx.ConvTranspose: _conv_transpose,
    nnx.Embed: lambda layer: {"embedding": ("batch", "output")},
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


def leaves(model: nnx.Module) -> dict[str, Leaf]:
    """The parameters of an abstract model by name."""
    flat = list(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    owners = {path: _owners(model, path) for path, _ in flat}
    ours = {path for path, _ in flat if is_ours(owners[path][-1])}
    declared: dict[Path, ParamSpec] = {}
    if ours:
        given = {
            _name(path): ParamSpec(tuple(Axis("batch", size) for size in param.shape))
            for path, param in flat
            if path not in ours
        }
        declared = dict(nnx.to_flat_state(jaxmup.nnx.specs(model, given=given)))  # type: ignore[arg-type]
    return {
        _name(path): _leaf(path, param, owners[path], declared[path] if path in ours else None)
        for path, param in flat
    }


def tree(model: nnx.Module, values: Mapping[str, Any]) -> nnx.State:
    """A tree like `nnx.state(model, nnx.Param)` with these values, by name."""
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    return nnx.from_flat_state([(path, values[_name(path)]) for path in paths])


def is_ours(layer: Any) -> bool:
    """Whether a jaxmup layer, which declares the specs of its parameters."""
    return any(cls.__module__.startswith("jaxmup.") for cls in type(layer).__mro__)


def known_kinds(layer: Any, layers: Mapping[Any, Callable[..., Any]]) -> Mapping[str, Kinds]:
    """The axes of a layer's parameters, if its type says how it uses them.

    A subclass with a method of its own in the place of the layer's may use them in any way.
    """
    for cls in type(layer).__mro__:
        if cls in layers:
            own = all(
                getattr(type(layer), name, None) is getattr(cls, name, None)
                for name in ("__call__", "attend")
            )
            return layers[cls](layer) if own else {}
    return {}


def _leaf(path: Path, param: Any, owners: list[Any], spec: ParamSpec | None) -> Leaf:
    names = param.get_metadata().get("out_sharding")
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
    if isinstance(attention, nnx.MultiHeadAttention) and not is_ours(attention):
        # A norm of the queries undoes any factor on their kernel.
        if path[-2] == ("query_ln" if attention.normalize_qk else "query"):
            known = type(attention).__call__ is nnx.MultiHeadAttention.__call__
            return frozenset({logits_use(known, attention.attention_fn, _ATTENTION)})
    return frozenset()


_ATTENTION = (nnx.dot_product_attention,)


def logits_use(known: bool, function: Any, flax_own: tuple[Any, ...]) -> Use:
    """Whether attention with this `attention_fn` divides its logits by the root of the head size."""
    while isinstance(function, functools.partial):
        function = function.func
    return "logits" if known and function in flax_own else "unknown logits"


def _owners(model: nnx.Module, path: Path) -> list[Any]:
    """The modules and containers from the model down to the one that holds the parameter."""
    owners: list[Any] = [model]
    for part in path[:-1]:
        owner = owners[-1]
        owners.append(vars(owner)[part] if part in _attributes(owner) else owner[part])
    return owners


def _attributes(owner: Any) -> Mapping[str, Any]:
    return vars(owner) if isinstance(owner, nnx.Module) else {}


def _name(path: Path) -> str:
    return "/".join(map(str, path))
