"""The value that explains: a row for each parameter, at base and at target."""

import dataclasses
import json
from typing import Any

from jaxmup import _check, _scaling
from jaxmup._explain import _render
from jaxmup._explain._group import merge
from jaxmup._explain._row import ParameterRow, at_base
from jaxmup._parametrization import Parametrization
from jaxmup._spec import ParamSpec
from jaxmup._specs_of import specs_of
from jaxmup._tree import leaves_by_path, require_leaves, resolve


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """The table of `jaxmup.explain`; `str()` shows it as plain text, in full.

    Args:
      parametrization: Name of the parametrization, with its gauge and family.
      rows: Row of each parameter, in the order of the tree.
    """

    parametrization: str
    rows: tuple[ParameterRow, ...]

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """A table in plain text.

        Args:
          width: number of characters that a line may have; `None` for as many as it takes. A wider
            table gives each path a line of its own; if that is too wide too, it becomes a list.

        Raises:
          TypeError: if `width` is no integer.
          ValueError: if `width` is below 1.
        """
        if width is not None:
            _check.size("width", width, remedy="It is a number of characters.")
        table = _render.Table(self.rows)
        title = f"{self.parametrization}, base -> target"
        return "\n\n".join([title, table.text(width), table.legend(width)])

    def columns(self) -> list[_render.Column]:
        """Title and cells of each column of the whole table, for other renderers."""
        return _render.Table(self.rows).columns

    def markdown(self) -> str:
        """A table in GitHub's markdown, with the reason of each role below it."""
        table = _render.Table(self.rows)
        title = f"**{self.parametrization}**, base -> target"
        return "\n\n".join([title, table.markdown(), table.legend(width=None, bullet="- ")])

    def record(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, with nothing left out."""
        return {
            "format": 1,
            "parametrization": self.parametrization,
            "parameters": [row.record() for row in self.rows],
        }

    def json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(self.record(), allow_nan=False)

    def grouped(self) -> "Explanation":
        """The same, with one row for parameters whose paths differ in nothing but numbers.

        Only parameters of equal shape, role and scaling share a row.

        Example:
          >>> import jaxmup
          >>> spec = jaxmup.ParamSpec((jaxmup.Axis("output", 256, base=64),))
          >>> biases = {"layers": [{"bias": spec}, {"bias": spec}, {"bias": spec}]}
          >>> table = explain(biases, jaxmup.parametrization("mup", "adam"))
          >>> [row.path for row in table.grouped().rows]
          ['layers/{0..2}/bias']
        """
        merged = merge([(row.path, dataclasses.replace(row, path="")) for row in self.rows])
        rows = (
            dataclasses.replace(row, path=path, count=count * row.count)
            for path, row, count in merged
        )
        return dataclasses.replace(self, rows=tuple(rows))


def explain(
    specs: Any, parametrization: Parametrization, *, learning_rate: float | None = None
) -> Explanation:
    r"""Explains the numbers that a parametrization gives each parameter of a model.

    A row shows the parameter's axes with their sizes at base and target, its role with the reason,
    by how much its input and output axes have grown, and the numbers of its `Scaling`: the
    multiplier of `W = multiplier · w`, the initial standard deviation of `w`, and the factors on
    learning rate, gradient, eps and weight decay.

    Args:
      specs: A tree with a `ParamSpec` at each leaf, such as `jaxmup.nnx.specs` returns, or a model
        of jaxmup layers: an NNX module, or a `jaxmup.Model` at a size.
      parametrization: Parametrization, for the optimizer that will be used.
      learning_rate: Learning rate of the base model, for rows with the learning rate of each stored
        weight; `None` for rows with the factor on it.

    Returns:
      An `Explanation`: `str()` and `text(width)` to be read, `markdown()` and `json()` for other
      programs, `grouped()` for models of many layers.

    Raises:
      TypeError: if a leaf is no `ParamSpec`, or `parametrization` is no `Parametrization`.
      ValueError: if a layer applies another multiplier or initial scale than `parametrization` asks
        for, or `learning_rate` is not a finite positive number.

    Example:
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10))
      >>> specs = {"kernel": jaxmup.ParamSpec(axes, init_std=0.125)}
      >>> print(explain(specs, jaxmup.parametrization("mup", "sgd")))
      mup/table8 (sgd), base -> target
      <BLANKLINE>
      parameter  axes                role    r_in  r_out  multiplier  initial std  lr  weight decay
      kernel     in 64->256, out 10  output     4      1        0.25        0.125   4          0.25
      <BLANKLINE>
      output: input axes grow, output axes do not: output-like
      1 everywhere: gradient, eps

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B (roles), Tables 3, 8, 9.
    """
    if learning_rate is not None:
        remedy = "It is the base model's."
        _check.number("learning_rate", learning_rate, above=0, may_be_traced=False, remedy=remedy)
        learning_rate = _check.plain(learning_rate)
    specs = specs_of(specs)
    scalings = leaves_by_path(resolve(specs, parametrization))
    by_path = require_leaves("specs", specs, ParamSpec, "Use `jaxmup.nnx.specs`.")
    bases = {spec: _scaling.resolve(at_base(spec), parametrization) for spec in {*by_path.values()}}
    rows = (
        ParameterRow(
            path=path,
            spec=spec,
            base=bases[spec],
            target=scalings[path],
            learning_rate=None if learning_rate is None else learning_rate * scalings[path].lr,
        )
        for path, spec in by_path.items()
    )
    return Explanation(str(parametrization), tuple(rows))
