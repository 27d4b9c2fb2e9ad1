"""Leaves of a model as layers: rows of stacks apart, cells and packed projections together."""

import ast
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from jaxmup.bridge._layouts import Shape
from jaxmup.bridge._plan import Place
from jaxmup.bridge._units import (
    CELLS,
    FLAX_LOCAL,
    NORM_SCALE,
    QKV,
    SPECTRAL_SIGMA,
    SPECTRAL_U,
    FlaxLayer,
    FlaxLeaf,
    fits_matrix,
    without_collection,
)
from jaxmup.bridge._words import read


def flax_layers(
    leaves: Sequence[FlaxLeaf],
    weights: Iterable[Shape],
    owners: Mapping[str, tuple[str, ...]],
    alone: Collection[str] = frozenset(),
    *,
    stacked: bool,
) -> list[FlaxLayer]:
    """The leaves of a model, layer by layer; of a layer that is stacked, each row.

    Args:
      leaves: Leaves of the model.
      weights: Shapes of PyTorch's weights, by which a kernel of a tree without types is seen to be
        a stack.
      owners: Paths whose layers belong together, with the names of those layers in their order.
      alone: Paths of leaves that are no part of a layer, without the names of collections.
      stacked: Whether query, key and value of every attention belong together.

    Raises:
      ValueError: naming the layers, if a name of `owners` is that of none or of several.
    """
    owned: dict[str, dict[str, FlaxLeaf]] = {}
    arrays: dict[str, dict[str, FlaxLeaf]] = {}
    for leaf in leaves:
        owner, _, local = without_collection(leaf.path).rpartition("/")
        path = without_collection(leaf.path)
        if path in alone:
            arrays[leaf.path] = {local: leaf}
        elif local in FLAX_LOCAL:
            owned.setdefault(owner, {})[local] = leaf
        else:
            arrays[leaf.path] = {"": leaf}
    _join_norms(owned, arrays)
    known = frozenset(weights)
    layers = [
        layer
        for is_array, group in ((False, owned), (True, arrays))
        for name, parts in group.items()
        for layer in _rows_of_layer(name, parts, known, owners, is_array=is_array)
    ]
    return _grouped(layers, owners, stacked=stacked)


# What NNX keeps beside the layer under a norm, by the path of the weight in that layer.
_BESIDE = re.compile(r"(?P<above>.*?)(?P<kept>scales|batch_stats)/(?P<keys>\(.*\))")
_PART = MappingProxyType({"u": SPECTRAL_U, "sigma": SPECTRAL_SIGMA, "scale": NORM_SCALE})


def _join_norms(
    owned: dict[str, dict[str, FlaxLeaf]], arrays: dict[str, dict[str, FlaxLeaf]]
) -> None:
    """Puts what `WeightNorm` and `SpectralNorm` keep to the layers that they are of.

    NNX has it beside the layer; Linen under the path of the layer's weight, which stands below the
    name of the norm.
    """
    for path in list(arrays):
        if found := _BESIDE.fullmatch(path):
            keys = ast.literal_eval(found["keys"])
            *layer, weight, local = (*keys, "scale") if found["kept"] == "scales" else keys
            owner = "/".join([f"{found['above']}layer_instance", *layer])
            _join(owned, [owner], weight, local, arrays, path)
    for path in list(arrays):
        owner, _, local = without_collection(path).rpartition("/")
        _join_below(owned, owner, local, arrays, path)
    for name in [name for name, parts in owned.items() if parts.keys() == {"scale"}]:
        _join_below(owned, name, "scale", owned, name)


def _join_below(
    owned: dict[str, dict[str, FlaxLeaf]],
    name: str,
    local: str,
    among: dict[str, dict[str, FlaxLeaf]],
    key: str,
) -> None:
    """Puts what Linen keeps under `name`, the path of a weight below a norm, to its layer."""
    *parts, weight = name.split("/")
    without_norm = ["/".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    _join(owned, ["/".join(parts), *without_norm], weight, local, among, key)


def _join(
    owned: dict[str, dict[str, FlaxLeaf]],
    owners: Sequence[str],
    weight: str,
    local: str,
    among: dict[str, dict[str, FlaxLeaf]],
    key: str,
) -> None:
    """Moves a leaf to the first of these layers that is one and has such a weight."""
    is_weight = weight in ("kernel", "embedding")
    layers = [owner for owner in owners if is_weight and weight in owned.get(owner, {})]
    if layers and local in _PART:
        (leaf,) = among.pop(key).values()
        owned[layers[0]][_PART[local]] = leaf


def _rows_of_layer(
    name: str,
    parts: Mapping[str, FlaxLeaf],
    weights: frozenset[Shape],
    packed: Collection[str],
    *,
    is_array: bool,
) -> list[FlaxLayer]:
    is_part = name.rpartition("/")[0] in packed
    stacked = _stacked_axes(parts, weights, is_part=is_part)
    words = read(without_collection(name))
    first = next(iter(parts.values()))
    kind = "array" if is_array else first.kind
    return [
        FlaxLayer(
            name + (str(list(row)) if row else ""),
            words.at(*row),
            kind,
            {local: Place(leaf.path, row, leaf.shape[len(row) :]) for local, leaf in parts.items()},
        )
        for row in itertools.product(*map(range, first.shape[:stacked]))
    ]


def _stacked_axes(
    parts: Mapping[str, FlaxLeaf], weights: frozenset[Shape], *, is_part: bool
) -> int:
    """Number of leading axes that index equal layers."""
    name, leaf = next(iter(parts.items()))
    if leaf.rank is not None:
        return len(leaf.shape) - leaf.rank
    # A tree has no types: a kernel of three axes is a stack of matrices, heads, or a convolution.
    if "kernel" in parts:
        bias = parts["bias"].shape if "bias" in parts else None
        return int(_is_stack(parts["kernel"].shape, bias, weights, is_part=is_part))
    rank = {"scale": 1, "bias": 1, "mean": 1, "var": 1, "embedding": 2}.get(name)
    return 0 if rank is None else max(len(leaf.shape) - rank, 0)


def _is_stack(
    kernel: Shape, bias: Shape | None, weights: frozenset[Shape], *, is_part: bool
) -> bool:
    """True if a kernel of a tree without types stacks matrices along its first axis.

    The bias says so, and where it does not, the shapes that PyTorch has for the kernel to be.
    """
    if len(kernel) < 3:
        return False
    if bias is not None:
        # A bias has the output axes of its kernel, and in a stack the axis of the rows before them.
        as_whole = bias == kernel[len(kernel) - len(bias) :]
        as_rows = len(bias) > 1 and bias == (kernel[0], *kernel[len(kernel) - len(bias) + 1 :])
        if as_whole != as_rows:
            return as_rows
    # A convolution's axes are those of its weight in another order; heads multiply to a matrix.
    sizes = sorted(kernel)
    return not any(
        sorted(weight) == sizes
        or (len(weight) == 2 and fits_matrix(weight, kernel))
        or (is_part and _is_share(weight, kernel))
        for weight in weights
    )


def _is_share(weight: Shape, kernel: Shape) -> bool:
    """True if a kernel may be some of the outputs of a weight that holds several layers."""
    return any(
        len(weight) == 2 and kernel[0] == inputs and math.prod(kernel[1:]) < outputs
        for outputs, inputs in (weight, weight[::-1])
    )


def _grouped(
    layers: Sequence[FlaxLayer], owners: Mapping[str, tuple[str, ...]], *, stacked: bool
) -> list[FlaxLayer]:
    """The layers, with those of a recurrent cell, and of a packed projection, as one.

    Query, key and value are one layer only where PyTorch packs them: apart, each is matched alone.
    """
    siblings: dict[tuple[str, tuple[int, ...]], dict[str, FlaxLayer]] = {}
    for layer in layers:
        path = layer.name.partition("[")[0]
        owner, _, child = path.rpartition("/")
        row = next(iter(layer.places.values())).row
        # Flax writes `if_` and `in_` for the gates whose names are keywords of Python.
        siblings.setdefault((owner, row), {})[child.removesuffix("_")] = layer
    found: list[FlaxLayer] = []
    for (owner, row), children in siblings.items():
        rest = dict(children)
        name = owner + (str(list(row)) if row else "")
        words = read(owner).at(*row)
        if parts := owners.get(without_collection(owner)):
            names = [_named(part, rest, name) for part in parts]
            found.append(FlaxLayer(name, words, "packed", _places(names, rest)))
            rest = {n: layer for n, layer in rest.items() if n not in names}
        for names in [*CELLS, *([frozenset(QKV)] if stacked else [])]:
            if names <= rest.keys() and all(rest[n].kind != "array" for n in names):
                kind = "attention" if names == frozenset(QKV) else "cell"
                found.append(FlaxLayer(name, words, kind, _places(sorted(names), rest)))
                rest = {n: layer for n, layer in rest.items() if n not in names}
        found += rest.values()
    return found


def _named(part: str, layers: Mapping[str, FlaxLayer], owner: str) -> str:
    """The layer that a pair calls so, or by a word for the same, such as `q` for `query`."""
    words = read(part).words
    found = [part] if part in layers else [name for name in layers if read(name).words == words]
    if len(found) != 1:
        raise ValueError(
            f"Each part of a packed tensor must be a layer. {part!r} is {len(found)} of those of "
            f"{owner or 'the model'}: {', '.join(layers)}."
        )
    return found[0]


def _places(names: Sequence[str], layers: Mapping[str, FlaxLayer]) -> dict[str, Place]:
    """The places of several layers, in this order of the layers."""
    return {
        f"{name}/{local}": place for name in names for local, place in layers[name].places.items()
    }
