"""A plan from two sets of names and shapes."""

import dataclasses
import itertools
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import TypeAlias

from jaxmup._check import listed
from jaxmup._tree import PathName
from jaxmup.bridge import _hints, _pairs
from jaxmup.bridge._flax_layers import flax_layers
from jaxmup.bridge._joints import Joint, apart
from jaxmup.bridge._layouts import DROPPED, INPUT_FIRST, LINEAR, Layout, tied
from jaxmup.bridge._match import Fits, match
from jaxmup.bridge._options import Option, options
from jaxmup.bridge._pairs import Pairs, Settled
from jaxmup.bridge._plan import Entry, Plan, Source
from jaxmup.bridge._spectral import SigmaEntry
from jaxmup.bridge._units import (
    NORM_SCALE,
    FlaxLayer,
    FlaxLeaf,
    TorchLayer,
    is_conv1d,
    is_stacked,
    namesakes,
    norm_parts,
    torch_layers,
    without_collection,
)

Copies: TypeAlias = Mapping[int, int]
"""The module that each copy is tied to, both as indices."""


def make_plan(
    sources: Sequence[Source],
    leaves: Sequence[FlaxLeaf],
    pairs: Pairs | None = None,
    ties: Sequence[tuple[str, ...]] = (),
    multipliers: Mapping[str, float] | None = None,
) -> Plan:
    """The leaf of every tensor, with the transform between them.

    Args:
      sources: Tensors of PyTorch.
      leaves: Leaves of Flax.
      pairs: The user's word on names that don't speak for themselves.
      ties: Names of tensors that share their memory.
      multipliers: Multipliers of PyTorch's layers, by the name of the tensor; 1.0 for those left
        out.

    Raises:
      ValueError: naming tensors and leaves without a partner, those that nothing tells apart, and
        pairs that are about nothing.
    """
    parsed = _pairs.parse(pairs)
    kept = _pairs.kept(pairs, [leaf.path for leaf in leaves])
    shapes = {leaf.path: leaf.shape for leaf in leaves}
    leaves = [leaf for leaf in leaves if leaf.path not in kept]
    paths = {without_collection(leaf.path) for leaf in leaves}
    alone = namesakes(sources, leaves)
    alone |= _pairs.standing_alone(parsed, [source.name for source in sources], paths)
    torch = torch_layers(sources, alone)
    weights = [source.shape for source in sources if len(source.shape) > 1]
    owners = _pairs.packed_owners(parsed, torch)
    stacked = any(map(is_stacked, torch))
    flax = flax_layers(leaves, weights, owners, set(alone.values()), stacked=stacked)
    flax = _with_joints_apart(flax, _pairs.joint_layers(parsed, torch))
    settled = _pairs.apply(parsed, torch, flax)
    fits = _fits(torch, flax, settled)
    by_pairs = _copies_by_pairs(settled, fits)
    by_memory = by_pairs | _copies_by_memory(torch, fits, ties)
    try:
        entries = list(_entries(torch, flax, settled, fits, by_memory))
    except ValueError:
        if by_memory == by_pairs:
            raise
        # Memory alone is no proof that Flax ties the two as well: it may have a leaf for each copy,
        # which the first attempt left over.
        entries = list(_entries(torch, flax, settled, fits, by_pairs))
    _require_norms_whole(torch, settled)
    entries += [
        Entry((source,), (), DROPPED)
        for u in sorted(settled.dropped)
        for source in torch[u].tensors.values()
    ]
    own, multipliers = _multipliers(torch, flax, leaves, multipliers or {})
    said = {torch[u].name for u in settled.storages}
    return Plan(
        tuple(_with_factor(entry, own, multipliers) for entry in entries),
        shapes,
        tuple(path for path in shapes if path in kept),
        (*_hints.flattened(torch, entries, said), *_hints.contradicted(entries)),
        tied=tuple(ties),
    )


def _with_joints_apart(
    flax: Sequence[FlaxLayer], joints: Mapping[PathName, tuple[Joint, Mapping[str, int]]]
) -> list[FlaxLayer]:
    """The layers, with one for each module where pairs say that one holds several.

    Raises:
      ValueError: naming the path of a pair that is no layer with a kernel.
    """
    held = {v: without_collection(layer.name.partition("[")[0]) for v, layer in enumerate(flax)}
    kernels = {held[v] for v, layer in enumerate(flax) if "kernel" in layer.places}
    if wrong := [path for path in joints if path not in kernels]:
        raise ValueError(
            f"Several modules must lead to one layer with a kernel. {', '.join(wrong)} is none. "
            f"The layers are{listed(layer.name for layer in flax)}"
        )
    return [
        part
        for v, layer in enumerate(flax)
        for part in (apart(layer, *joints[held[v]]) if held[v] in joints else [layer])
    ]


def _fits(torch: Sequence[TorchLayer], flax: Sequence[FlaxLayer], settled: Settled) -> Fits:
    """The layers that each module could be.

    Modules of one kind and equal shapes fit the same layers, and a deep model has many of them: so
    each kind is looked at once, or the time would grow with the square of the depth.
    """
    alike: dict[Hashable, list[int]] = {}
    for v, layer in enumerate(flax):
        shapes = tuple((local, place.shape) for local, place in layer.places.items())
        alike.setdefault((layer.kind, shapes), []).append(v)
    found: dict[Hashable, frozenset[int]] = {}
    fits: dict[int, frozenset[int]] = {}
    for u, module in enumerate(torch):
        shapes = tuple((local, source.shape) for local, source in module.tensors.items())
        # All that `options` and `among` look at; of the name that is only if it says "stacked".
        stacked = is_stacked(module), is_conv1d(module)
        key = (module.kind, stacked, shapes, settled.storages.get(u))
        if key not in found:
            fitting = (
                vs for vs in alike.values() if settled.among(u, options(module, flax[vs[0]]))
            )
            found[key] = frozenset(itertools.chain.from_iterable(fitting))
        if u not in settled.dropped:
            fits[u] = found[key] & settled.allowed(u)
    return fits


def _require_norms_whole(torch: Sequence[TorchLayer], settled: Settled) -> None:
    """Raises a `ValueError` if a weight under a norm is converted and what norms it is left out."""
    names = {source.name: u for u, module in enumerate(torch) for source in module.tensors.values()}
    left_out: dict[str, set[str]] = {}
    for name, (owner, part) in norm_parts(names).items():
        if names[name] in settled.dropped:
            left_out.setdefault(owner, set()).add(part)
    alone = [owner for owner, parts in left_out.items() if "weight" not in parts]
    if alone:
        raise ValueError(
            "A weight under weight norm is g · v / ‖v‖, and v without g is another weight; under "
            "spectral norm it is W / σ, and W without σ is another. Pairs leave a part out of"
            f"{listed(alone)}\n"
            "Convert to a `WeightNorm` or a `SpectralNorm` of Flax, or take the norm off in "
            "PyTorch with `torch.nn.utils.parametrize.remove_parametrizations`."
        )


def _copies_by_pairs(settled: Settled, fits: Fits) -> dict[int, int]:
    """Modules that the pairs lead to a layer that is already another's, with that other."""
    first: dict[int, int] = {}
    copies: dict[int, int] = {}
    for u, vs in settled.forced.items():
        fitting = [v for v in vs if v in fits[u]]
        if len(vs) == len(fitting) == 1:
            other = first.setdefault(fitting[0], u)
            if other != u:
                copies[u] = other
    return copies


def _copies_by_memory(
    torch: Sequence[TorchLayer], fits: Fits, ties: Sequence[tuple[str, ...]]
) -> dict[int, int]:
    """Modules with one tensor, whose memory is that of another module, with that other."""
    alone = {
        next(iter(module.tensors.values())).name: u
        for u, module in enumerate(torch)
        if u in fits and len(module.tensors) == 1
    }
    copies: dict[int, int] = {}
    for names in ties:
        tied_modules = [alone[name] for name in names if name in alone]
        copies |= dict.fromkeys(tied_modules[1:], tied_modules[0]) if tied_modules else {}
    return copies


def _entries(
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    settled: Settled,
    fits: Fits,
    copies: Copies,
) -> Iterator[Entry]:
    # A copy is matched by none: it comes to the layer with the tensor that it is a copy of.
    kept = [u for u in fits if u not in copies]
    layer_of = match([torch[u] for u in kept], flax, {i: fits[u] for i, u in enumerate(kept)})
    ways = {
        kept[i]: settled.among(kept[i], options(torch[kept[i]], flax[v]))
        for i, v in layer_of.items()
    }
    chosen = _chosen(torch, ways)
    for u in sorted(chosen):
        copied = [torch[c].tensors for c, primary in copies.items() if primary == u]
        for entry in chosen[u]:
            yield _with_copies(entry, copied) if copied else entry


def _with_copies(entry: Entry, copied: Sequence[Mapping[str, Source]]) -> Entry:
    more = tuple(source for tensors in copied for source in tensors.values())
    return dataclasses.replace(entry, sources=entry.sources + more, layout=tied(entry.layout))


def _chosen(
    torch: Sequence[TorchLayer], found: Mapping[int, Sequence[Option]]
) -> dict[int, Option]:
    """One way for each module, where shapes leave several.

    Raises:
      ValueError: naming the modules of which nothing says how they are stored.
    """
    chosen = {u: ways[0] for u, ways in found.items() if len(ways) == 1}
    known = [(_local_name(torch[u]), option[0].layout) for u, option in chosen.items()]
    unclear: list[str] = []
    for u, ways in found.items():
        if u in chosen:
            continue
        by_layout = {option[0].layout: option for option in ways}
        name = _local_name(torch[u])
        # A parameter of one's own is no Linear: only its code says which axis is that of inputs.
        is_layers = torch[u].kind != "array" or name == "weight"
        layout = _evident(by_layout.keys(), name, known) if is_layers else None
        if layout is None:
            unclear.append(f"{torch[u]}: {' or '.join(layout.name for layout in by_layout)}")
        else:
            chosen[u] = by_layout[layout]
    if unclear:
        raise ValueError(
            f"Shapes must tell how these are stored, and don't:{listed(unclear)}\n"
            'Say it with a pair such as {"**.conv*": ("", "conv")}, of "linear", "conv1d", "conv" '
            'and "conv_transpose".'
        )
    return chosen


def _evident(
    options: Collection[Layout], name: str, known: Sequence[tuple[str, Layout]]
) -> Layout | None:
    """The layout of a square matrix, by those of matrices that are not square; `None` if unclear.

    Code that stores one matrix as (inputs, outputs) stores all of a kind so, as GPT-2 does: modules
    of its own name are the evidence if there are any. Else it is a `torch.nn.Linear` if all others
    are, or there are none; that others are transposed may be their own mistake.

    Args:
      options: Layouts that its shape leaves.
      name: Local name of its module.
      known: Local names and layouts of the other modules.
    """
    if set(options) != {LINEAR, INPUT_FIRST}:
        return None
    matrices = [(other, layout) for other, layout in known if layout in (LINEAR, INPUT_FIRST)]
    evidence = {layout for other, layout in matrices if other == name}
    evidence = evidence or ({layout for _, layout in matrices} | {LINEAR})
    return evidence.pop() if len(evidence) == 1 else None


def _local_name(module: TorchLayer) -> str:
    return module.name.rpartition(".")[2]


def _multipliers(
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    leaves: Sequence[FlaxLeaf],
    given: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """The multipliers of the leaves and of the tensors, each where it changes the effective weight.

    A direction under weight norm can be scaled in vain, so that its multiplier is the scale's.
    """
    held = {leaf.path: leaf.multiplier for leaf in leaves}
    of_leaf, of_tensor = dict(held), dict(given)
    for layer in flax:
        if NORM_SCALE in layer.places and "kernel" in layer.places:
            kernel, scale = layer.places["kernel"].path, layer.places[NORM_SCALE].path
            of_leaf |= {scale: held[kernel], kernel: 1.0}
    for module in torch:
        if NORM_SCALE in module.tensors:
            direction, scale = module.tensors["weight"].name, module.tensors[NORM_SCALE].name
            product = given.get(scale, 1.0) * given.get(direction, 1.0)
            of_tensor |= {scale: product, direction: 1.0}
    return of_leaf, of_tensor


def _with_factor(entry: Entry, flax: Mapping[str, float], torch: Mapping[str, float]) -> Entry:
    """The entry with the factor that keeps the effective weight: of PyTorch over that of Flax."""
    if isinstance(entry, SigmaEntry):
        if _with_factor(entry.weight, flax, torch).factor != 1.0:
            raise ValueError(
                "A weight under spectral norm has the norm 1 whatever is stored, so that no "
                f"multiplier can be put into it. {entry.weight.sources[0].name} and "
                f"{entry.weight.targets[0]} have different ones. Convert to the gauge table3, in "
                "which there are none."
            )
        return entry
    factors = {
        torch.get(source.name, 1.0) / flax[place.path]
        for source in entry.sources
        for place in entry.targets
    }
    # Query, key and value of one tensor are scaled as one, and so are tied tensors.
    if len(factors) > 1:
        names = ", ".join(source.name for source in entry.sources)
        raise ValueError(
            f"Tensors that are converted together must have one multiplier. {names} and "
            f"{', '.join(map(str, entry.targets))} have the ratios {sorted(factors)}. Convert to "
            "the gauge table3, in which there are no multipliers, or without packed tensors."
        )
    return dataclasses.replace(entry, factor=factors.pop()) if factors else entry
