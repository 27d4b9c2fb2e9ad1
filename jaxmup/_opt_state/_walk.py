"""The state of an optimizer, taken apart into the transforms that made it."""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from jaxmup._opt_state._table import TRANSFORMS, WRAPPERS
from jaxmup._opt_state._transform import FIXED, FieldKind, Movement, Transform
from jaxmup._tree import OptState

StatePath: TypeAlias = tuple[Hashable, ...]
"""The place of a state or a field in the state of the whole optimizer: indices, fields and keys."""

STATELESS = "a transform without state"

# Transforms by the type of their state. Types are told apart by name: optax moves its classes
# between modules, and keeps aliases of them under the old names.
_BY_STATE: dict[str, tuple[str, Transform]] = {}
for _name, _transform in itertools.chain(TRANSFORMS.items(), WRAPPERS.items()):
    for _state in _transform.states:
        _BY_STATE.setdefault(_state, (_name, _transform))
# Dozens of transforms share this one; which it is, nothing in the state says.
_BY_STATE["EmptyState"] = (STATELESS, Transform())


def where(path: StatePath) -> str:
    """A path for a message, such as `"inner_state/0/mu"`.

    Example:
      >>> where(("inner_state", 0, "mu")), where(())
      ('inner_state/0/mu', '(the state itself)')
    """
    return "/".join(map(str, path)) or "(the state itself)"


class Field(NamedTuple):
    """A field of the state of a transform.

    Args:
      path: Place in the state of the optimizer.
      name: Name in the state of the transform.
      kind: Kind of what it holds.
      movement: Movement with the gauge.
      value: Value that it holds.
    """

    path: StatePath
    name: str
    kind: FieldKind
    movement: Movement
    value: Any


class Link(NamedTuple):
    """A transform in a chain.

    Args:
      path: Place of its state in that of the optimizer.
      name: Name in the table.
      transform: Row of the table.
      state: State of the transform.
    """

    path: StatePath
    name: str
    transform: Transform
    state: OptState

    @property
    def fields(self) -> Iterator[Field]:
        """The fields of its state, without the states of the transforms that it wraps."""
        # A row serves several types of state, of which some lack a field; and `hasattr` would find
        # `count` in every tuple, as it is a method of theirs.
        held = getattr(self.state, "_fields", self.transform.fields)
        for name, movement in self.transform.fields.items():
            if name in held:
                value, kind = getattr(self.state, name), self.transform.kind(name)
                if kind == "schedules":
                    yield from _schedules((*self.path, name), value)
                else:
                    yield Field((*self.path, name), name, kind, movement, value)


@dataclasses.dataclass(frozen=True)
class Branches:
    """The chains of `optax.partition`, by label."""

    chains: Mapping[Hashable, "Chain"]


Chain: TypeAlias = list[Link | Branches]


class Walked(NamedTuple):
    """The parts of an optimizer's state.

    Args:
      chain: The transforms in the order in which an update passes them, those that wrap others
        before these.
      unknown: A line for each state of an unknown type, and for each unknown field. The known
        states that stand in an unknown one are in the chain.
      unordered: Paths of mappings, as `optax.named_chain` has them: JAX sorts their keys, so that
        the order of the transforms is lost.
    """

    chain: Chain
    unknown: list[str]
    unordered: list[StatePath]

    @property
    def links(self) -> Iterator[Link]:
        """All transforms, those of branches too."""
        return _links(self.chain)


def walk(state: OptState, transforms: Mapping[str, Transform] | None = None) -> Walked:
    """Takes the state of an optimizer apart.

    Args:
      state: State of an optax optimizer.
      transforms: Transforms that are not in the table, by the name of the type of their state.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> state = optax.inject_hyperparams(optax.adam)(0.1).init({"w": jnp.ones(2)})
      >>> [(link.name, where(link.path)) for link in walk(state).links][:2]
      [('inject_hyperparams', '(the state itself)'), ('scale_by_adam', 'inner_state/0')]
    """
    known = _BY_STATE | {kind: (kind, transform) for kind, transform in (transforms or {}).items()}
    walked = Walked([], [], [])
    walked.chain.extend(_walk(state, (), known, walked))
    return walked


def _walk(
    state: OptState, path: StatePath, known: Mapping[str, tuple[str, Transform]], walked: Walked
) -> Iterator[Link | Branches]:
    kind = type(state).__name__
    # States are named tuples, so only the bare tuple is a chain.
    if type(state) in (tuple, list):
        for i, part in enumerate(state):
            yield from _walk(part, (*path, i), known, walked)
    elif isinstance(state, Mapping):
        walked.unordered.append(path)
        for key, part in state.items():
            yield from _walk(part, (*path, key), known, walked)
    elif kind == "PartitionState":
        inner = state.inner_states.items()
        yield Branches(
            {k: list(_walk(x, (*path, "inner_states", k), known, walked)) for k, x in inner}
        )
    elif kind not in known:
        held = getattr(state, "_fields", ())
        walked.unknown.append(f"{where(path)}: {kind}{held}")
        # Whoever can do without this one wants to see what it wraps.
        for name in held:
            if isinstance(getattr(state, name), tuple):
                inside = Walked([], [], [])
                yield from _walk(getattr(state, name), (*path, name), known, inside)
    else:
        link = Link(path, *known[kind], state)
        walked.unknown.extend(f"{where(path)}: {kind}.{name}" for name in _unknown_fields(link))
        yield link
        if link.transform.inner is not None:
            inner = getattr(state, link.transform.inner)
            yield from _walk(inner, (*path, link.transform.inner), known, walked)


def _unknown_fields(link: Link) -> list[str]:
    """The fields that the table lacks: a newer optax may keep more than this one knows of."""
    named = {*link.transform.fields, link.transform.inner}
    return [field for field in getattr(link.state, "_fields", ()) if field not in named]


def _schedules(path: StatePath, states: Mapping[str, Any]) -> Iterator[Field]:
    for name, state in states.items():
        if type(state).__name__ == "WrappedScheduleState":
            yield Field((*path, name, "count"), "count", "position", FIXED, state.count)
        else:  # a schedule with a state of its own
            yield Field((*path, name), name, "other", FIXED, state)


def _links(chain: Chain) -> Iterator[Link]:
    for part in chain:
        if isinstance(part, Link):
            yield part
        else:
            for branch in part.chains.values():
                yield from _links(branch)
