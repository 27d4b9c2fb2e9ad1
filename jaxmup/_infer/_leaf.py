"""What a model itself says of one of its parameters."""

import dataclasses
import itertools
from typing import Literal

from jaxmup._spec import AxisKind, ParamSpec

Kinds = tuple[AxisKind, ...]
# "logits": its last axis is a head size d, and attention divides the logits that it scales by √d.
# "unknown logits": the same, but what attention divides by is not known.
# "lookup": the table of an embedding. "attend": such a table that is a readout too.
Use = Literal["logits", "unknown logits", "lookup", "attend"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter of an abstract model.

    Args:
      shape: its shape.
      kinds: what each axis does in its layer; `None` if the type of the layer does not say.
      stacked: positions of the axes that `scan` or `vmap` has added.
      names: the axis names that the user has put on it, as Flax's partitioning metadata.
      spec: what a jaxmup layer declares.
      uses: what else the layer says of it.
    """

    shape: tuple[int, ...]
    kinds: Kinds | None = None
    stacked: tuple[int, ...] = ()
    names: tuple[str | None, ...] | None = None
    spec: ParamSpec | None = None
    uses: frozenset[Use] = frozenset()

    def with_kinds(self, kinds: Kinds | None, own_shape: tuple[int, ...] | None = None) -> "Leaf":
        """This leaf, where `kinds` are those of the axes that its layer made.

        The others are batch axes that `scan` or `vmap` has added: in front, unless `own_shape`,
        the shape that the layer made, is only found with them elsewhere.
        """
        added = -1 if kinds is None else len(self.shape) - len(kinds)
        if kinds is None or added < 0:
            return self
        for stacked in itertools.combinations(range(len(self.shape)), added):
            own = [i for i in range(len(self.shape)) if i not in stacked]
            if own_shape in (None, tuple(self.shape[i] for i in own)):
                placed = dict(zip(own, kinds, strict=True))
                every = tuple(placed.get(i, "batch") for i in range(len(self.shape)))
                return dataclasses.replace(self, kinds=every, stacked=stacked)
        return self
