"""Factors that a program lacks and that are inserted where no parameter can carry them."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of the user's code.

    Args:
      file: File with its folder.
      line: Number of the line, from 1.
      function: Qualified name of the function that it is in.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """The file without its folder, and the line, such as *model.py:115*."""
        return f"{pathlib.PurePath(self.file).name}:{self.line}"


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """A value of a program, told so that it is found in its programs of other sizes and inputs.

    Args:
      op: Name of the primitive that makes it.
      output: Position among the results of the primitive.
      operands: What the primitive reads: the names of the parameters that an operand is made of,
        with `*` for their numbers; `"..."` for what follows from inputs; `""` for a constant.
      lines: Lines of the user's code, the innermost first, with as many of the callers as it takes
        to tell the value from others.
      number: Number of values of which all this is true, if some of them are none of this site.
      which: Positions of this site's values among them; all of them if there are none.
    """

    op: str
    output: int
    operands: tuple[str, ...]
    lines: tuple[SourceLine, ...]
    number: int = 0
    which: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The primitive and its line, such as *`dot_general` at model.py:115*."""
        return f"`{self.op}` at {self.lines[0] if self.lines else 'an unknown line'}"


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    """A factor that muP asks for in a program and that no parameter can carry.

    `jaxmup.corrected` inserts it.

    Args:
      site: Value that is multiplied.
      factor: Factor on the value, exactly 1.0 in the base model; dimensionless.
      words: The factor as a power of a size, such as `"(64/1024)^1/2"`.

    Example:
      >>> line = SourceLine("project/model.py", 115, "apply")
      >>> site = Site("dot_general", 0, ("...", "embed"), (line,))
      >>> print(Correction(site, 0.25, "(64/256)^1"))
      (64/256)^1 on `dot_general` at model.py:115
    """

    site: Site
    factor: float
    words: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        """Factor and site, in words."""
        return f"{self.words or f'{self.factor:.4g}'} on {self.site}"
