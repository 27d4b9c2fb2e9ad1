"""The way in which a tensor of PyTorch is stored, in the words of a pair.

A name does not say it: `qkv_proj` is query, key and value one after another in Phi-3, and four
blocks of query, value and key in CodeGen.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from jaxmup.bridge._layouts import LINEAR, Layout, Shape, flattened
from jaxmup.bridge._options import Option
from jaxmup.bridge._plan import Place

LAYOUTS = ("linear", "conv1d", "conv", "conv_transpose")
_WORDS = re.compile(
    rf"(?P<key>{'|'.join(LAYOUTS)})?(?:^|\s+|$)"
    r"(?:(?:(?P<groups>heads|[1-9]\d*)\s+)?(?P<parts>\w+(?:\|\w+)+)"
    r"|flatten\s+(?P<sizes>\d+(?:,\d+)+))?"
)


@dataclasses.dataclass(frozen=True)
class Storage:
    """The way in which a tensor is stored.

    Args:
      words: Words that say it, as the pair has them.
      key: Key of its layout; empty if shapes tell.
      parts: Names of the layers whose weights it holds, in their order; empty if it holds one.
      groups: Number of groups of rows that each hold all parts; `None` for one a head of the part
        with the fewest.
      sizes: Sizes (channels, *window) of the feature map that its inputs are; empty if they are
        none.
    """

    words: str
    key: str = ""
    parts: tuple[str, ...] = ()
    groups: int | None = 1
    sizes: Shape = ()

    def among(self, options: Sequence[Option]) -> list[Option]:
        """Those of the ways to convert a module that are stored so.

        Raises:
          ValueError: if the shapes fit, but the number of groups or the sizes of the map do not.
        """
        found = [option for option in options if self.key in ("", option[0].layout.key)]
        if self.parts:
            packed = (option for option in found if len(option[0].targets) == len(self.parts))
            return [self._grouped(option) for option in packed]
        if self.sizes:
            return [self._flattened(option) for option in found if option[0].layout == LINEAR]
        return found

    def _grouped(self, option: Option) -> Option:
        groups = self._number_of_groups(option[0].targets)
        if groups == 1:
            return option
        for entry in option:
            for place in entry.targets if len(entry.targets) > 1 else ():
                if _outputs(place) % groups:
                    raise ValueError(
                        f"Each group must hold an equal share of every part. {self.words!r} makes "
                        f"{groups} groups of the {_outputs(place)} outputs of {place}."
                    )
        return tuple(
            dataclasses.replace(entry, layout=_in_groups(entry.layout, groups))
            if len(entry.targets) > 1
            else entry
            for entry in option
        )

    def _number_of_groups(self, kernels: Sequence[Place]) -> int:
        if self.groups is not None:
            return self.groups
        flat = [str(place) for place in kernels if len(place.shape) < 3]
        if flat:
            raise ValueError(
                f"{self.words!r} makes a group of each head, and {', '.join(flat)} has no axis of "
                "heads. Give their number, that of keys and values, such as "
                f"'8 {'|'.join(self.parts)}'."
            )
        return min(place.shape[-2] for place in kernels)

    def _flattened(self, option: Option) -> Option:
        weight, *rest = option
        inputs = weight.sources[0].shape[1]
        if math.prod(self.sizes) != inputs:
            raise ValueError(
                "The sizes of a flattened map must multiply to the inputs of the layer behind it. "
                f"{self.words!r} makes {math.prod(self.sizes)}, {weight.sources[0].name} has "
                f"{inputs}."
            )
        return (dataclasses.replace(weight, layout=flattened(self.sizes)), *rest)


def parse(words: str) -> Storage | None:
    """The way in which a tensor is stored, from the words of a pair; `None` if they say nothing.

    Example:
      >>> parse("4 q|v|k").groups, parse("heads q|k|v").groups, parse("flatten 512,7,7").sizes
      (4, None, (512, 7, 7))
    """
    found = _WORDS.fullmatch(words)
    if found is None or not words:
        return None
    parts = tuple(found["parts"].split("|")) if found["parts"] else ()
    groups = None if found["groups"] == "heads" else int(found["groups"] or 1)
    sizes = tuple(map(int, found["sizes"].split(","))) if found["sizes"] else ()
    return Storage(words, found["key"] or "", parts, groups, sizes)


def _in_groups(layout: Layout, groups: int) -> Layout:
    return dataclasses.replace(layout, name=f"{layout.name}, {groups} groups", groups=groups)


def _outputs(place: Place) -> int:
    """Number of outputs of a kernel, whose first axis is that of the inputs, or of a bias."""
    return math.prod(place.shape[1:] if place.path.endswith("kernel") else place.shape)
