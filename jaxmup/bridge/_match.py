"""Modules of PyTorch paired with layers of Flax: by shape, elimination, name and number.

Nothing is guessed. Modules and layers that could stand for each other by their shapes make a
component; within it, equal names but for their numbers make a series, whose order the numbers give.
Series pair up if nothing else fits, or if the same words tell each from the others of its side;
that two names share words is not enough, since a norm before attention and one after it do. What is
left open then is an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from jaxmup._check import listed
from jaxmup.bridge import _hints
from jaxmup.bridge._units import FlaxLayer, TorchLayer, without_collection

Fits: TypeAlias = Mapping[int, frozenset[int]]
"""The layers that each module could be by its shapes, both as indices."""
Component: TypeAlias = tuple[list[int], list[int]]
"""Modules and layers that fit one another, both as indices."""


class Series(NamedTuple):
    """Layers of one side whose names differ in numbers only, in the order of the numbers.

    Args:
      words: Words of the names.
      members: Indices of the layers.
      numbers: Numbers in the name of each layer.
      labels: Word before each number.
    """

    words: frozenset[str]
    members: tuple[int, ...]
    numbers: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]


SeriesPair: TypeAlias = tuple[Series, Series]
"""A series of modules, and one of layers."""


def match(torch: Sequence[TorchLayer], flax: Sequence[FlaxLayer], fits: Fits) -> dict[int, int]:
    """The layer of every module, both as indices.

    Args:
      torch: Modules of PyTorch.
      flax: Layers of Flax.
      fits: Layers that each module could be.

    Raises:
      ValueError: naming what is left over on either side, or what cannot be told apart.
    """
    components = list(_components(len(torch), len(flax), fits))
    # All are looked at before any is solved, so that one error lists everything that is left over.
    if uneven := [(us, vs) for us, vs in components if len(us) != len(vs)]:
        raise ValueError(_left_over(torch, flax, uneven))
    layer_of: dict[int, int] = {}
    for us, vs in components:
        layer_of |= _solved(us, vs, torch, flax, fits)
    return layer_of


def _components(torch: int, flax: int, fits: Fits) -> Iterator[Component]:
    """The connected parts of the graph of what fits what.

    An equal number on both sides of a part is necessary for a one-to-one match, and parts do not
    touch each other: what a name means is asked only among those that its shape leaves.
    """
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


def _solved(
    us: list[int],
    vs: list[int],
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    fits: Fits,
) -> dict[int, int]:
    """The layer of each module of a component.

    Raises:
      ValueError: naming the series that nothing tells apart.
    """
    left, right = _series(us, torch), _series(vs, flax)
    layer_of: dict[int, int] = {}
    while left:
        # A pair that is found takes options from the others, and words that the rest then has in
        # common say nothing more: so both are looked at anew each time. Elimination goes first,
        # since it needs no names.
        candidates = [(a, b) for a in left for b in right if _can_pair(a, b, fits)]
        found = _forced(left, right, candidates) or _by_words(left, right, candidates)
        if found is None:
            raise ValueError(_ambiguous(torch, flax, left, right))
        a, b = found
        layer_of |= zip(a.members, b.members, strict=True)
        left.remove(a)
        right.remove(b)
    return layer_of


def _series(members: list[int], layers: Sequence[TorchLayer | FlaxLayer]) -> list[Series]:
    """Layers of one side as series, by the spelling of their names without numbers."""
    by_template: dict[tuple[str, int], list[int]] = {}
    for i in members:
        words = layers[i].words
        # Of Dense_0 and Dense_1 one may be a stack, whose rows have one number more.
        by_template.setdefault((words.template, len(words.numbers)), []).append(i)
    found: list[Series] = []
    for indices in by_template.values():
        indices = sorted(indices, key=lambda i: layers[i].words.numbers)
        first = layers[indices[0]].words
        numbers = tuple(layers[i].words.numbers for i in indices)
        found.append(Series(first.words, tuple(indices), numbers, first.labels))
    return found


def _can_pair(a: Series, b: Series, fits: Fits) -> bool:
    return (
        len(a.members) == len(b.members)
        and _same_order(a, b)
        and all(v in fits[u] for u, v in zip(a.members, b.members, strict=True))
    )


def _same_order(a: Series, b: Series) -> bool:
    """True if the numbers of both give the members one order.

    A list has one order. Lists in lists do if they are as many, as long, and nested the same way.
    """
    (ranks_a, labels_a), (ranks_b, labels_b) = _ranks(a), _ranks(b)
    if len(labels_a) < 2 or len(labels_b) < 2:
        return True
    # Four blocks of four convolutions are as long either way: only the words before the numbers
    # say that one side counts blocks first and the other convolutions.
    crossed = labels_a != labels_b and sorted(labels_a) == sorted(labels_b)
    return ranks_a == ranks_b and not crossed


def _ranks(series: Series) -> tuple[list[tuple[int, ...]], list[str]]:
    """The place of each member in each list, and the words before the numbers that vary.

    Places and not numbers are compared: PyTorch's `Sequential` counts activations too, so that its
    linear layers may be 0, 2 and 4 where Flax's are 0, 1 and 2.
    """
    columns = [
        (label, column)
        for label, column in zip(series.labels, zip(*series.numbers, strict=True), strict=True)
        if len(set(column)) > 1
    ]
    ranked = []
    for _, column in columns:
        order = sorted(set(column))
        ranked.append([order.index(number) for number in column])
    return list(zip(*ranked, strict=True)), [label for label, _ in columns]


def _forced(
    left: list[Series], right: list[Series], candidates: Sequence[SeriesPair]
) -> SeriesPair | None:
    """A pair of which one can be nothing else."""
    for side, all_series in enumerate((left, right)):
        for series in all_series:
            own = [pair for pair in candidates if pair[side] is series]
            if len(own) == 1:
                return own[0]
    return None


def _by_words(
    left: list[Series], right: list[Series], candidates: Sequence[SeriesPair]
) -> SeriesPair | None:
    """A pair whose names differ from those of the others by the same words, and the only one.

    Words that all names of a side share, such as "attention" of query, key and value, tell nothing
    apart and are left out; frameworks differ in them. A name of which nothing remains then must be
    equal as a whole: nothing would be equal to nothing by accident.
    """
    common_left, common_right = (
        frozenset.intersection(*(series.words for series in side)) for side in (left, right)
    )
    equal = [
        (a, b)
        for a, b in candidates
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
    torch: Sequence[TorchLayer], flax: Sequence[FlaxLayer], components: Sequence[Component]
) -> str:
    alone_t = [torch[u] for us, vs in components if not vs for u in us]
    alone_f = [flax[v] for us, vs in components if not us for v in vs]
    parts = ["Every tensor must have its leaf and every leaf its tensor."]
    if alone_t:
        parts.append(f"Of PyTorch these fit no leaf:{listed(map(str, alone_t))}")
    if alone_f:
        path = without_collection(next(iter(alone_f[0].places.values())).path)
        parts.append(
            f"Of Flax these fit no tensor:{listed(map(str, alone_f))}\nUnder an empty name a leaf "
            f'keeps the values of the model: {{"": "{path}"}}.'
        )
    for us, vs in components:
        if us and vs:
            parts.append(
                f"These are {len(us)} of PyTorch:{listed(str(torch[u]) for u in us)}\n"
                f"for {len(vs)} of Flax:{listed(str(flax[v]) for v in vs)}"
            )
    if any(us and vs and len(us) > len(vs) for us, vs in components):
        parts.append("If they are tied, lead each of them to the one layer by a pair.")
    if any(us and vs and len(us) < len(vs) for us, vs in components):
        parts.append(
            "If one tensor is for several layers, give it a second name by a pair: "
            '{"lm_head.weight": ("readout", "as wte.weight")}.'
        )
    parts += _hints.packed(
        [torch[u] for us, _ in components for u in us],
        [flax[v] for _, vs in components for v in vs],
    )
    return "\n".join([*parts, _REMEDY])


def _ambiguous(
    torch: Sequence[TorchLayer],
    flax: Sequence[FlaxLayer],
    left: Sequence[Series],
    right: Sequence[Series],
) -> str:
    modules = listed(str(torch[u]) for series in left for u in series.members)
    layers = listed(str(flax[v]) for series in right for v in series.members)
    return (
        "Names or numbers must say which of equal shapes is which. They don't for these of "
        f"PyTorch:{modules}\nand these of Flax:{layers}\n{_REMEDY}"
    )
