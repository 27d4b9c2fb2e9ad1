"""Ways in which a module of PyTorch can be a layer of Flax, with the transforms that they take."""

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from jaxmup.bridge import _spectral
from jaxmup.bridge._layouts import (
    COPY,
    DROPPED,
    GRU_BIASES,
    INPUT_FIRST,
    LINEAR,
    TWO_BIASES,
    Layout,
    Shape,
    convolution,
    last_axis,
    transposed_convolution,
)
from jaxmup.bridge._plan import Entry, Place, Source
from jaxmup.bridge._units import (
    CELLS,
    NORM_SCALE,
    QKV,
    SPECTRAL_SIGMA,
    SPECTRAL_U,
    SPECTRAL_V,
    FlaxLayer,
    TorchLayer,
    fits_matrix,
    is_conv1d,
    is_stacked,
)

Option: TypeAlias = tuple[Entry, ...]
"""One way to convert a module: an entry for each of its tensors, that of its weight first."""
_ROLES = {"weight": ("kernel", "scale", "embedding"), "bias": ("bias",)}
_ROLES |= {"running_mean": ("mean",), "running_var": ("var",), NORM_SCALE: (NORM_SCALE,)}
_COUNTER = "num_batches_tracked"  # of batches that a running average has seen; Flax keeps none


def options(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    """The ways in which a module can be a layer, by their shapes; none if they don't fit.

    There are several where shapes do not tell: of a square matrix, or a square convolution in a
    tree that has no types.
    """
    match torch.kind, flax.kind:
        case "cell", "cell":
            return _cell(torch, flax)
        case (("in_proj" | "layer"), "attention"):
            return _attention(torch, flax) if is_stacked(torch) else []
        case (("in_proj" | "layer"), "packed"):
            return _packed_layers(torch, flax)
        case "array", "array":
            return _array(torch, flax)
        case "layer", ("cell" | "array"):
            return []
        case "layer", _:
            return _layer(torch, flax)
    return []


def _array(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    (source,), ((local, place),) = torch.tensors.values(), flax.places.items()
    if local == "kernel" and (layouts := [*kernel_layouts(source.shape, place.shape, None)]):
        return [(Entry((source,), (place,), layout),) for layout in layouts]
    fits = _fits(source.shape, place.shape, flat=local == "bias")
    return [(Entry((source,), (place,), COPY),)] if fits else []


def _layer(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    """A module with a weight, a bias or running averages, each in its place."""
    if SPECTRAL_U in torch.tensors or SPECTRAL_U in flax.places:
        return _spectral_layer(torch, flax)
    place_of = {
        local: next((role for role in _ROLES[local] if role in flax.places), "")
        for local in torch.tensors
        if local != _COUNTER
    }
    if set(place_of.values()) != flax.places.keys():
        return []  # a tensor without a place, or a place without a tensor
    fixed: list[Entry] = []
    kernels: list[Entry] | None = None
    for local, role in place_of.items():
        source, place = torch.tensors[local], flax.places[role]
        if role == "kernel":
            layouts = kernel_layouts(source.shape, place.shape, flax.kind)
            kernels = [Entry((source,), (place,), layout) for layout in layouts]
        elif _fits(source.shape, place.shape, flat=role in ("bias", NORM_SCALE)):
            fixed.append(Entry((source,), (place,), COPY))
        else:
            return []
    if NORM_SCALE in torch.tensors:
        kernels = _scaled_by_output(torch.tensors[NORM_SCALE].shape, kernels or [])
    if _COUNTER in torch.tensors:
        fixed.append(Entry((torch.tensors[_COUNTER],), (), DROPPED))
    return [tuple(fixed)] if kernels is None else [(kernel, *fixed) for kernel in kernels]


def _scaled_by_output(scale: Shape, weights: list[Entry]) -> list[Entry]:
    """Those of the ways to store a weight in which it has a scale for each output, as in Flax.

    In PyTorch scales may be along any axis, and of a transposed convolution are along its inputs.
    """
    if any(weight.layout == LINEAR for weight in weights):
        # Or the scales of the inputs would make a Conv1D of a square Linear.
        weights = [weight for weight in weights if weight.layout == LINEAR]
    found: list[Entry] = []
    for weight in weights:
        shape = weight.sources[0].shape
        last = last_axis(weight.layout, len(shape))
        if scale == tuple(size if axis == last else 1 for axis, size in enumerate(shape)):
            found.append(weight)
    return found


def _spectral_layer(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    """A module whose weight is under spectral norm on both sides."""
    tensors, places = dict(torch.tensors), dict(flax.places)
    vectors = [tensors.pop(local, None) for local in (SPECTRAL_U, SPECTRAL_V)]
    state = [places.pop(local, None) for local in (SPECTRAL_U, SPECTRAL_SIGMA)]
    match [*vectors, *state]:
        case Source() as left, Source() as right, Place() as u, Place() as sigma:
            plain = torch._replace(tensors=tensors), flax._replace(places=places)
            return [
                (*option, *vectors)
                for option in _layer(*plain)
                for entry in option
                if len(entry.sources[0].shape) > 1
                if (vectors := _spectral.entries(entry, (left, right), u, sigma))
            ]
    return []


def _fits(source: Shape, place: Shape, *, flat: bool) -> bool:
    """True if shapes are equal.

    With `flat`, of one axis at least that is longer than 1: heads may have an axis of their own in
    a bias, and the scale of a norm keeps the axes of the weight.
    """
    one = [size for size in source if size > 1]
    return source == place or (flat and len(one) < 2 and math.prod(source) == math.prod(place))


def kernel_layouts(weight: Shape, kernel: Shape, kind: str | None) -> Iterator[Layout]:
    """The layouts that take a weight of PyTorch to a kernel of Flax, by their shapes.

    Example:
      >>> [layout.name for layout in kernel_layouts((3, 2), (2, 3), "linear")]
      ['transposed']
      >>> [layout.name for layout in kernel_layouts((2, 2), (2, 2), "linear")]
      ['transposed', 'as it is (Conv1D)']
    """
    if len(weight) == 2 and kind in ("linear", "einsum", None):
        if fits_matrix(weight, kernel):
            yield LINEAR
        if fits_matrix(weight[::-1], kernel):
            yield INPUT_FIRST
    elif len(weight) == len(kernel) >= 3:
        rank = len(kernel)
        window, first, second = weight[2:], weight[0], weight[1]
        # A convolution has (out, in, *window) in PyTorch and a transposed one (in, out, *window):
        # where both are equal a tree without types leaves it open, and a pair must say it.
        if kind in ("conv", None) and kernel == (*window, second, first):
            yield convolution(rank)
        if kind in ("conv_transpose", None) and kernel == (*window, first, second):
            yield transposed_convolution(rank, transpose_kernel=False)
        if kind == "conv_gradient" and kernel == (*window, second, first):
            yield transposed_convolution(rank, transpose_kernel=True)


def _attention(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    """Query, key and value in one tensor, one after another, or their biases alone in one.

    The latter is `torch.nn.MultiheadAttention` with keys or values of another size: then it has a
    `q_proj_weight` and so on, and still one `in_proj_bias`.
    """
    kernels, biases = (
        tuple(flax.places[f"{name}/{leaf}"] for name in QKV if f"{name}/{leaf}" in flax.places)
        for leaf in ("kernel", "bias")
    )
    tensors = {local.removeprefix("in_proj_"): source for local, source in torch.tensors.items()}
    fixed: list[Entry] = []
    for place, letter in zip(kernels, "qkv", strict=True):
        if source := tensors.pop(f"{letter}_proj_weight", None):
            if not fits_matrix(source.shape, place.shape):
                return []
            fixed.append(Entry((source,), (place,), LINEAR))
    if ("bias" in tensors) != bool(biases):
        return []
    if source := tensors.get("bias"):
        if source.shape != (sum(math.prod(place.shape) for place in biases),):
            return []
        fixed.append(Entry((source,), biases, COPY))
    # By now `fixed` has what stands apart: three weights and a bias, or a bias beside one weight.
    if fixed and "weight" not in tensors:
        return [tuple(fixed)] if len(fixed) == 3 + bool(biases) else []
    if "weight" not in tensors or tensors.keys() - {"weight", "bias"}:
        return []
    source = tensors["weight"]
    ways = [
        way for way in _packed(source.shape, kernels) if way == INPUT_FIRST or not is_conv1d(torch)
    ]
    return [(Entry((source,), kernels, way), *fixed) for way in ways]


def _packed_layers(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    """Several layers in one tensor, in the order that a pair gives, and their biases in another."""
    kernels, biases = (
        tuple(place for name, place in flax.places.items() if name.endswith(f"/{leaf}"))
        for leaf in ("kernel", "bias")
    )
    tensors = {local.removeprefix("in_proj_"): source for local, source in torch.tensors.items()}
    wanted = {"weight", "bias"} if biases else {"weight"}
    if tensors.keys() != wanted or len(kernels) + len(biases) != len(flax.places):
        return []
    if biases and tensors["bias"].shape != (sum(math.prod(place.shape) for place in biases),):
        return []
    fixed = [Entry((tensors["bias"],), biases, COPY)] if biases else []
    source = tensors["weight"]
    return [(Entry((source,), kernels, way), *fixed) for way in _packed(source.shape, kernels)]


def _packed(weight: Shape, kernels: tuple[Place, ...]) -> Iterator[Layout]:
    """The layouts that cut one weight into the kernels of query, key and value."""
    inputs = kernels[0].shape[0]
    if any(place.shape[0] != inputs for place in kernels):
        return
    rows = sum(math.prod(place.shape) for place in kernels) // inputs
    if weight == (rows, inputs):
        yield LINEAR
    if weight == (inputs, rows):
        yield INPUT_FIRST


def _cell(torch: TorchLayer, flax: FlaxLayer) -> list[Option]:
    """A recurrent layer: the gates of PyTorch are rows of one matrix, in Flax's order."""
    # Where Flax has a matrix for each gate its names give the order, else both have PyTorch's.
    order = CELLS.get(frozenset(name.partition("/")[0] for name in flax.places))
    entries: list[Entry] = []
    for local, side in (("weight_ih", "i"), ("weight_hh", "h")):
        source, places = torch.tensors.get(local), _cell_kernels(flax.places, order, side)
        inputs = places[0].shape[0]
        rows = sum(math.prod(place.shape) for place in places) // inputs
        if source is None or source.shape != (rows, inputs):
            return []
        entries.append(Entry((source,), places, LINEAR))
    biases = _cell_biases(flax.places, order)
    sources = tuple(torch.tensors[n] for n in ("bias_ih", "bias_hh") if n in torch.tensors)
    if bool(sources) != bool(biases) or len(sources) == 1:
        return []
    if biases:
        # Only a GRU has three gates, and only in a GRU can the two biases not be summed.
        gates = entries[0].sources[0].shape[0] // entries[1].sources[0].shape[1]
        entries.append(Entry(sources, biases, GRU_BIASES if gates == 3 else TWO_BIASES))
    return [tuple(entries)]


def _cell_kernels(places: Mapping[str, Place], order: str | None, side: str) -> tuple[Place, ...]:
    """The kernels of the inputs (`side` "i") or of the state ("h"), in PyTorch's order of gates."""
    if order is not None:
        return tuple(places[f"{side}{gate}/kernel"] for gate in order)
    return tuple(place for name, place in places.items() if _is_kernel(name, side))


def _is_kernel(name: str, side: str) -> bool:
    return name.removeprefix("dense_").startswith(side) and name.endswith("/kernel")


def _cell_biases(places: Mapping[str, Place], order: str | None) -> tuple[Place, ...]:
    if order is None:
        return tuple(place for name, place in places.items() if name.endswith("/bias"))
    names = [f"i{gate}/bias" for gate in order] + [f"h{gate}/bias" for gate in order]
    return tuple(places[name] for name in names if name in places)
