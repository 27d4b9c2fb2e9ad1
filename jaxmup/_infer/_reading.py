"""One parameter, as the program of its model shows it."""

import dataclasses
from collections.abc import Sequence

from jaxmup._correction import Correction
from jaxmup._finding import Finding
from jaxmup._infer._growth import Growth
from jaxmup._infer._views import Use
from jaxmup._spec import AxisKind


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that a program says of one parameter.

    Args:
      kinds: Kind of each axis; `None` for one of which the program says nothing.
      gain: Forward gain of the parameter, as a growth.
      uses: Uses of the parameter, with their lines.
      carries: Words on the factors that its gain makes up for.
      corrections: Factors that are missing beside it and that no parameter can carry.
      findings: What the program shows to be wrong with it.
    """

    kinds: tuple[AxisKind | None, ...]
    gain: Growth
    uses: Sequence[Use]
    carries: str = ""
    corrections: tuple[Correction, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def reason(self) -> str:
        """The uses in words, such as *looked up at model.py:115, multiplied at model.py:119*."""
        lines = list(dict.fromkeys(map(str, self.uses)))
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        return ", ".join(lines[:3]) + more + self.carries
