"""The orders in which published models pack query, key and value, by the type of the model.

As the code of each in `transformers` takes the product apart.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from jaxmup.bridge._plan import Entry, Place
from jaxmup.bridge._words import read

HEADS = "heads q|k|v"
ORDERS: Mapping[str, str] = MappingProxyType(
    {
        "bloom": HEADS,
        "codegen": "4 q|v|k",
        "gpt2": "q|k|v",
        "gpt_neox": HEADS,
        "internlm2": HEADS,
        "mpt": "q|k|v",
        "persimmon": HEADS,
        "phi3": "q|k|v",
    }
)
_LETTER = MappingProxyType({"query": "q", "key": "k", "value": "v"})


def contradicted(entries: Iterable[Entry], model_type: str) -> Iterator[str]:
    """Words on packed projections that are taken apart in another order than that of the model.

    Args:
      entries: Entries of the plan.
      model_type: Type of the model, as its configuration has it.
    """
    known = ORDERS.get(model_type)
    for entry in entries if known else ():
        kernels = [place for place in entry.targets if place.path.endswith("kernel")]
        letters = [_letter(place) for place in kernels]
        if sorted(letters) == ["k", "q", "v"]:
            taken = {
                f"{prefix}{'|'.join(letters)}" for prefix in _prefixes(entry.layout.groups, kernels)
            }
            if known not in taken:
                yield (
                    f"{entry.sources[0].name} is taken for {max(taken, key=len)!r}, and the "
                    f"configuration is of {model_type}, which packs {known!r}. Is the pair right?"
                )


def _prefixes(groups: int, kernels: list[Place]) -> Iterator[str]:
    """The words for a number of groups: of one a head, both."""
    heads = {place.shape[-2] for place in kernels if len(place.shape) > 2}
    yield "" if groups == 1 else f"{groups} "
    if heads and groups == min(heads):
        yield "heads "


def _letter(place: Place) -> str:
    found = [letter for word, letter in _LETTER.items() if word in read(place.path).words]
    return found[0] if len(found) == 1 else ""
