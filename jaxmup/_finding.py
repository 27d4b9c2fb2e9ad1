"""Findings: mistakes that no error would have shown."""

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator
from typing import Literal

CheckName = Literal[
    "no-growth",
    "undeclared-axis",
    "readout",
    "base-mismatch",
    "axis-kinds",
    "shape-mismatch",
    "layer-mismatch",
    "scalings-mismatch",
    "not-floating",
    "not-finite",
    "not-floating",
    "not-finite",
    "initial-std",
    "family-mismatch",
    "learning-rate",
    "eps",
    "entry-clip",
    "weight-decay",
    "global-clip",
    "eps-dominates",
    "lost-updates",
    "optimizer-error",
    "not-checked",
    "missing-factor",
    "unclear-table",
    "uneven-parts",
    "unused-parameter",
    "rule-contradicted",
]

_SHOWN = 4  # paths that a text names


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A mistake that no error would have shown.

    Args:
      check: Name of the check that found it.
      what: Sentence on what is so.
      where: Names of the parameters concerned; empty for the whole model or chain.
      why: Sentence on why it matters.
      mend: Sentence on what to do.

    Example:
      >>> print(Finding("eps", "One eps for all.", ("kernel",), "Steps shrink.", "Scale it."))
      eps: One eps for all.
        where: kernel
        why:   Steps shrink.
        mend:  Scale it.
    """

    check: CheckName
    what: str
    where: tuple[str, ...]
    why: str
    mend: str

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """The finding in a few lines.

        Args:
          width: number of characters that a line may have; `None` for as many as it takes.
        """
        more = len(self.where) - _SHOWN
        where = ", ".join(self.where[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        labels = {"  where: ": where, "  why:   ": self.why, "  mend:  ": self.mend}
        lines = [(f"{self.check}: ", self.what), *labels.items()]
        shown = [f"{label}{line}" for label, line in lines if line]
        if width is not None:
            indent = " " * len("  where: ")
            shown = [textwrap.fill(line, width, subsequent_indent=indent) for line in shown]
        return "\n".join(shown)


def together(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings that differ in nothing but their paths, as one."""
    paths: dict[Finding, list[str]] = {}
    for finding in findings:
        paths.setdefault(dataclasses.replace(finding, where=()), []).extend(finding.where)
    for finding, where in paths.items():
        yield dataclasses.replace(finding, where=tuple(where))
