"""Ten confusions of names or order for each published model: none is a wrong model in silence.

Each is refused, noticed, or harmless; or it cannot be seen, since names, shapes and dtypes, which
are all that a plan knows, are those of the right file. `docs/pytorch.md` names those.
"""

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from jaxmup import bridge

pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

from parity_tests.published_networks import NETWORKS
from parity_tests.published_run import abstract, random, saved
from parity_tests.published_transformers import PUBLISHED
from parity_tests.test_published_networks import counterpart, random_network

State = Mapping[str, np.ndarray]
Outcome = Literal["refused", "noticed", "harmless", "not seen"]


class Right(NamedTuple):
    """A published model as it is converted rightly.

    Args:
      state: Its tensors.
      model: The Flax model without values.
      pairs: The pairs that it needs.
      settings: Its configuration, or its module.
      leaves: What its leaves are.
    """

    state: State
    model: Any
    pairs: Mapping[str, Any]
    settings: Any
    leaves: Mapping[str, np.ndarray]


class Confused(NamedTuple):
    state: State
    pairs: Mapping[str, Any]


@functools.cache
def right(name: str, folder: Path) -> Right:
    if name in NETWORKS:
        module = random_network(NETWORKS[name], "float32")
        state = {n: x.numpy() for n, x in module.state_dict().items()}
        model, pairs, settings = counterpart(NETWORKS[name]), NETWORKS[name].pairs, module
    else:
        case = PUBLISHED[name]
        module = random(case)
        state = bridge.load(saved(module, folder / name))
        model, pairs, settings = abstract(case), case.pairs, module.config
    plan = bridge.plan(state, model, pairs, settings=settings)
    assert plan.notes == ()
    return Right(state, model, dict(pairs or {}), settings, plan.forward(state.__getitem__))


def exchanged(case: Right, rng: np.random.Generator, *, alike: bool) -> Confused | None:
    """Two tensors with each other's names."""
    names = list(case.state)
    for _ in range(200):
        one, other = (names[i] for i in rng.choice(len(names), 2, replace=False))
        if (case.state[one].shape == case.state[other].shape) == alike:
            state = {**case.state, one: case.state[other], other: case.state[one]}
            return Confused(state, case.pairs)
    return None


def dropped(case: Right, rng: np.random.Generator) -> Confused:
    lost = rng.choice(list(case.state))
    return Confused({n: x for n, x in case.state.items() if n != lost}, case.pairs)


def heads_permuted(case: Right, rng: np.random.Generator) -> Confused:
    """The outputs of a weight in another order, as of heads that another code interleaves."""
    name = rng.choice(
        [n for n, x in case.state.items() if x.ndim > 1 and len(x) > 2 and not len(x) % 2]
    )
    rows = case.state[name]
    moved = rows.reshape(2, len(rows) // 2, -1).swapaxes(0, 1).reshape(rows.shape)
    return Confused({**case.state, name: moved}, case.pairs)


def transposed(case: Right, rng: np.random.Generator, *, square: bool) -> Confused | None:
    names = [n for n, x in case.state.items() if x.ndim == 2 and (len(set(x.shape)) == 1) == square]
    if not names:
        return None
    name = rng.choice(names)
    return Confused({**case.state, name: case.state[name].T.copy()}, case.pairs)


def without_a_pair(case: Right, rng: np.random.Generator) -> Confused | None:
    if not case.pairs:
        return None
    lost = rng.choice(list(case.pairs))
    return Confused(case.state, {n: path for n, path in case.pairs.items() if n != lost})


def of_another_order(case: Right, rng: np.random.Generator) -> Confused | None:
    """A packed tensor whose pair has its parts turned around, or lacks its groups."""
    packed = {n: path for n, path in case.pairs.items() if "|" in str(path)}
    if not packed:
        return None
    name = rng.choice(list(packed))
    path, words = packed[name]
    groups, _, parts = words.rpartition(" ")
    turned = " ".join(filter(None, (groups, "|".join(reversed(parts.split("|"))))))
    order = parts if groups and rng.integers(2) else turned
    return Confused(case.state, {**case.pairs, name: (path, order)})


def stored_twice(case: Right, rng: np.random.Generator) -> Confused:
    """A tensor of which the file also has a copy under another name."""
    name = rng.choice(list(case.state))
    owner, _, local = name.rpartition(".")
    return Confused({**case.state, f"{owner}_copy.{local}": case.state[name].copy()}, case.pairs)


def renumbered(case: Right, rng: np.random.Generator) -> Confused | None:
    """Blocks that count from another number."""
    first = int(rng.integers(1, 7))

    def moved(name: str) -> str:
        parts = name.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        if numbers:
            parts[numbers[0]] = str(int(parts[numbers[0]]) + first)
        return ".".join(parts)

    state = {moved(n): x for n, x in case.state.items()}
    return None if case.pairs and state.keys() == case.state.keys() else Confused(state, case.pairs)


Kind = Callable[[Right, np.random.Generator], Confused | None]
# What each kind of confusion may come to.
KINDS: dict[str, tuple[Kind, tuple[Outcome, ...]]] = {
    "names exchanged, of equal shapes": (
        functools.partial(exchanged, alike=True),
        ("not seen",),
    ),
    "names exchanged, of other shapes": (
        functools.partial(exchanged, alike=False),
        ("refused", "harmless"),
    ),
    "a tensor dropped": (dropped, ("refused", "harmless")),  # as a counter is
    "a tensor stored twice": (stored_twice, ("refused",)),
    "rows permuted": (heads_permuted, ("not seen",)),
    "a square tensor transposed": (
        functools.partial(transposed, square=True),
        ("not seen",),
    ),
    "an oblong tensor transposed": (
        functools.partial(transposed, square=False),
        ("refused", "harmless"),
    ),
    "a pair left out": (without_a_pair, ("refused", "noticed")),
    "a packed tensor of another order": (of_another_order, ("refused", "noticed")),
    "blocks that count from another number": (
        renumbered,
        ("refused", "noticed", "harmless"),
    ),
}
TEN = 10


def came_to(confused: Confused, case: Right) -> Outcome:
    try:
        plan = bridge.plan(confused.state, case.model, confused.pairs, settings=case.settings)
        leaves = plan.forward(confused.state.__getitem__)
    except ValueError:
        return "refused"
    if plan.notes:
        return "noticed"
    same = all(np.array_equal(leaves[path], x) for path, x in case.leaves.items())
    return "harmless" if same else "not seen"


def known(state: State) -> dict[str, Any]:
    """All that a plan knows of a file."""
    return {name: (x.shape, x.dtype) for name, x in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published")


@pytest.mark.parametrize("name", [*PUBLISHED, *NETWORKS])
def test_ten_confusions(name: str, folder: Path, note: Callable[[str], None]) -> None:
    case, rng = right(name, folder), np.random.default_rng(zlib.crc32(name.encode()))
    outcomes: Counter[tuple[str, Outcome]] = Counter()
    # Each once; where a model has none of a kind, others again.
    for kind in [*KINDS, *rng.permutation(list(KINDS))]:
        make, allowed = KINDS[kind]
        confused = make(case, rng)
        if confused is None or sum(outcomes.values()) == TEN:
            continue
        outcome = came_to(confused, case)
        assert outcome in allowed, (kind, outcome)
        if outcome == "not seen":
            assert known(confused.state) == known(case.state)
            assert confused.pairs == case.pairs
        outcomes[kind, outcome] += 1
    assert sum(outcomes.values()) == TEN
    ends = Counter(dict.fromkeys(("refused", "noticed", "harmless", "not seen"), 0))
    for (_, outcome), number in outcomes.items():
        ends[outcome] += number
    note(f"{name}: {', '.join(f'{number} {end}' for end, number in ends.items())}")
