"""Readouts without a kernel of their own: tied embeddings and attention logits."""

import functools
import math

from jaxmup._parametrization import Parametrization
from jaxmup._spec import Axis, ParamSpec


@functools.lru_cache  # it is asked for at every call, and hashing is cheaper than deriving
def tied_readout_ratio(spec: ParamSpec, parametrization: Parametrization) -> float:
    """The multiplier of an embedding as a readout over its multiplier as an embedding.

    One tensor has one initial scale, one learning rate and one eps, so the rule must give input and
    output weights the same. The ratio is physics: no gauge changes it.

    Args:
      spec: Spec of the embedding, whose last axis is its features.
      parametrization: Parametrization of the layer.

    Returns:
      `1 / r` for muP, with r the width ratio of the features; dimensionless.

    Raises:
      ValueError: if `parametrization` stores input and output weights differently.

    Example:
      >>> from jaxmup import parametrization
      >>> spec = ParamSpec((Axis("input", 50), Axis("output", 256, base=64)))
      >>> tied_readout_ratio(spec, parametrization("mup", gauge="table8"))
      0.25

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.1 and Tables 8, 9.
    """
    as_input, as_output = parametrization.row("input"), parametrization.row("output")
    for part in ("init_gain", "lr", "grad", "eps"):
        powers = getattr(as_input, part), getattr(as_output, part)
        exponents = powers[0].exponent("input"), powers[1].exponent("output")
        if exponents[0] != exponents[1]:
            raise ValueError(
                "A tied embedding is one tensor, so the parametrization must store input and "
                f"output weights alike. {parametrization} gives `{part}` the width exponents "
                f"{exponents[0]:g} and {exponents[1]:g}. Use the gauge 'table8' or 'table9'."
            )
    sigma = 1.0 if spec.init_std is None else spec.init_std
    r = spec.axes[-1].ratio
    return as_output.multiplier.at(r, 1.0, sigma) / as_input.multiplier.at(1.0, r, sigma)


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
