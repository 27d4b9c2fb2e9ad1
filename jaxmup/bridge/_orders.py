"""The orders in which published models pack several layers in one tensor, by their configuration.

As the code of each in `transformers` takes the product apart.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jaxmup.bridge._plan import Entry, Place
from jaxmup.bridge._words import read

HEADS = "heads q|k|v"
ORDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bloom": (HEADS,),
        "codegen": ("4 q|v|k",),
        "gpt2": ("q|k|v",),
        "gpt_neox": (HEADS,),
        "internlm2": (HEADS,),
        "mpt": ("q|k|v",),
        "persimmon": (HEADS,),
        "phi3": ("q|k|v", "gate|up"),
    }
)
_PARTS = MappingProxyType({"query": "q", "key": "k", "value": "v", "gate": "gate", "up": "up"})


def orders_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The orders of a model, as pairs spell them; none if they are not known.

    Example:
      >>> orders_of({"model_type": "falcon", "new_decoder_architecture": True})
      ('heads q|k|v',)
    """
    if config.get("model_type") == "falcon":
        one = config.get("multi_query", True) and not config.get("new_decoder_architecture")
        return ("q|k|v",) if one else (HEADS,)
    return ORDERS.get(str(config.get("model_type")), ())


def contradicted(entries: Iterable[Entry], orders: Iterable[str]) -> Iterator[str]:
    """Words on packed layers that are taken apart in another order than that of the model.

    Args:
      entries: Entries of the plan.
      orders: Orders of the model, as pairs spell them.
    """
    known = {frozenset(order.rpartition(" ")[2].split("|")): order for order in orders}
    for entry in entries:
        kernels = [place for place in entry.targets if place.path.endswith("kernel")]
        parts = [_part(place) for place in kernels]
        order = known.get(frozenset(parts))
        if order is not None and len(parts) == len(set(parts)):
            prefixes = _prefixes(entry.layout.groups, kernels)
            taken = [prefix + "|".join(parts) for prefix in prefixes]
            if order not in taken:
                yield (
                    f"{entry.sources[0].name} is taken for {taken[-1]!r}, and by its configuration "
                    f"the model packs {order!r}. Is the pair right?"
                )


def _prefixes(groups: int, kernels: list[Place]) -> Iterator[str]:
    """The words for a number of groups: of one a head, both."""
    heads = {place.shape[-2] for place in kernels if len(place.shape) > 2}
    yield "" if groups == 1 else f"{groups} "
    if heads and groups == min(heads):
        yield "heads "


def _part(place: Place) -> str:
    found = [part for word, part in _PARTS.items() if word in read(place.path).words]
    return found[0] if len(found) == 1 else ""
