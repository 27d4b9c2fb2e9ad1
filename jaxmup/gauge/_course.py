"""The way of the updates of a parameter through a chain, and where the learning rate enters."""

import math
from typing import NamedTuple

from jaxmup._check import listed
from jaxmup._opt_state import STATELESS, Chain, Link, Owners, where
from jaxmup._tree import PathName

_OWN_RATE = "jaxmup.optim.scale_updates"
_OWN_GRADIENT = "jaxmup.optim.scale_gradients"
_OWN_CHAIN = "a chain of jaxmup.optim"
_INVARIANT = ("jaxmup.optim.from_direction", "jaxmup.optim.in_reference_gauge")


class Passage(NamedTuple):
    """A transform that an update passes, and the factor on the update that comes in."""

    link: Link
    update: float


class Course(NamedTuple):
    """The way of the updates of one parameter through a chain.

    Args:
      passages: The transforms that they pass, in order.
      theta: The factor on the parameter's multiplier.
      rate: The factor on its learning rate.
    """

    passages: list[Passage]
    theta: float
    rate: float


def course(
    chain: Chain, parameter: PathName, owners: Owners, theta: float, gradient: float = 1.0
) -> Course:
    """Follows the updates of a parameter through their chain.

    Args:
      chain: The transforms.
      parameter: Name of the parameter.
      owners: Owners of the leaves of the state.
      theta: The factor on its multiplier.
      gradient: The factor on its `Scaling.grad`.

    Raises:
      ValueError: if no learning rate can carry the movement, or where it stands is left open.
    """
    links = list(owners.links(chain, parameter))
    at = _rate_position(links, parameter)
    # Followed twice: first with the rate left alone, to see by what it has to be multiplied; what
    # stands after it then receives updates that the rate has moved.
    _, final = _follow(links, theta, gradient, at, 1.0)
    rate = 1.0 / (theta * final)
    passages, final = _follow(links, theta, gradient, at, rate)
    # A transform after the rate may undo it, as a sign does; and there may be no rate at all.
    if not math.isclose(theta * final, 1.0, rel_tol=1e-9):
        names = [f"{link.name}: {where(link.path)}" for link in links]
        raise ValueError(
            "The learning rate of an optimizer must move with the gauge. Found none that could, "
            f"for the parameter {parameter!r}, among{listed(names)}\n"
            "Pass the state of the whole optimizer, with its learning rate."
        )
    return Course(passages, theta, rate)


def _follow(
    links: list[Link], theta: float, gradient: float, at: int | None, rate: float
) -> tuple[list[Passage], float]:
    """The factor on the updates before each link, and after the last."""
    passages, update = [], theta
    for i, link in enumerate(links):
        passages.append(Passage(link, update))
        update = link.transform.returns.at(update, theta, rate)
        # `Scaling.grad` has another value in the other gauge, and so has the rate: what they
        # multiply moves by the ratio too.
        update *= gradient if link.name in (_OWN_GRADIENT, _OWN_CHAIN) else 1.0
        update *= rate if i == at else 1.0
    return passages, update


def _rate_position(links: list[Link], parameter: PathName) -> int | None:
    """The place in a chain where the learning rate enters.

    A chain that does not say so has it in its last transform without state, as the optimizers of
    optax have, unless another place would move a state differently.
    """
    own = [i for i, link in enumerate(links) if link.name == _OWN_RATE]
    said = own or [i for i, link in enumerate(links) if link.transform.sets_rate]
    if said:
        return said[-1]
    # A rate before a transform that normalizes would be divided out again. So it stands after the
    # last of these; and between the stateless ones there, only a state could tell them apart.
    normalized = [i for i, link in enumerate(links) if link.transform.returns.update == 0]
    start = normalized[-1] + 1 if normalized else 0
    possible = [i for i in range(start, len(links)) if links[i].name == STATELESS]
    if not possible:
        return None
    between = [link for link in links[possible[0] : possible[-1]] if link.transform.fields]
    if normalized and between:
        raise ValueError(
            "The place of the learning rate in a chain must be known where it decides how a state "
            f"moves. It may stand before or after {where(between[0].path)}: "
            f"{type(between[0].state).__name__} of the parameter {parameter!r}. Say what the chain "
            "is made of, such as chain='adafactor' or a tuple of the names of its transforms."
        )
    return possible[-1]


def has_own_rate(followed: Course) -> bool:
    """True if the learning rate of the parameter has its factor from a scaling."""
    return any(link.name == _OWN_RATE for link, _ in followed.passages)


def is_invariant(followed: Course) -> bool:
    """True if the updates come from a transform that is the same in every gauge."""
    return any(link.name in _INVARIANT for link, _ in followed.passages)


def takes_scalings(followed: Course) -> bool:
    """True if the chain is one of `jaxmup.optim`'s, whose hyper-parameters move with scalings."""
    return any(link.name == _OWN_CHAIN for link, _ in followed.passages)
