"""Settings of layers that no tensor holds, of both sides in the terms of Flax's constructors.

Modules of PyTorch are read by their attributes, so that neither PyTorch nor Hugging Face's
`transformers` is imported.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from flax import nnx

LayerSettings: TypeAlias = dict[str, Any]
"""Values by the name of the argument of Flax's constructor."""
Padding: TypeAlias = tuple[tuple[int, int], ...] | str
"""Zeros before and after each axis of an image; or a word where they depend on its size."""
TorchModule: TypeAlias = Any
"""A `torch.nn.Module`, whose package the types must not need."""
Sizes: TypeAlias = Sequence[int]
_EPSILON = ("epsilon", "eps", "variance_epsilon")


class Foreign(str):
    """A setting in words, which no argument of Flax can have."""

    __slots__ = ()


def of_flax(layer: nnx.Module) -> LayerSettings:
    """The settings of a layer of Flax; of a module of one's own, what it calls `eps`.

    Example:
      >>> of_flax(nnx.Conv(2, 3, (3, 3), strides=2, rngs=nnx.Rngs(0)))["padding"]
      'SAME'
      >>> of_flax(nnx.Conv(2, 3, (3,), rngs=nnx.Rngs(0)))["padding"]
      ((1, 1),)
    """
    if isinstance(layer, nnx.Conv | nnx.ConvTranspose):
        return _of_flax_convolution(layer)
    found: LayerSettings = {}
    if isinstance(layer, nnx.BatchNorm):
        found["momentum"] = layer.momentum
    if isinstance(layer, nnx.GroupNorm):
        found["num_groups"] = layer.num_groups
    epsilon = _number(layer, _EPSILON)
    return found if epsilon is None else {"epsilon": epsilon, **found}


def of_torch(module: TorchModule, dtype: np.dtype) -> LayerSettings:
    """The settings that a layer of Flax must have to be this module.

    Args:
      module: Module of PyTorch, or of Hugging Face.
      dtype: Dtype of its weight.
    """
    if hasattr(module, "kernel_size") and hasattr(module, "padding_mode"):
        return _of_torch_convolution(module)
    found: LayerSettings = {}
    if hasattr(module, "running_mean") and hasattr(module, "momentum"):
        held = module.momentum  # None makes an average of all batches
        found["momentum"] = Foreign("that of all batches") if held is None else 1 - held
    if hasattr(module, "num_groups"):
        found["num_groups"] = module.num_groups
    epsilon = _number(module, _EPSILON)
    if epsilon is None and getattr(module, "eps", 0) is None:  # as of an RMSNorm
        epsilon = float(np.finfo(dtype).eps)
    return found if epsilon is None else {"epsilon": epsilon, **found}


def same(ours: Any, theirs: Any) -> bool:
    """True if two settings are one, up to the rounding of a decimal."""
    numbers = isinstance(ours, float | int) and isinstance(theirs, float | int)
    return math.isclose(ours, theirs, rel_tol=1e-6) if numbers else ours == theirs


def _of_flax_convolution(layer: nnx.Conv | nnx.ConvTranspose) -> LayerSettings:
    spread = _spread(layer.kernel_size, layer.kernel_dilation)
    strides = _each(layer.strides, len(spread))
    dilation = _each(layer.kernel_dilation, len(spread))
    found: LayerSettings = {"strides": strides, "kernel_dilation": dilation}
    if isinstance(layer, nnx.ConvTranspose):
        found["padding"] = _flax_transposed_padding(layer.padding, spread, strides)
        return found
    found["feature_group_count"] = layer.feature_group_count
    found["padding"] = _flax_padding(layer.padding, spread, strides)
    return found


def _of_torch_convolution(module: TorchModule) -> LayerSettings:
    rank = len(module.kernel_size)
    dilation = _each(module.dilation, rank)
    spread = _spread(module.kernel_size, dilation)
    found: LayerSettings = {"strides": _each(module.stride, rank), "kernel_dilation": dilation}
    if getattr(module, "transposed", False):
        padding, more = _each(module.padding, rank), _each(module.output_padding, rank)
        found["padding"] = tuple(
            (k - 1 - p, k - 1 - p + o) for k, p, o in zip(spread, padding, more, strict=True)
        )
        return found
    found["feature_group_count"] = module.groups
    found["padding"] = _torch_padding(module.padding, module.padding_mode, spread)
    return found


def _torch_padding(padding: Any, mode: str, spread: Sizes) -> Padding:
    if padding == "same":
        zeros = tuple(_halves(k - 1) for k in spread)
    elif padding == "valid":
        zeros = ((0, 0),) * len(spread)
    else:
        zeros = tuple((p, p) for p in _each(padding, len(spread)))
    if mode == "zeros" or not any(map(any, zeros)):
        return zeros
    around = tuple(((k - 1) // 2, k // 2) for k in spread)
    if zeros == around and mode != "replicate":
        return mode.upper()
    return Foreign(f"{mode} {zeros}")


def _flax_padding(padding: Any, spread: Sizes, strides: Sizes) -> Padding:
    match padding:
        case "SAME":
            if set(strides) == {1} or set(spread) == {1}:
                return tuple(_halves(k - 1) for k in spread)
            return padding
        case "VALID":
            return ((0, 0),) * len(spread)
        case "CAUSAL":
            return tuple((k - 1, 0) for k in spread)
        case str():
            return padding
    return _pairs(padding, len(spread))


def _flax_transposed_padding(padding: Any, spread: Sizes, strides: Sizes) -> Padding:
    """The zeros around the spread-out input, as `jax.lax.conv_transpose` has them."""
    each = list(zip(spread, strides, strict=True))
    match padding:
        case "SAME":
            before = [k - 1 if s > k - 1 else math.ceil((k + s - 2) / 2) for k, s in each]
            return tuple((a, k + s - 2 - a) for (k, s), a in zip(each, before, strict=True))
        case "VALID":
            return tuple((k - 1, s - 1 + max(k - s, 0)) for k, s in each)
        case str():
            return padding
    return _pairs(padding, len(spread))


def _pairs(padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    each = (padding,) * rank if isinstance(padding, int) else padding
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def _spread(kernel: Any, dilation: Any) -> tuple[int, ...]:
    """The sizes of a window with the gaps of its dilation."""
    sizes = (kernel,) if isinstance(kernel, int) else tuple(kernel)
    return tuple((k - 1) * d + 1 for k, d in zip(sizes, _each(dilation, len(sizes)), strict=True))


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """A size for each axis."""
    if value is None:
        return (1,) * rank
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _number(owner: Any, names: Sequence[str]) -> float | None:
    held = (getattr(owner, name, None) for name in names)
    return next((x for x in held if isinstance(x, float | int) and not isinstance(x, bool)), None)
