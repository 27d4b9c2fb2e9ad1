"""Which module of PyTorch is which layer of Flax: by shape, by elimination, by name, by number.

Nothing is guessed. Modules and layers that could stand for each other by their shapes make a group;
within it, equal names but for their numbers make a family, whose order the numbers give. Families
pair up if nothing else fits, or if the same words tell each from the others of its side; that two
names share words is not enough, since a norm before attention and one after it do. What is left
open then is an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxmup._tree import listed
from jaxmup.bridge._units import FlaxLayer, TorchLayer
from jaxmup.bridge._words import Words


class Family(NamedTuple):
    """Layers whose names differ in numbers only, in the order of the numbers."""

    words: frozenset[str]
    members: tuple[int, ...]
    numbers: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]


def match(
    torch: Sequence[TorchLayer], flax: Sequence[FlaxLayer], fits: Mapping[int, frozenset[int]]
) -> dict[int, int]:
    """Pairs every module with a layer.

    Args:
      torch: the modules.
      flax: the layers.
      fits: which layers each module could be, as indices.

    Raises:
      ValueError: naming what is left over on either side, or what cannot be told apart.
    """
    groups = list(_groups(len(torch), len(flax), fits))
    if uneven := [(us, vs) for us, vs in groups if len(us) != len(vs)]:
        raise ValueError(_left_over(torch, flax, uneven))
    pairs: dict[int, int] = {}
    for us, vs in groups:
        pairs |= _solve(us, vs, torch, flax, fits)
    return pairs


def _groups(
    torch: int, flax: int, fits: Mapping[int, frozenset[int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """The connected parts of the graph of what fits what."""
    fitting: dict[int, set[int]] = {v: set() for v in range(flax)}
    for u, vs in fits.items():
        for v in vs:
            fitting[v].add(u)
    seen: set[tuple[bool, int]] = set()
    for start in [*((True, u) for u in range(torch)), *((False, v) for v in range(flax))]:
        part, edge = set(), {start} - seen
        while edge:
            seen |= edge
            part |= edge
            edge = {
                (not is_torch, other)
                for is_torch, i in edge
                for other in (fits.get(i, frozenset()) if is_torch else fitting[i])
            } - seen
        if part:
            yield sorted(i for t, i in part if t), sorted(i for t, i in part if not t)


def _solve(
    us: list[int],
    vs: list[int],
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    fits: Mapping[int, frozenset[int]],
) -> dict[int, int]:
    left, right = _families(us, torch), _families(vs, flax)
    pairs: dict[int, int] = {}
    while left:
        open_pairs = [(a, b) for a in left for b in right if _can_pair(a, b, fits)]
        found = _forced(left, right, open_pairs) or _by_words(left, right, open_pairs)
        if found is None:
            raise ValueError(_ambiguous(torch, flax, left, right))
        a, b = found
        pairs |= zip(a.members, b.members, strict=True)
        left.remove(a)
        right.remove(b)
    return pairs


def _families(members: list[int], layers: Sequence[TorchLayer | FlaxLayer]) -> list[Family]:
    by_template: dict[tuple[str, int], list[int]] = {}
    for i in members:
        words: Words = layers[i].words
        by_template.setdefault((words.template, len(words.numbers)), []).append(i)
    found: list[Family] = []
    for indices in by_template.values():
        indices = sorted(indices, key=lambda i: layers[i].words.numbers)
        first = layers[indices[0]].words
        numbers = tuple(layers[i].words.numbers for i in indices)
        found.append(Family(first.words, tuple(indices), numbers, first.labels))
    return found


def _can_pair(a: Family, b: Family, fits: Mapping[int, frozenset[int]]) -> bool:
    return (
        len(a.members) == len(b.members)
        and _same_order(a, b)
        and all(v in fits[u] for u, v in zip(a.members, b.members, strict=True))
    )


def _same_order(a: Family, b: Family) -> bool:
    """Whether the numbers of both give the members one order.

    A list has one order. Lists in lists do if they are as many, as long, and nested the same way.
    """
    (ranks_a, labels_a), (ranks_b, labels_b) = _ranks(a), _ranks(b)
    if len(labels_a) < 2 or len(labels_b) < 2:
        return True
    crossed = labels_a != labels_b and sorted(labels_a) == sorted(labels_b)
    return ranks_a == ranks_b and not crossed


def _ranks(family: Family) -> tuple[list[tuple[int, ...]], list[str]]:
    """The place of each member in each list, and the words before the numbers that vary."""
    columns = [
        (label, column)
        for label, column in zip(family.labels, zip(*family.numbers, strict=True), strict=True)
        if len(set(column)) > 1
    ]
    ranked = []
    for _, column in columns:
        order = sorted(set(column))
        ranked.append([order.index(number) for number in column])
    return list(zip(*ranked, strict=True)), [label for label, _ in columns]


def _forced(
    left: list[Family], right: list[Family], pairs: Sequence[tuple[Family, Family]]
) -> tuple[Family, Family] | None:
    """A pair of which one can be nothing else."""
    for side, families in enumerate((left, right)):
        for family in families:
            of_family = [pair for pair in pairs if pair[side] is family]
            if len(of_family) == 1:
                return of_family[0]
    return None


def _by_words(
    left: list[Family], right: list[Family], pairs: Sequence[tuple[Family, Family]]
) -> tuple[Family, Family] | None:
    """A pair whose names differ from those of the others by the same words, and the only one."""
    common_left, common_right = (
        frozenset.intersection(*(family.words for family in side)) for side in (left, right)
    )
    equal = [
        (a, b)
        for a, b in pairs
        if a.words - common_left == b.words - common_right
        and (a.words - common_left or a.words == b.words)
    ]
    for a, b in equal:
        if sum(c is a or d is b for c, d in equal) == 1:
            return a, b
    return None


_REMEDY = (
    "Pass `pairs` of names of PyTorch and paths of Flax, such as "
    '{"h.*.ln_1": "blocks/*/attention_norm"}; None in place of a path leaves a tensor out.'
)


def _left_over(
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    groups: Sequence[tuple[list[int], list[int]]],
) -> str:
    alone_t = [torch[u] for us, vs in groups if not vs for u in us]
    alone_f = [flax[v] for us, vs in groups if not us for v in vs]
    parts = ["Every tensor must have its leaf and every leaf its tensor."]
    if alone_t:
        parts.append(f"Of PyTorch these fit no leaf:{listed(map(str, alone_t))}")
    if alone_f:
        parts.append(f"Of Flax these fit no tensor:{listed(map(str, alone_f))}")
    for us, vs in groups:
        if us and vs:
            parts.append(
                f"These are {len(us)} of PyTorch:{listed(str(torch[u]) for u in us)}\n"
                f"for {len(vs)} of Flax:{listed(str(flax[v]) for v in vs)}"
            )
    if any(us and vs and len(us) > len(vs) for us, vs in groups):
        parts.append("If they are tied, lead each of them to the one layer by a pair.")
    return "\n".join([*parts, _REMEDY])


def _ambiguous(
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    left: Sequence[Family],
    right: Sequence[Family],
) -> str:
    modules = listed(str(torch[u]) for family in left for u in family.members)
    layers = listed(str(flax[v]) for family in right for v in family.members)
    return (
        "Names or numbers must say which of equal shapes is which. They don't for these of "
        f"PyTorch:{modules}\nand these of Flax:{layers}\n{_REMEDY}"
    )
