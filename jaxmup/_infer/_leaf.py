"""One parameter, with what the model itself says of it."""

import dataclasses
import itertools
from typing import Literal, NamedTuple

from jaxmup._correction import Correction
from jaxmup._finding import Finding
from jaxmup._infer._reading import Reading
from jaxmup._spec import AxisKind, ParamSpec

Kinds = tuple[AxisKind, ...]
# "logits": its last axis is a head size d, and attention divides the logits that it scales by √d.
# "unknown logits": the same, but what attention divides by is not known.
# "lookup": the table of an embedding. "attend": such a table that is a readout too.
Use = Literal["logits", "unknown logits", "lookup", "attend"]


class Placed(NamedTuple):
    """The kinds of the axes of a parameter.

    Args:
      kinds: Kind of each axis.
      stacked: Positions of the axes that `scan` or `vmap` has added.
    """

    kinds: Kinds
    stacked: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter of an abstract model.

    Args:
      shape: Shape of the parameter.
      placed: Kinds of its axes. Several answers, the likeliest first, where `scan` may have added
        any of two axes of one size; none if the type of the layer does not say.
      names: Axis names that the user has put on it, as Flax's partitioning metadata.
      spec: Spec that a jaxmup layer declares.
      uses: Other uses of the parameter that the type of the layer tells.
      gain: Forward gain that the program asks for.
      corrections: Factors that the program lacks beside it and that no parameter can carry.
      findings: What the program shows to be wrong with the parameter.
      reason: Uses of the parameter in the program, in words.
    """

    shape: tuple[int, ...]
    placed: tuple[Placed, ...] = ()
    names: tuple[str | None, ...] | None = None
    spec: ParamSpec | None = None
    uses: frozenset[Use] = frozenset()
    gain: float = 1.0
    corrections: tuple[Correction, ...] = ()
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    @property
    def kinds(self) -> Kinds | None:
        """The kind of each axis, if that is known."""
        if self.spec is not None:
            return tuple(axis.kind for axis in self.spec.axes)
        return self.placed[0].kinds if self.placed else None

    @property
    def stacked(self) -> tuple[int, ...]:
        """Positions of the axes that `scan` or `vmap` has added."""
        return self.placed[0].stacked if self.placed else ()

    def is_like(self, other: "Leaf") -> bool:
        """True if both may be one parameter at two sizes."""
        common = set(self.placed) & set(other.placed)
        return len(self.shape) == len(other.shape) and bool(
            common or not self.placed + other.placed
        )

    def agreeing(self, other: "Leaf") -> "Leaf":
        """This leaf with those answers that are also the other's."""
        common = tuple(placed for placed in self.placed if placed in other.placed)
        return dataclasses.replace(self, placed=common)

    def without_type(self) -> "Leaf":
        """This leaf without what the type of its layer says."""
        return dataclasses.replace(self, placed=(), uses=frozenset())

    def with_read(self, read: Reading) -> "Leaf":
        """This leaf with what the program says of it, but for axes that a rule has given."""
        kinds = self.placed
        known: Kinds = tuple(kind for kind in read.kinds if kind is not None)
        if not kinds and self.spec is None and len(known) == len(self.shape):
            kinds = (Placed(known, ()),)
        return dataclasses.replace(
            self,
            placed=kinds,
            gain=read.gain.ratio(1),
            corrections=read.corrections,
            findings=read.findings,
            reason=read.reason,
        )

    def with_fixed_axes(self, base: "Leaf", delta: "Leaf") -> "Leaf":
        """This leaf, with batch axes if it is the same at all sizes and nothing else is known."""
        if self.kinds is not None or not self.shape == base.shape == delta.shape:
            return self
        return dataclasses.replace(self, placed=(Placed(("batch",) * len(self.shape), ()),))

    def with_kinds(self, kinds: Kinds | None, own_shape: tuple[int, ...] | None = None) -> "Leaf":
        """This leaf, where `kinds` are those of the axes that its layer made.

        The others are batch axes that `scan` or `vmap` has added: in front, or where `own_shape`,
        the shape that the layer made, is found without them.
        """
        added = -1 if kinds is None else len(self.shape) - len(kinds)
        if kinds is None or added < 0:
            return self
        every = itertools.combinations(range(len(self.shape)), added)
        if own_shape is None:
            every = itertools.islice(every, 1)
        placed = []
        for stacked in every:
            own = [i for i in range(len(self.shape)) if i not in stacked]
            if own_shape in (None, tuple(self.shape[i] for i in own)):
                by_position: dict[int, AxisKind] = dict(zip(own, kinds, strict=True))
                axes: Kinds = tuple(by_position.get(i, "batch") for i in range(len(self.shape)))
                placed.append(Placed(axes, stacked))
        return dataclasses.replace(self, placed=tuple(placed))
