"""The transforms that an update goes through, read off the state of an optimizer."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxmup._tree import listed, path_name
from jaxmup.gauge._chains import CHAINS
from jaxmup.gauge._transforms import FIXED, TRANSFORMS, WRAPPERS, Transform

# The name of an optimizer or of a transform, several of them in their order, or, under
# `optax.partition`, one of these for each label.
Description = str | tuple[Any, ...] | Mapping[Any, Any]

STATELESS = "a transform without state"

# Transforms by the type of their state: the first in the table where several share one.
_BY_STATE: dict[str, tuple[str, Transform]] = {}
for _name, _transform in itertools.chain(TRANSFORMS.items(), WRAPPERS.items()):
    for _state in _transform.states:
        _BY_STATE.setdefault(_state, (_name, _transform))
_BY_STATE["EmptyState"] = (STATELESS, Transform())


class Link(NamedTuple):
    """A transform in a chain.

    `path` says where in the optimizer's state its own state stands.
    """

    path: str
    name: str
    transform: Transform
    state: Any


@dataclasses.dataclass(frozen=True)
class Branches:
    """The chains of `optax.partition`, by label."""

    chains: Mapping[Any, "Chain"]


Chain = list[Link | Branches]


def read(
    state: Any, optimizer: Description | None, transforms: Mapping[str, Transform] | None
) -> Chain:
    """The chain that `state` is the state of.

    Args:
      state: state of an optax optimizer.
      optimizer: what it is made of, where the types of the states leave that open.
      transforms: transforms that are not in the table, by the name of the type of their state.

    Raises:
      ValueError: if the state holds one of an unknown type, or is not that of `optimizer`.
    """
    known = _BY_STATE | {kind: (kind, transform) for kind, transform in (transforms or {}).items()}
    unknown: list[str] = []
    chain = _read(state, "", known, unknown)
    if unknown:
        raise ValueError(
            "Every field of an optimizer's state must have a known movement. Unknown:"
            f"{listed(unknown)}\nPass `transforms={{'TheState': jaxmup.gauge.Transform(...)}}`, "
            "which says how its fields move, or train with `jaxmup.gauge.in_reference_gauge(tx, "
            "scalings)`, whose state is the same in every gauge."
        )
    return chain if optimizer is None else _described(chain, optimizer)


def _read(
    state: Any, path: str, known: Mapping[str, tuple[str, Transform]], unknown: list[str]
) -> Chain:
    if type(state) in (tuple, list):
        parts = (_read(part, f"{path}/{i}", known, unknown) for i, part in enumerate(state))
        return list(itertools.chain.from_iterable(parts))
    kind = type(state).__name__
    if kind == "PartitionState":
        chains = {
            label: _read(inner, f"{path}/{label}", known, unknown)
            for label, inner in state.inner_states.items()
        }
        return [Branches(chains)]
    fields = getattr(state, "_fields", ())
    if kind not in known:
        unknown.append(f"{path.lstrip('/') or '(the state itself)'}: {kind}{fields}")
        return []
    name, transform = known[kind]
    named = {*transform.fields, transform.inner, "hyperparams"}
    unknown += [f"{path.lstrip('/')}: {kind}.{field}" for field in fields if field not in named]
    link = Link(path, name, transform, state)
    if transform.inner is None:
        return [link]
    inner = getattr(state, transform.inner)
    return [link, *_read(inner, f"{path}/{transform.inner}", known, unknown)]


def _described(chain: Chain, optimizer: Description) -> Chain:
    """`chain` with the transforms that the description names."""
    open_links = [link for link in chain if not _is_wrapper(link)]
    elements = (optimizer,) if isinstance(optimizer, str | Mapping) else tuple(optimizer)
    for names in itertools.product(*(_expanded(element) for element in elements)):
        flat = list(itertools.chain.from_iterable(names))
        if len(flat) == len(open_links) and all(map(_fits, open_links, flat)):
            named = iter(flat)
            return [link if _is_wrapper(link) else _renamed(link, next(named)) for link in chain]
    held = [
        "a partition" if isinstance(link, Branches) else f"{type(link.state).__name__} {link.path}"
        for link in open_links
    ]
    raise ValueError(
        f"`chain` must describe the optimizer whose state is given. Got {optimizer!r}; the "
        f"state holds, in this order:{listed(held)}\n"
        "Name its transforms one by one, such as ('clip', 'scale_by_adam', "
        "'scale_by_learning_rate')."
    )


def _is_wrapper(link: Link | Branches) -> bool:
    return isinstance(link, Link) and link.transform.inner is not None


def _expanded(element: Any) -> list[tuple[Any, ...]]:
    """The chains that a part of a description stands for."""
    if isinstance(element, Mapping):
        return [(element,)]
    if element in CHAINS:
        return list(CHAINS[element])
    if element in TRANSFORMS:
        return [(element,)]
    raise ValueError(
        f"`chain` must name optimizers and transforms of the table. Got {element!r}. Known:"
        f"{listed((*CHAINS, *TRANSFORMS))}"
    )


def _fits(link: Link | Branches, name: Any) -> bool:
    if isinstance(link, Branches):
        return isinstance(name, Mapping) and set(link.chains) == set(name)
    if isinstance(name, Mapping):
        return False
    return type(link.state).__name__ in TRANSFORMS[name].states


def _renamed(link: Link | Branches, name: Any) -> Link | Branches:
    if isinstance(link, Branches):
        return Branches({label: _described(link.chains[label], name[label]) for label in name})
    return link._replace(name=name, transform=TRANSFORMS[name])


def links_of(chain: Chain, leaf: str, owners: "Owners") -> Iterator[Link]:
    """The transforms that the update of the parameter `leaf` goes through."""
    for link in chain:
        if isinstance(link, Branches):
            for branch in link.chains.values():
                if owners.includes(branch, leaf):
                    yield from links_of(branch, leaf, owners)
        elif owners.moves(link, leaf):
            yield link


class Owners:
    """Which leaf of a state belongs to which parameter.

    Args:
      parameters: the names of all parameters.
    """

    def __init__(self, parameters: list[str]):
        self._parameters = set(parameters)
        self._held: dict[str, frozenset[str] | None] = {}

    def of(self, path: tuple[Any, ...]) -> str | None:
        """The parameter of the leaf at `path` of a field; `None` for one that all share."""
        name = path_name(path)
        while name not in self._parameters:  # a transform may keep several arrays for one
            name, parted, _ = name.rpartition("/")
            if not parted:
                return None
        return name

    def moves(self, link: Link, leaf: str) -> bool:
        """Whether the update of `leaf` goes through this transform: `optax.masked` lets some by."""
        held = self._of_link(link)
        return held is None or leaf in held

    def includes(self, branch: Chain, leaf: str) -> bool:
        """Whether `leaf` belongs to this branch of a partition, as far as its states tell."""
        links = [link for link in branch if isinstance(link, Link)]
        held = [found for found in map(self._of_link, links) if found is not None]
        return not held or any(leaf in found for found in held)

    def _of_link(self, link: Link) -> frozenset[str] | None:
        """The parameters that a transform keeps arrays for; `None` if it keeps none for any."""
        if link.path not in self._held:
            fields = [
                getattr(link.state, field)
                for field, power in link.transform.fields.items()
                if power != FIXED and hasattr(link.state, field)
            ]
            paths = [path for x in fields for path, _ in jax.tree_util.tree_leaves_with_path(x)]
            found = frozenset(owner for path in paths if (owner := self.of(path)) is not None)
            masked = any(not jax.tree.leaves(x) for x in fields)
            self._held[link.path] = found if found or masked else None
        return self._held[link.path]
