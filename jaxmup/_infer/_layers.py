"""Axes of the parameters of layers that NNX and Linen both have."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxmup._axes import kinds_of_letters
from jaxmup._infer._leaf import Kinds, Use

DENSE: Mapping[str, Kinds] = {"kernel": ("input", "output"), "bias": ("output",)}
# A lookup sums over none of the table's axes: a growing vocabulary is no width.
EMBED: Mapping[str, Kinds] = {"embedding": ("batch", "output")}


def known_kinds(
    layer: Any, layers: Mapping[Any, Callable[[Any], Mapping[str, Kinds]]]
) -> Mapping[str, Kinds]:
    """The axes of a layer's parameters by name, if its type says how it uses them.

    A subclass with a method of its own in the place of the layer's may use them in any way.
    """
    for cls in type(layer).__mro__:
        if cls in layers:
            unchanged = all(
                getattr(type(layer), name, None) is getattr(cls, name, None)
                for name in ("__call__", "attend")
            )
            return layers[cls](layer) if unchanged else {}
    return {}


def owned_by_jaxmup(layer: Any) -> bool:
    """True for a jaxmup layer, which declares the specs of its parameters."""
    return any(cls.__module__.startswith("jaxmup.") for cls in type(layer).__mro__)


def attention_use(
    attention: Any, layer: str, flax_own: bool, divides: Callable[..., Any]
) -> frozenset[Use]:
    """The use that attention makes of the parameters of one of its layers.

    Args:
      attention: Module with an `attention_fn` and a flag `normalize_qk`.
      layer: Name of the layer, `"query"`, `"query_ln"` or another.
      flax_own: True if the module computes as Flax wrote it.
      divides: Function of Flax that divides the logits by the root of the head size.
    """
    # A norm of the queries undoes any factor on their kernel.
    scales_logits = layer == ("query_ln" if attention.normalize_qk else "query")
    if not scales_logits or owned_by_jaxmup(attention):
        return frozenset()
    function = attention.attention_fn
    while isinstance(function, functools.partial):
        function = function.func
    return frozenset({"logits" if flax_own and function is divides else "unknown logits"})


def general_kinds(batch: int, inputs: int, outputs: int) -> Mapping[str, Kinds]:
    """The axes of a dense layer with these numbers of them."""
    batch_axes: Kinds = ("batch",) * batch
    input_axes: Kinds = ("input",) * inputs
    output_axes: Kinds = ("output",) * outputs
    kernel: Kinds = (*batch_axes, *input_axes, *output_axes)
    return {"kernel": kernel, "bias": (*batch_axes, *output_axes)}


def conv_kinds(spatial: int, transposed: bool = False) -> Mapping[str, Kinds]:
    """The axes of a convolution with so many spatial axes."""
    window: Kinds = ("batch",) * spatial
    channels: Kinds = ("output", "input") if transposed else ("input", "output")
    return {"kernel": (*window, *channels), "bias": ("output",)}


def einsum_kinds(equation: str | None) -> Mapping[str, Kinds]:
    """The axes of kernel and bias of `einsum(equation, inputs, kernel) + bias`.

    Example:
      >>> einsum_kinds("nta,hab->nthb")["kernel"]
      ('output', 'input', 'output')
      >>> einsum_kinds("bec,ecd->bed")  # one matrix for each expert e
      {'kernel': ('batch', 'input', 'output'), 'bias': ('batch', 'output')}
    """
    if equation is None or "->" not in equation:
        return {}
    operands, result = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    if "." in kernel or len(set(kernel)) < len(kernel):
        return {}
    kinds = kinds_of_letters(inputs, kernel, result)
    return {
        "kernel": tuple(kinds.values()),
        "bias": tuple(kinds[letter] for letter in result if letter in kinds),
    }
