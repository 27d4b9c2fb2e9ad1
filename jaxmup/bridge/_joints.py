"""One layer of Flax that holds what are several modules in PyTorch, such as `qkv`."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxmup.bridge._layouts import Shape
from jaxmup.bridge._plan import Part, Place
from jaxmup.bridge._units import FlaxLayer
from jaxmup.bridge._words import read

_WORDS = re.compile(r"(?P<heads>heads)|(?P<groups>[1-9]\d*) groups|")


class Joint(NamedTuple):
    """The order of several modules in one layer.

    Args:
      parts: Names of the modules, in their order.
      groups: Number of groups of outputs that each hold all modules one after another; `None` for
        one a head, by the kernel's axis of heads.
    """

    parts: tuple[str, ...]
    groups: int | None = 1


def parse(parts: tuple[str, ...], words: str) -> Joint | None:
    """The order that the words of a pair give; `None` if they say nothing.

    Example:
      >>> parse(("q", "k"), ""), parse(("q", "k"), "8 groups").groups
      (Joint(parts=('q', 'k'), groups=1), 8)
    """
    found = _WORDS.fullmatch(words)
    if found is None:
        return None
    return Joint(parts, None if found["heads"] else int(found["groups"] or 1))


def apart(layer: FlaxLayer, joint: Joint, sizes: Mapping[str, int]) -> list[FlaxLayer]:
    """The layer as one for each module that it holds.

    Args:
      layer: The layer, with a kernel (inputs, *outputs) and perhaps a bias.
      joint: Order of the modules.
      sizes: Number of elements of the weight of each module.

    Raises:
      ValueError: if the kernel has another size, or groups do not share it equally.
    """
    kernel = layer.places["kernel"]
    inputs, whole = kernel.shape[0], sum(sizes.values())
    if whole != math.prod(kernel.shape):
        each = ", ".join(f"{part} {size}" for part, size in sizes.items())
        raise ValueError(
            f"A layer must have as many elements as the modules that it holds. {kernel} has "
            f"{math.prod(kernel.shape)}, they have {whole}: {each}."
        )
    groups = _groups(joint, kernel)
    path, bracket, row = layer.name.partition("[")
    found: list[FlaxLayer] = []
    start = 0
    for name in joint.parts:
        outputs, rest = divmod(sizes[name], inputs)
        if rest or outputs % groups:
            raise ValueError(
                f"Each group must hold an equal share of every module. {groups} groups do not "
                f"share the {sizes[name] / inputs:g} outputs of {name} in {kernel}."
            )
        part = Part(name, start, start + outputs // groups, groups)
        start = part.stop
        places = {
            local: Place(place.path, place.row, _shape(local, inputs, outputs), part)
            for local, place in layer.places.items()
        }
        words = read(f"{path}/{name}").at(*kernel.row)
        found.append(FlaxLayer(f"{path}[{name}]{bracket}{row}", words, layer.kind, places))
    return found


def _shape(local: str, inputs: int, outputs: int) -> Shape:
    return (inputs, outputs) if local == "kernel" else (outputs,)


def _groups(joint: Joint, kernel: Place) -> int:
    if joint.groups is not None:
        return joint.groups
    if len(kernel.shape) < 3:
        raise ValueError(
            f"'heads' makes a group of each head, and {kernel} has no axis of heads. Give their "
            "number, that of keys and values, such as '8 groups'."
        )
    return kernel.shape[1]
