"""Findings on a model of jaxmup layers, whose specs need no inference: its programs are read."""

from jaxmup._finding import Finding
from jaxmup._infer._describe import describe
from jaxmup._infer._programs import multipliers_of, traced
from jaxmup._infer._read import Reader
from jaxmup._model import Instance


def findings_of(base: Instance, target: Instance) -> list[Finding]:
    """Mistakes that the programs of a model of jaxmup layers show at two sizes.

    Args:
      base: The base model, with inputs.
      target: The model, with inputs.

    Raises:
      ValueError: if the programs cannot be read, or differ in more than their sizes.
    """
    small, large = describe(base), describe(target)
    if list(small) != list(large):
        raise ValueError("`base` has other parameters, so its program is another one.")
    programs = traced((base, target, target))
    kinds = {name: leaf.kinds for name, leaf in large.items() if leaf.kinds is not None}
    multipliers = multipliers_of(small, large, large, {name: name for name in large})
    reader = Reader(programs, kinds, (), True, multipliers)
    return [finding for name in large for finding in reader.read(name).findings]
