"""Both sides as layers: tensors and leaves that stand together under one name."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from jaxmup.bridge._layouts import Shape, shown
from jaxmup.bridge._plan import Place, Source
from jaxmup.bridge._words import Words, read

LayerKind: TypeAlias = Literal[
    "linear", "conv", "conv_transpose", "conv_gradient", "einsum", "other"
]


class FlaxLeaf(NamedTuple):
    """A leaf of a Flax model.

    Args:
      path: Path in the tree, such as `"params/Dense_0/kernel"`.
      shape: Shape, the axes of stacked layers included.
      dtype: Dtype that the model has for it.
      kind: Kind of the layer that owns it; `None` if nothing says so.
      rank: Number of axes without those of stacked layers; `None` if nothing says so.
      multiplier: Multiplier of the layer's forward pass; dimensionless.
    """

    path: str
    shape: Shape
    dtype: np.dtype
    kind: LayerKind | None = None
    rank: int | None = None
    multiplier: float = 1.0


class TorchLayer(NamedTuple):
    """Tensors of one module of PyTorch, or of one direction of one layer of an RNN.

    Args:
      name: Name of the module.
      words: Words of the name.
      kind: `"layer"` for a weight or a bias or both, `"in_proj"` for query, key and value packed in
        one, `"cell"` for a recurrent layer, `"array"` for a tensor on its own.
      tensors: Tensors by their local name.
    """

    name: str
    words: Words
    kind: Literal["layer", "in_proj", "cell", "array"]
    tensors: Mapping[str, Source]

    def __str__(self) -> str:
        return ", ".join(f"{s.name} {shown(s.shape)}" for s in self.tensors.values())


class FlaxLayer(NamedTuple):
    """Leaves of one layer of Flax, or of a row of a stack of layers, or of a group.

    Args:
      name: Name of the layer.
      words: Words of the name.
      kind: Kind of the layer; `"attention"` for the group of query, key and value, `"packed"` for
        one that a pair makes, `"cell"` for that of a recurrent cell, `"array"` for a leaf on its
        own; `None` if nothing says it.
      places: Places by their local name; in a group with that of the layer, such as
        `"query/kernel"`.
    """

    name: str
    words: Words
    kind: LayerKind | Literal["attention", "packed", "cell", "array"] | None
    places: Mapping[str, Place]

    def __str__(self) -> str:
        return ", ".join(f"{p} {shown(p.shape)}" for p in self.places.values())


_TORCH_LOCAL = re.compile(r"weight|bias|running_mean|running_var|num_batches_tracked")
_IN_PROJ = re.compile(r"in_proj_weight|in_proj_bias|[qkv]_proj_weight")
_CELL = re.compile(r"(weight|bias)_(ih|hh)((?:_l\d+)?)((?:_reverse)?)")
NORM_SCALE = "norm_scale"
SPECTRAL_U, SPECTRAL_V, SPECTRAL_SIGMA = "spectral_u", "spectral_v", "spectral_sigma"
_PARAMETRIZED = "parametrizations.weight."
# PyTorch's ways to write a weight that is computed: under weight norm g · v / ‖v‖ for each output,
# under spectral norm W / σ with σ = u · W v. `weight_v` is in both: only together they tell.
_SPELLINGS: tuple[Mapping[str, str], ...] = (
    {"weight_g": NORM_SCALE, "weight_v": "weight"},
    {_PARAMETRIZED + "original0": NORM_SCALE, _PARAMETRIZED + "original1": "weight"},
    {"weight_orig": "weight", "weight_u": SPECTRAL_U, "weight_v": SPECTRAL_V},
    {
        _PARAMETRIZED + "original": "weight",
        _PARAMETRIZED + "0._u": SPECTRAL_U,
        _PARAMETRIZED + "0._v": SPECTRAL_V,
    },
)
_UNSCALED = "_unscaled"  # the abcd layer of torch_ref and of Cellarium
FLAX_LOCAL = ("kernel", "bias", "scale", "embedding", "mean", "var")
COLLECTIONS = ("params", "batch_stats")
# Names that all published code uses for query, key and value one after another. `qkv`, `wqkv` and
# `qkv_proj` are none: each stands for several orders.
STACKED_NAMES = ("Wqkv", "W_pack")
CONV1D_STACKED = "c_attn"  # GPT-2's; as a Linear, in GPT-BigCode, it goes head by head
QKV = ("query", "key", "value")
CELLS = MappingProxyType(
    {
        frozenset({"ii", "if", "ig", "io", "hi", "hf", "hg", "ho"}): "ifgo",
        frozenset({"ir", "iz", "in", "hr", "hz", "hn"}): "rzn",
        frozenset({"dense_i", "dense_h"}): None,
        frozenset({"i", "h"}): None,
    }
)
"""The layers of each recurrent cell of Flax, with PyTorch's order of its gates.

`None` where the gates are one matrix in Flax too, as in `OptimizedLSTMCell`, or there is but one.
"""


def torch_layers(
    sources: Iterable[Source], alone: Collection[str] = frozenset()
) -> list[TorchLayer]:
    """The tensors of a state dict, module by module; those of the names `alone` on their own.

    Example:
      >>> shapes = {"fc.weight": (3, 2), "fc.bias": (3,), "scale": ()}
      >>> layers = torch_layers(Source(n, s, np.dtype("f4")) for n, s in shapes.items())
      >>> [(layer.name, layer.kind, list(layer.tensors)) for layer in layers]
      [('fc', 'layer', ['weight', 'bias']), ('scale', 'array', ['scale'])]
    """
    found: dict[tuple[str, str], dict[str, Source]] = {}
    sources = list(sources)
    normed = norm_parts([source.name for source in sources])
    for source in sources:
        owner, _, local = source.name.rpartition(".")
        plain = local.removesuffix(_UNSCALED)
        if source.name in alone:
            found.setdefault((source.name, "array"), {})[local] = source
        elif source.name in normed:
            name, part = normed[source.name]
            found.setdefault((name, "layer"), {})[part] = source
        elif cell := _CELL.fullmatch(local):
            # A module of PyTorch may hold several layers, each in both directions. In Flax each is
            # a cell of its own, so the parts of the name become parts of a path.
            part, side, layer, direction = cell.groups()
            name = ".".join(filter(None, (owner, layer[1:], direction[1:])))
            found.setdefault((name, "cell"), {})[f"{part}_{side}"] = source
        elif _IN_PROJ.fullmatch(local):
            found.setdefault((owner, "in_proj"), {})[local] = source
        elif _TORCH_LOCAL.fullmatch(plain):
            found.setdefault((owner, "layer"), {})[plain] = source
        else:
            found.setdefault((source.name, "array"), {})[local] = source
    return [
        TorchLayer(name, read(name), kind, tensors)  # type: ignore[arg-type]
        for (name, kind), tensors in found.items()
    ]


def namesakes(sources: Iterable[Source], leaves: Iterable[FlaxLeaf]) -> dict[str, str]:
    """Tensors and leaves of one name and shape, where the name is a layer's on one side alone.

    Such as a parameter of one's own that is called `scale`.
    """
    shapes = {without_collection(leaf.path): leaf.shape for leaf in leaves}
    found: dict[str, str] = {}
    for source in sources:
        path = source.name.replace(".", "/")
        local = path.rpartition("/")[2]
        is_layers = bool(_TORCH_LOCAL.fullmatch(local.removesuffix(_UNSCALED)))
        if shapes.get(path) == source.shape and is_layers != (local in FLAX_LOCAL):
            found[source.name] = path
    return found


def norm_parts(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """The module of each tensor of a weight under weight or spectral norm, and the part that it is.

    Example:
      >>> norm_parts(["fc.weight_g", "fc.weight_v", "out.weight", "out.weight_v"])
      {'fc.weight_g': ('fc', 'norm_scale'), 'fc.weight_v': ('fc', 'weight')}
    """
    held = frozenset(names)
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        for spelling in _SPELLINGS:
            for local, part in spelling.items():
                owner = name.removesuffix(local)
                stands = name != owner and (not owner or owner.endswith("."))
                if stands and all(owner + other in held for other in spelling):
                    found[name] = owner.removesuffix("."), part
    return found


def is_stacked(layer: TorchLayer) -> bool:
    """True if a module of PyTorch surely has query, key and value one after another."""
    name = layer.name.rpartition(".")[2]
    return layer.kind == "in_proj" or name in STACKED_NAMES or is_conv1d(layer)


def is_conv1d(layer: TorchLayer) -> bool:
    """True if a module is GPT-2's query, key and value, whose weight has its inputs first."""
    weight = layer.tensors.get("weight")
    return (
        layer.name.rpartition(".")[2] == CONV1D_STACKED
        and weight is not None
        and len(weight.shape) == 2
        and weight.shape[0] < weight.shape[1]
    )


def without_collection(path: str) -> str:
    """A path without the name of Linen's collection in front."""
    first, _, rest = path.partition("/")
    return rest if first in COLLECTIONS and rest else path


def fits_matrix(weight: Shape, kernel: Shape) -> bool:
    """True if a kernel has the inputs and outputs of a weight (outputs, inputs), each on axes."""
    outputs, inputs = weight
    return any(
        math.prod(kernel[:i]) == inputs and math.prod(kernel[i:]) == outputs
        for i in range(1, len(kernel))
    )
