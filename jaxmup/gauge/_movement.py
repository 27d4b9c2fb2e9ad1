"""How the state and the hyper-parameters of an optimizer move with the gauge of each parameter."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from jaxmup._tree import listed
from jaxmup.functional import scale
from jaxmup.gauge._links import STATELESS, Chain, Link, Owners, links_of
from jaxmup.gauge._transforms import FIXED

_OWN_RATE = "jaxmup.optim.scale_updates"
_OWN_GRADIENT = "jaxmup.optim.scale_gradients"
_OWN_CHAIN = "a chain of jaxmup.optim"
_INVARIANT = ("jaxmup.optim.from_direction", "jaxmup.optim.in_reference_gauge")


class Step(NamedTuple):
    """A transform that an update goes through, and the factor on the update that comes in."""

    link: Link
    update: float


class Course(NamedTuple):
    """What happens to the updates of one parameter.

    `theta` is its gauge move, `rate` the factor on its learning rate.
    """

    steps: list[Step]
    theta: float
    rate: float


def course(chain: Chain, leaf: str, owners: Owners, theta: float, gradient: float = 1.0) -> Course:
    """Follows the updates of the parameter `leaf` through their chain.

    Args:
      chain: the transforms.
      leaf: name of the parameter.
      owners: which state belongs to which parameter.
      theta: the factor on its multiplier.
      gradient: the factor on its `Scaling.grad`.

    Raises:
      ValueError: if no learning rate can carry the movement, or where it stands is left open.
    """
    links = list(links_of(chain, leaf, owners))
    at = _rate_position(links, leaf)
    _, final = _follow(links, theta, gradient, at, 1.0)
    rate = 1.0 / (theta * final)
    steps, final = _follow(links, theta, gradient, at, rate)
    if not math.isclose(theta * final, 1.0, rel_tol=1e-9):
        names = [f"{link.name}: {link.path.lstrip('/')}" for link in links]
        raise ValueError(
            "The learning rate of an optimizer must move with the gauge. Found none that could, "
            f"for the parameter {leaf!r}, among{listed(names)}\n"
            "Pass the state of the whole optimizer, with its learning rate."
        )
    return Course(steps, theta, rate)


def _follow(
    links: list[Link], theta: float, gradient: float, at: int | None, rate: float
) -> tuple[list[Step], float]:
    """The factor on the updates before each link, and after the last."""
    steps, update = [], theta
    for i, link in enumerate(links):
        steps.append(Step(link, update))
        update = link.transform.returns.at(update, theta, rate)
        update *= gradient if link.name in (_OWN_GRADIENT, _OWN_CHAIN) else 1.0
        update *= rate if i == at else 1.0
    return steps, update


def _rate_position(links: list[Link], leaf: str) -> int | None:
    """Where in a chain the learning rate enters.

    A chain that does not say so has it in its last transform without state, as the optimizers of
    optax have, unless another place would move a state differently.
    """
    own = [i for i, link in enumerate(links) if link.name == _OWN_RATE]
    said = own or [i for i, link in enumerate(links) if link.transform.sets_rate]
    if said:
        return said[-1]
    normalized = [i for i, link in enumerate(links) if link.transform.returns.update == 0]
    start = normalized[-1] + 1 if normalized else 0
    possible = [i for i in range(start, len(links)) if links[i].name == STATELESS]
    if not possible:
        return None
    between = [link for link in links[possible[0] : possible[-1]] if link.transform.fields]
    if normalized and between:
        raise ValueError(
            "The place of the learning rate in a chain must be known where it decides how a state "
            f"moves. It may stand before or after {between[0].path.lstrip('/')}: "
            f"{type(between[0].state).__name__} of the parameter {leaf!r}. Say what the chain is "
            "made of, such as chain='adafactor' or a tuple of the names of its transforms."
        )
    return possible[-1]


def has_own_rate(followed: Course) -> bool:
    """Whether the learning rate of a parameter has its factor from a scaling."""
    return any(link.name == _OWN_RATE for link, _ in followed.steps)


def is_invariant(followed: Course) -> bool:
    """Whether the updates come from a transform that is the same in every gauge."""
    return any(link.name in _INVARIANT for link, _ in followed.steps)


def moved_state(
    state: Any, chain: Chain, courses: Mapping[str, Course], owners: Owners, described: bool
) -> tuple[Any, set[str]]:
    """`state` with every field moved, rounded once in the dtype that it has.

    Args:
      state: the state of the optimizer.
      chain: what it is made of.
      courses: what happens to the updates of each parameter.
      owners: which state belongs to which parameter.
      described: whether the chain names every transform, so that a hyper-parameter that does not
        move in it is known to stay.

    Returns:
      The state, and the names of the hyper-parameters that were moved in it.

    Raises:
      ValueError: if something that parameters share would have to move differently for each.
    """
    passing = _leaves_by_link(courses)
    links = {link.path: link for link in _all_links(chain)}
    injected: set[str] = set()

    def rebuilt(state: Any, path: str) -> Any:
        if type(state) in (tuple, list):
            return type(state)(rebuilt(part, f"{path}/{i}") for i, part in enumerate(state))
        if type(state).__name__ == "PartitionState":
            inner = state.inner_states.items()
            return state._replace(inner_states={k: rebuilt(x, f"{path}/{k}") for k, x in inner})
        link = links[path]
        here = passing.get(path, {})
        if link.transform.couples:
            thetas = {leaf: followed.theta for leaf, (_, followed) in here.items()}
            shared(f"{link.name} {path.lstrip('/')}", thetas)
        moved = _moved_fields(link, here, owners)
        if hasattr(state, "hyperparams"):
            factors = hyperparameters({leaf: c for leaf, (_, c) in here.items()})
            moved["hyperparams"] = _injected(state, path, here, factors, described)
            injected.update(name for name in factors if name in state.hyperparams)
        if link.transform.inner is not None:
            inner = rebuilt(getattr(state, link.transform.inner), f"{path}/{link.transform.inner}")
            moved[link.transform.inner] = inner
        return state._replace(**moved) if moved else state

    return rebuilt(state, ""), injected


def _all_links(chain: Chain) -> list[Link]:
    nested = (
        [link]
        if isinstance(link, Link)
        else [x for c in link.chains.values() for x in _all_links(c)]
        for link in chain
    )
    return list(itertools.chain.from_iterable(nested))


def _leaves_by_link(courses: Mapping[str, Course]) -> dict[str, dict[str, tuple[float, Course]]]:
    """For each link, by its path, the parameters that go through it and their factors there."""
    passing: dict[str, dict[str, tuple[float, Course]]] = {}
    for leaf, followed in courses.items():
        for link, update in followed.steps:
            passing.setdefault(link.path, {})[leaf] = (update, followed)
    return passing


def _moved_fields(
    link: Link, passing: Mapping[str, tuple[float, Course]], owners: Owners
) -> dict[str, Any]:
    moved = {}
    for field, power in link.transform.fields.items():
        if power == FIXED or not hasattr(link.state, field):
            continue
        factors = {leaf: power.at(u, c.theta, c.rate) for leaf, (u, c) in passing.items()}
        where = f"{link.path.lstrip('/')}.{field}"
        moved[field] = _moved_leaves(getattr(link.state, field), factors, owners, where)
    return moved


def _moved_leaves(tree: Any, factors: Mapping[str, float], owners: Owners, where: str) -> Any:
    def moved(path: Any, x: Any) -> Any:
        owner = owners.of(path)
        return scale(x, shared(where, factors) if owner is None else factors[owner])

    return jax.tree_util.tree_map_with_path(moved, tree)


def shared(what: str, factors: Mapping[str, float]) -> float:
    """The factor on something that several parameters share.

    Raises:
      ValueError: if it is not the same for all of them.
    """
    low, high = min(factors, key=factors.__getitem__), max(factors, key=factors.__getitem__)
    if not math.isclose(factors[low], factors[high], rel_tol=1e-12):
        raise ValueError(
            f"`{what}` is shared by parameters that would move it by different factors: {low!r} by "
            f"{factors[low]:.6g}, {high!r} by {factors[high]:.6g}. Move all by one theta; or use "
            "the chains of `jaxmup.optim`, whose scalings hold a number for each parameter; or "
            "train with `jaxmup.gauge.in_reference_gauge(tx, scalings)`."
        )
    return factors[low]


# What no optimizer of optax moves, under any of its names.
_STAY = {"b1", "b2", "b3", "beta", "decay", "rho", "alpha", "momentum", "decay_rate"}


def _injected(
    state: Any,
    path: str,
    passing: Mapping[str, tuple[float, Course]],
    factors: Mapping[str, Mapping[str, float]],
    described: bool,
) -> dict[str, Any]:
    """The hyper-parameters that `optax.inject_hyperparams` holds, moved."""
    known = described or all(_takes_scalings(c) for _, c in passing.values())
    scheduled = getattr(state, "hyperparams_states", {})
    moved = dict(state.hyperparams)
    for name, value in state.hyperparams.items():
        if name in factors and name in scheduled:
            raise ValueError(
                f"A scheduled hyper-parameter cannot be moved in the state: {name!r} at "
                f"{path.lstrip('/') or 'the top'} is computed anew at each step. Build the "
                f"optimizer with the schedule multiplied by {dict(factors[name])}, or use a chain "
                "of `jaxmup.optim`, whose schedule stays."
            )
        if name in factors:
            moved[name] = scale(value, shared(f"hyperparams[{name!r}]", factors[name]))
        elif not known and name not in _STAY:
            raise ValueError(
                f"The movement of every hyper-parameter must be known. {name!r} at "
                f"{path.lstrip('/') or 'the top'} moves by its place in the chain. Say what the "
                "optimizer is, such as chain='adamw'."
            )
    return moved


def _takes_scalings(followed: Course) -> bool:
    """Whether the chain is one of `jaxmup.optim`'s, whose hyper-parameters move with scalings."""
    return any(link.name == _OWN_CHAIN for link, _ in followed.steps)


def hyperparameters(courses: Mapping[str, Course]) -> dict[str, dict[str, float]]:
    """The factor on each hyper-parameter that moves, for each parameter."""
    factors: dict[str, dict[str, float]] = {}
    for leaf, followed in courses.items():
        if not _takes_scalings(followed):
            for name, factor in _factors_of(followed).items():
                factors.setdefault(name, {})[leaf] = factor
    return {name: by_leaf for name, by_leaf in factors.items() if not _all_one(by_leaf.values())}


def _all_one(factors: Iterable[float]) -> bool:
    """Whether nothing moves: powers that cancel leave a rounding."""
    return all(math.isclose(factor, 1.0, rel_tol=1e-12) for factor in factors)


def _factors_of(followed: Course) -> dict[str, float]:
    factors: dict[str, float] = {}
    for link, update in followed.steps:
        for name, power in link.transform.hyperparameters.items():
            if power is not None:
                factor = power.at(update, followed.theta, followed.rate)
                factors[f"{link.name}.{name}" if name in factors else name] = factor
    if not has_own_rate(followed):
        factors.setdefault("learning_rate", followed.rate)
    return factors
