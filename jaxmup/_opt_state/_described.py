"""The transforms of a chain, named by the user where the types of its states leave them open."""

import itertools
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeAlias

from jaxmup._check import listed
from jaxmup._opt_state._chains import CHAINS
from jaxmup._opt_state._table import TRANSFORMS
from jaxmup._opt_state._walk import Branches, Chain, Link, where

Description: TypeAlias = str | tuple[Any, ...] | Mapping[Hashable, Any]
"""The name of an optimizer or of a transform, several of them in their order, or, under
`optax.partition`, one of these for each label."""

# A description of one part: a name of the table, or a description of each branch.
_Word: TypeAlias = str | Mapping[Hashable, Description]


def described(chain: Chain, description: Description) -> Chain:
    """`chain` with the transforms that the description names.

    Raises:
      ValueError: if the description names what the table lacks, or fits no state like this.
    """
    open_parts = [part for part in chain if not _is_wrapper(part)]
    elements = (description,) if isinstance(description, str | Mapping) else tuple(description)
    # An optimizer stands for one of several chains, since its arguments add and leave out
    # transforms; the number and the types of the states say which.
    for choice in itertools.product(*(_expanded(element) for element in elements)):
        words = list(itertools.chain.from_iterable(choice))
        if len(words) == len(open_parts) and all(map(_fits, open_parts, words)):
            rest = iter(words)
            return [part if _is_wrapper(part) else _renamed(part, next(rest)) for part in chain]
    raise ValueError(
        f"`chain` must describe the optimizer whose state is given. Got {description!r}; the "
        f"state holds, in this order:{listed(_held(open_parts))}\n"
        "Name its transforms one by one, such as ('clip', 'scale_by_adam', "
        "'scale_by_learning_rate')."
    )


def _held(parts: Iterable[Link | Branches]) -> list[str]:
    return [
        "a partition"
        if isinstance(part, Branches)
        else f"{type(part.state).__name__} {where(part.path)}"
        for part in parts
    ]


def _is_wrapper(part: Link | Branches) -> bool:
    return isinstance(part, Link) and part.transform.inner is not None


def _expanded(element: _Word) -> list[tuple[_Word, ...]]:
    """The chains that a part of a description stands for."""
    if isinstance(element, Mapping):
        return [(element,)]
    if element in CHAINS:
        return [tuple(names) for names in CHAINS[element]]
    if element in TRANSFORMS:
        return [(element,)]
    raise ValueError(
        f"`chain` must name optimizers and transforms of the table. Got {element!r}. Known:"
        f"{listed((*CHAINS, *TRANSFORMS))}"
    )


def _fits(part: Link | Branches, word: _Word) -> bool:
    if isinstance(part, Branches):
        return isinstance(word, Mapping) and set(part.chains) == set(word)
    if isinstance(word, Mapping):
        return False
    return type(part.state).__name__ in TRANSFORMS[word].states


def _renamed(part: Link | Branches, word: Any) -> Link | Branches:
    if isinstance(part, Branches):
        return Branches({label: described(part.chains[label], word[label]) for label in word})
    return part._replace(name=word, transform=TRANSFORMS[word])
