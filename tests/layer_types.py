"""Kinds of axes by the types of Flax's layers: an oracle for those that `infer` reads off programs.

The tables are typed from Flax's documentation of each layer. They know nothing of how a layer is
used, so they answer only for what a layer does itself.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import linen as nn
from flax import nnx
from flax.core import meta

import jaxmup
from jaxmup._axes import kinds_of_letters
from jaxmup._model import Instance
from jaxmup._tree import leaves_by_path

Kinds = tuple[str, ...]
Table = Mapping[type, Callable[[Any], Mapping[str, Kinds]]]

DENSE: Mapping[str, Kinds] = {"kernel": ("input", "output"), "bias": ("output",)}
# A lookup sums over none of the table's axes: a growing vocabulary is no width.
EMBED: Mapping[str, Kinds] = {"embedding": ("batch", "output")}
SCALAR: Mapping[str, Kinds] = {"negative_slope": ()}


def kinds_by_types(instance: Instance) -> dict[str, Kinds]:
    """The kinds of the axes of those parameters whose layers are Flax's own, by name."""
    return dict(_of_nnx(instance) if instance.kind == "nnx" else _of_linen(instance))


def general(batch: int, inputs: int, outputs: int) -> Mapping[str, Kinds]:
    """The axes of a dense layer with these numbers of them."""
    batches, ends = ("batch",) * batch, ("output",) * outputs
    return {"kernel": (*batches, *("input",) * inputs, *ends), "bias": (*batches, *ends)}


def conv(layer: Any) -> Mapping[str, Kinds]:
    """The axes of a convolution."""
    transposed = getattr(layer, "transpose_kernel", False)
    channels = ("output", "input") if transposed else ("input", "output")
    return {"kernel": (*("batch",) * count(layer.kernel_size), *channels), "bias": ("output",)}


def conv_local(layer: nn.ConvLocal) -> Mapping[str, Kinds]:
    """The axes of a convolution with weights of its own at each place: window times channels."""
    places = ("batch",) * count(layer.kernel_size)
    return {"kernel": (*places, "input", "output"), "bias": (*places, "output")}


def einsum(layer: Any) -> Mapping[str, Kinds]:
    """The axes of kernel and bias of `einsum(equation, inputs, kernel) + bias`."""
    operands, result = layer.einsum_str.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    kinds = kinds_of_letters(inputs, kernel, result)
    bias = tuple(kinds[letter] for letter in result if letter in kinds)
    return {"kernel": tuple(kinds.values()), "bias": bias}


def norm(axes: Any) -> Mapping[str, Kinds]:
    """The axes of scale and bias of a norm."""
    return dict.fromkeys(("scale", "bias"), ("output",) * count(axes))


def count(axes: Any) -> int:
    """The number of axes."""
    return 1 if isinstance(axes, int) else len(axes)


NNX: Table = {
    nnx.Linear: lambda layer: DENSE,
    nnx.LoRALinear: lambda layer: DENSE,
    nnx.LinearGeneral: lambda layer: general(
        *map(len, (layer.batch_axis, layer.in_features, layer.out_features))
    ),
    nnx.Einsum: einsum,
    nnx.Conv: conv,
    nnx.ConvTranspose: conv,
    nnx.Embed: lambda layer: EMBED,
    nnx.LayerNorm: lambda layer: norm(-1),
    nnx.RMSNorm: lambda layer: norm(-1),
    nnx.GroupNorm: lambda layer: norm(-1),
    nnx.BatchNorm: lambda layer: norm(-1),
    nnx.InstanceNorm: lambda layer: norm(-1),
    nnx.LoRA: lambda layer: {"lora_a": ("input", "output"), "lora_b": ("input", "output")},
    nnx.PReLU: lambda layer: SCALAR,
}
# `DenseParams` is what an `OptimizedLSTMCell` keeps its matrices in.
LINEN: Table = {
    nn.Dense: lambda layer: DENSE,
    nn.recurrent.DenseParams: lambda layer: DENSE,
    nn.DenseGeneral: lambda layer: general(
        len(layer.batch_dims), count(layer.axis), count(layer.features)
    ),
    nn.Einsum: einsum,
    nn.Conv: conv,
    nn.ConvLocal: conv_local,
    nn.ConvTranspose: conv,
    nn.Embed: lambda layer: EMBED,
    nn.LayerNorm: lambda layer: norm(layer.feature_axes),
    nn.RMSNorm: lambda layer: norm(layer.feature_axes),
    nn.InstanceNorm: lambda layer: norm(layer.feature_axes),
    nn.BatchNorm: lambda layer: norm(layer.axis),
    nn.GroupNorm: lambda layer: norm(-1),
    nn.PReLU: lambda layer: SCALAR,
}


def _of_type(layer: Any, table: Table) -> Mapping[str, Kinds]:
    return table[type(layer)](layer) if type(layer) in table else {}


def _of_nnx(instance: Instance) -> Iterator[tuple[str, Kinds]]:
    for path, param in nnx.to_flat_state(instance.params):
        layer: Any = instance.join(instance.parts)
        for part in path[:-1]:
            attributes = vars(layer) if isinstance(layer, nnx.Module) else {}
            layer = attributes[part] if part in attributes else layer[part]
        kinds = _of_type(layer, NNX).get(str(path[-1]))
        if kinds is not None:
            added = ("batch",) * (len(param.shape) - len(kinds))  # by `nnx.vmap`, in front
            yield "/".join(map(str, path)), added + kinds


def _of_linen(instance: Instance) -> Iterator[tuple[str, Kinds]]:
    seen: dict[str, tuple[Kinds, tuple[int, ...]]] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        for name, kinds in _of_type(context.module, LINEN).items():
            values = context.module.variables.get("params", {})
            if name in values:
                own = tuple(meta.unbox(values[name]).shape)
                seen["/".join([*context.module.path, name])] = kinds, own
        return result

    with nn.intercept_methods(record):
        params = leaves_by_path(dataclasses.replace(instance).parts.params)  # made anew
    for name, (kinds, own) in seen.items():
        if name in params:
            yield name, _lifted(kinds, own, tuple(params[name].shape))


def _lifted(kinds: Kinds, own: tuple[int, ...], shape: tuple[int, ...]) -> Kinds:
    """The kinds of a parameter, where `scan` and `vmap` have added batch axes to its own shape.

    Two axes of one size may both have been added; which is which matters for one that grows alone.
    """
    places = next(
        at
        for at in itertools.combinations(range(len(shape)), len(own))
        if tuple(shape[i] for i in at) == own
    )
    by_place = dict(zip(places, kinds, strict=True))
    return tuple(by_place.get(i, "batch") for i in range(len(shape)))


def require_same(model: jaxmup.Model, specs: Any, size: Any) -> int:
    """Requires that the specs of a model of this size agree with the types of its layers.

    What an axis does that does not grow changes no number, so only growing axes are compared.

    Returns:
      The number of parameters whose layers answer.
    """
    by_types = kinds_by_types(model.at(size))
    found = {name: spec for name, spec in leaves_by_path(specs).items() if name in by_types}
    for name, spec in found.items():
        pairs = zip(spec.axes, by_types[name], strict=True)
        wrong = [(axis, kind) for axis, kind in pairs if axis.grows and axis.kind != kind]
        assert not wrong, (name, spec, by_types[name], spec.reason)
    return len(found)
