"""A model of any size with the answer that `infer` should give, typed by hand."""

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """The answer for the parameters of one pattern; `None` in the place of what is left open.

    Args:
      pattern: Pattern of names.
      axes: What each axis does, with a `*` behind it if it grows: `in`, `out` or `batch`; `-` for
        one of a fixed size over which nothing is summed, whether output or batch.
      r_in: Growth of the input axes at the target.
      r_out: Growth of the output axes at the target.
      gain: Forward gain at the target.
    """

    pattern: str
    axes: tuple[str, ...]
    r_in: float | None
    r_out: float | None
    gain: float | None


class Case(NamedTuple):
    """A model and what `infer` should say of it.

    Args:
      make_model: Factory of the model.
      answer: Table of rows `pattern  axes  r_in  r_out  gain`, two or more spaces between columns;
        of several rows that match a name the first counts.
      base: Sizes of the base model.
      target: Sizes of the target, each grown by a prime of its own, so that no factor can stand for
        another.
      inputs: Arguments of a call, or a function of the sizes that returns them.
      apply: Function that calls the model.
      wrt: Parameters that train.
      products: Products of gains at the target, by the names whose gains are multiplied, where
        several parameters can carry one factor and theory does not say which.
      refused: Pattern of the error, if no parameter can carry what is missing.
      finding: Pattern of the warning, if one number is not right for all of a parameter.
      delta: Sizes between; twice those of the base model if left out.
      batch: Arguments of a call in training, where random ones do not suit the model.
    """

    make_model: Callable[..., Any]
    answer: str
    base: Mapping[str, int]
    target: Mapping[str, int]
    inputs: Any
    apply: Callable[..., Any] | None = None
    wrt: Any = None
    products: Mapping[str, str] = {}
    refused: str = ""
    finding: str = ""
    delta: Mapping[str, int] | None = None
    batch: Any = ()

    @property
    def rows(self) -> list[Row]:
        """The rows of the answer."""
        return [_row(line) for line in self.answer.strip().splitlines() if line.strip()]

    @property
    def sizes(self) -> dict[str, Mapping[str, int]]:
        """The three sizes of `infer`."""
        delta = self.delta or {name: 2 * size for name, size in self.base.items()}
        return {"base": self.base, "delta": delta, "target": self.target}


def number(words: str) -> float | None:
    """The number of `"7"`, `"2^-1/2"` or `"7^-1 2^1/2"`; `None` for `"?"`."""
    if words == "?":
        return None
    factors = (word.partition("^") for word in words.split())
    return math.prod(float(Fraction(n)) ** float(Fraction(p or "1")) for n, _, p in factors)


def at(file: str, marker: str) -> str:
    """Pattern of the place of the line of `file` that ends with the comment `# marker`."""
    lines = Path(file).read_text().splitlines()
    found = [i for i, line in enumerate(lines, 1) if line.endswith(f"# {marker}")]
    return re.escape(f"{Path(file).name}:{found[0]}")


def _row(line: str) -> Row:
    pattern, axes, *numbers = re.split(r"\s{2,}", line.strip())
    words = () if axes == "()" else tuple(axes.split())
    r_in, r_out, gain = map(number, numbers)
    return Row(pattern, words, r_in, r_out, gain)
