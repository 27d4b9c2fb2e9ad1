"""Axes of the parameters of a Linen module, as the types of its layers say them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.core import meta

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
from jaxmup._model import Instance
from jaxmup._spec import Axis, ParamSpec
from jaxmup._tree import leaves_by_path, path_name


def _count(axes: Any) -> int:
    return 1 if isinstance(axes, int) else len(axes)


def _dense_general(layer: nn.DenseGeneral) -> Mapping[str, Kinds]:
    return general_kinds(len(layer.batch_dims), _count(layer.axis), _count(layer.features))


def _conv(layer: Any) -> Mapping[str, Kinds]:
    return conv_kinds(_count(layer.kernel_size))


def _conv_local(layer: nn.ConvLocal) -> Mapping[str, Kinds]:
    # Its input axis is window times channels, of which the channels grow.
    places: Kinds = ("batch",) * _count(layer.kernel_size)
    return {"kernel": (*places, "input", "output"), "bias": (*places, "output")}


def _conv_transpose(layer: nn.ConvTranspose) -> Mapping[str, Kinds]:
    return conv_kinds(_count(layer.kernel_size), transposed=layer.transpose_kernel)


def _norm(axes: Any) -> Mapping[str, Kinds]:
    features: Kinds = ("output",) * _count(axes)
    return {"scale": features, "bias": features}


# As in `_nnx`. `DenseParams` is what an `OptimizedLSTMCell` keeps its matrices in.
_LAYERS: dict[type[nn.Module], Callable[[Any], Mapping[str, Kinds]]] = {
    nn.Dense: lambda layer: DENSE,
    nn.recurrent.DenseParams: lambda layer: DENSE,
    nn.DenseGeneral: _dense_general,
    nn.Einsum: lambda layer: einsum_kinds(layer.einsum_str),
    nn.Conv: _conv,
    nn.ConvLocal: _conv_local,
    nn.ConvTranspose: _conv_transpose,
    nn.Embed: lambda layer: EMBED,
    nn.LayerNorm: lambda layer: _norm(layer.feature_axes),
    nn.RMSNorm: lambda layer: _norm(layer.feature_axes),
    nn.InstanceNorm: lambda layer: _norm(layer.feature_axes),
    nn.BatchNorm: lambda layer: _norm(layer.axis),
    nn.GroupNorm: lambda layer: _norm(-1),
    nn.PReLU: lambda layer: {"negative_slope": ()},
}
_NORMALIZING = (nn.SpectralNorm, nn.WeightNorm)
_ATTENTION = (nn.MultiHeadDotProductAttention, nn.MultiHeadAttention, nn.SelfAttention)


class _Layer(NamedTuple):
    """A module as it was while it ran."""

    module: nn.Module
    shapes: dict[str, tuple[int, ...]]  # of its own parameters, before `scan` or `vmap` stacks them


class _Trace(NamedTuple):
    """Modules that were seen while one was initialized."""

    layers: dict[tuple[str, ...], _Layer]
    attending: set[tuple[str, ...]]
    normalized: set[tuple[str, ...]]


def leaves(instance: Instance) -> dict[str, Leaf]:
    """The parameters of a module by name."""
    trace = _Trace({}, set(), set())
    with nn.intercept_methods(lambda *call: _record(trace, *call)):
        boxed = instance.initialized().params
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves_by_path(boxed).items()}
    names = _axis_names(boxed)
    declared = _declared(instance, trace, shapes)
    return {
        name: _leaf(name, shape, names.get(name), trace, declared.get(name))
        for name, shape in shapes.items()
    }


def _record(trace: _Trace, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Runs one method of a module and notes what it says."""
    result = call(*args, **kwargs)
    module, path = context.module, context.module.path
    if isinstance(module, _NORMALIZING):
        trace.normalized.add(module.layer_instance.path)
    if context.method_name == "attend":
        trace.attending.add(path)
    own = {
        name: tuple(meta.unbox(value).shape)
        for name, value in module.variables.get("params", {}).items()
        if hasattr(meta.unbox(value), "shape")
    }
    # The transforms make modules of their own, which have no path and no parameters.
    if own or isinstance(module, nn.MultiHeadDotProductAttention):
        trace.layers[path] = _Layer(module, own)
    return result


def _declared(
    instance: Instance, trace: _Trace, shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, ParamSpec]:
    """The specs that jaxmup layers declare, by name."""
    ours = {name for name in shapes if owned_by_jaxmup(_owner(trace, name))}
    if not ours:
        return {}
    given = {
        name: ParamSpec(tuple(Axis("batch", size) for size in shape))
        for name, shape in shapes.items()
        if name not in ours
    }
    declared = leaves_by_path(instance.declared(given))
    return {name: declared[name] for name in ours}


def _owner(trace: _Trace, name: str) -> nn.Module | None:
    layer = trace.layers.get(tuple(name.split("/")[:-1]))
    return None if layer is None else layer.module


def _leaf(
    name: str,
    shape: tuple[int, ...],
    names: tuple[str | None, ...] | None,
    trace: _Trace,
    spec: ParamSpec | None,
) -> Leaf:
    path = tuple(name.split("/"))
    leaf = Leaf(shape, names=names, spec=spec, uses=_uses(path, trace))
    layer = trace.layers.get(path[:-1])
    normalized = any(path[: len(prefix)] == prefix for prefix in trace.normalized)
    if layer is None or normalized or spec is not None:
        return leaf
    kinds = known_kinds(layer.module, _LAYERS).get(path[-1])
    return leaf.with_kinds(kinds, layer.shapes.get(path[-1]))


def _uses(path: tuple[str, ...], trace: _Trace) -> frozenset[Use]:
    layer = trace.layers.get(path[:-1])
    if layer is not None and isinstance(layer.module, nn.Embed):
        return frozenset({"lookup", "attend"} if path[:-1] in trace.attending else {"lookup"})
    parent = trace.layers.get(path[:-2])
    attention = None if parent is None else parent.module
    if not isinstance(attention, nn.MultiHeadDotProductAttention):
        return frozenset()
    flax_own = attention.qk_attn_weights_einsum_cls is None and any(
        type(attention).__call__ is cls.__call__ for cls in _ATTENTION
    )
    return attention_use(attention, path[-2], flax_own, nn.dot_product_attention)


def _axis_names(boxed: Any) -> dict[str, tuple[str | None, ...]]:
    """The names in Flax's partitioning metadata, by the name of the parameter."""
    boxes = jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata)
    )
    return {
        path_name(path): tuple(box.names) for path, box in boxes if isinstance(box, nn.Partitioned)
    }
