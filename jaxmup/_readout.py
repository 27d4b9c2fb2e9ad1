"""Readouts without a kernel of their own: tied embeddings and attention logits."""

import functools
import math

from jaxmup._parametrization import Parametrization, Row
from jaxmup._power import Power
from jaxmup._spec import Axis, ParamSpec


@functools.lru_cache  # it is asked for at every call, and hashing is cheaper than deriving
def tied_readout_ratio(spec: ParamSpec, parametrization: Parametrization) -> float:
    r"""The multiplier of an embedding as a readout over its multiplier as an embedding.

    One tensor is stored and trained as an embedding. The ratio makes its steps those of an output
    weight too. A step of an effective weight, with k and j the degrees of the optimizer's family in
    gradient and weight, is

    .. math:: m^{1+k} \cdot lr \cdot unit \cdot grad^k \cdot init^j \cdot gradient^k,

    and the ratio is that of the numbers that the parametrization gives, over the multipliers of the
    two uses. It is physics: no gauge changes it. For muP, initial values agree too. `standard`
    applies the tensor as it is, which outgrows its output weights at initialization.

    Args:
      spec: Spec of the embedding, whose last axis is its features.
      parametrization: Parametrization of the layer.

    Returns:
      `1 / r` for muP, with r the width ratio of the features; 1 for `standard`; dimensionless.

    Raises:
      ValueError: if one eps cannot be right for both uses.

    Example:
      >>> from jaxmup import parametrization
      >>> spec = ParamSpec((Axis("input", 50), Axis("output", 256, base=64)))
      >>> tied_readout_ratio(spec, parametrization("mup", gauge="table8"))
      0.25

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.1 and Tables 8, 9.
    """
    as_input, as_output = parametrization.row("input"), parametrization.row("output")
    degree = 1.0 + as_output.family.gradient_degree
    exponent = (_step(as_output).exponent("output") - _step(as_input).exponent("input")) / degree
    _require_one_eps(parametrization, exponent)
    return spec.axes[-1].ratio ** exponent


def _step(row: Row) -> Power:
    """The step of an effective weight at a gradient of one."""
    k, j = row.family.gradient_degree, row.family.weight_degree
    multiplier = row.multiplier ** (1.0 + k)
    return multiplier * row.lr * row.family.unit * row.grad**k * row.init_gain**j


def _require_one_eps(parametrization: Parametrization, exponent: float) -> None:
    as_input, as_output = parametrization.row("input"), parametrization.row("output")
    # What eps stands beside is proportional to the multiplier of the use.
    moved = (
        exponent + as_input.multiplier.exponent("input") - as_output.multiplier.exponent("output")
    )
    exponents = (
        (as_input.eps / as_input.grad).exponent("input"),
        (as_output.eps / as_output.grad).exponent("output") + moved,
    )
    if as_input.family.eps is not None and not math.isclose(*exponents, abs_tol=1e-9):
        raise ValueError(
            "A tied embedding is one tensor, so one eps must be right for its gradients as an "
            f"embedding and as a readout. {parametrization} asks for the width exponents "
            f"{exponents[0]:g} and {exponents[1]:g}. Use 'mup', 'standard' or 'ntk', or a readout "
            "of its own."
        )


@functools.lru_cache
def logits_factor(head: Axis, parametrization: Parametrization) -> float:
    """Factor on attention logits `q · k / √d`, for heads of size d grown from d0; dimensionless.

    Queries and keys align in training, so their product is a readout: it needs what the
    parametrization gives an output weight beyond `r^-1/2`. For muP that is `√(d0 / d)`, which makes
    the logits `√d0 · q · k / d`; at base size they are `q · k / √d`.

    Args:
      head: Axis of one head.
      parametrization: Parametrization of the layer.

    Example:
      >>> from jaxmup import parametrization
      >>> logits_factor(Axis("output", 64, base=16), parametrization("mup"))
      0.5

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Definition 4.1 and Appendix E.2.
    """
    row, r = parametrization.row("output"), head.ratio
    return row.multiplier.at(r, 1.0) * row.init_gain.at(r, 1.0) * math.sqrt(r)
