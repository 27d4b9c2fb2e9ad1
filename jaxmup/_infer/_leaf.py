"""One parameter, with what the model, the user and the program say of it."""

import dataclasses
import math

from jaxmup._infer._reading import Reading
from jaxmup._spec import AxisKind, ParamSpec

Kinds = tuple[AxisKind, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter of an abstract model.

    Args:
      shape: Shape of the parameter.
      names: Axis names that the user has put on it, as Flax's partitioning metadata.
      spec: Spec that a jaxmup layer declares.
      known: Kind of each axis, as the user has given it or the program shows it.
      gain: Forward gain that the program asks for.
      reason: Uses of the parameter in the program, in words.
    """

    shape: tuple[int, ...]
    names: tuple[str | None, ...] | None = None
    spec: ParamSpec | None = None
    known: Kinds | None = None
    gain: float = 1.0
    reason: str = ""

    @property
    def kinds(self) -> Kinds | None:
        """The kind of each axis; `None` if that is not known."""
        return self.known if self.spec is None else tuple(axis.kind for axis in self.spec.axes)

    def with_read(self, read: Reading) -> "Leaf":
        """This leaf with what the program says of it, but for axes that the user has given."""
        found: Kinds = tuple(kind for kind in read.kinds if kind is not None)
        known = self.known
        if known is None and len(found) == len(self.shape):
            known = found
        gain = math.exp(read.gain.log(1))
        return dataclasses.replace(self, known=known, gain=gain, reason=read.reason)
