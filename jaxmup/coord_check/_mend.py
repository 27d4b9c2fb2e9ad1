"""The beginning of growth that should not be, and what to do about it."""

from collections.abc import Sequence

import jax
import optax

from jaxmup._finding import Finding
from jaxmup._lint import lint
from jaxmup.coord_check._subject import Subject
from jaxmup.coord_check._sums import Quantity
from jaxmup.coord_check._verdict import LEAST_MISTAKE, Verdict

# At initialization before learned, forward before backward: what grows later follows from it.
_ORDER: tuple[tuple[Quantity, ...], ...] = (
    ("activation", "logits"),
    ("activation_change", "logits_change"),
    ("weight",),
    ("update", "update_ratio", "weight_change"),
    ("gradient", "scaled_gradient"),
    ("decay", "decay_ratio"),
    ("eps",),
)
_MENDS: dict[Quantity, str] = {
    "activation": "multiply by {factor} there, or start its weights as much smaller",
    "logits": "multiply queries, keys or their product by {factor}",
    "activation_change": "multiply the learning rate of its weights by {factor}",
    "logits_change": "multiply queries, keys or their product by {factor}",
    "weight": "multiply its initial values by {factor}",
    "weight_change": "multiply its learning rate by {factor}",
    "update": "multiply its learning rate by {factor}",
    "update_ratio": "multiply its learning rate by {factor}",
    "gradient": "look for a factor {inverse} too much or too little between it and the loss",
    "scaled_gradient": "look for a factor {inverse} in `scale_gradients` or before the loss",
    "decay": "multiply its weight decay by {factor}",
    "decay_ratio": "multiply its weight decay by {factor}",
    "eps": "multiply eps by {inverse}, or the gradient by {factor}",
}


def beginning(failing: Sequence[Verdict]) -> Verdict | None:
    """The row where it begins, of those that fail; `None` if there are none.

    Args:
      failing: Rows that fail, in the order of the network.
    """
    for quantities in _ORDER:
        for one in failing:
            if one.quantity in quantities:
                return one
    return None


def mend_of(one: Verdict, over: str) -> str:
    """The mend of a row that fails, as half a sentence; empty where its slope says nothing.

    Args:
      one: Row that fails.
      over: Kind of size, `"width"` or `"depth"`.

    Example:
      >>> from jaxmup.coord_check import Expected, Slope
      >>> flat, slope = Expected.exactly(0.0), Slope(0.46, 0.05)
      >>> row = Verdict("logits", "attention/logits", None, 0, slope, flat, "fail", (1.0, 1.4))
      >>> mend_of(row, "width")
      'multiply queries, keys or their product by width^-0.5'
    """
    if one.slope is None:
        return ""
    nearest = min(max(one.slope.value, one.expected.low), one.expected.high)
    # Powers that are missing or too many are halves.
    excess = round((one.slope.value - nearest) / LEAST_MISTAKE) * LEAST_MISTAKE
    if not excess:
        return ""
    return _MENDS[one.quantity].format(factor=f"{over}^{-excess:g}", inverse=f"{over}^{excess:g}")


def findings_of(
    smallest: Subject, largest: Subject, tx: optax.GradientTransformation
) -> tuple[Finding, ...]:
    """The findings of `lint` in a model that fails, each with its mend.

    Args:
      smallest: Smallest model.
      largest: Largest model.
      tx: Transform that trains it.
    """
    params = jax.jit(largest.draw)(jax.random.key(0)).params
    found = (
        lint(
            largest.instance,
            largest.parametrization,
            tx=tx,
            params=params,
            base=smallest.instance,
        )
        if largest.declares
        else lint(largest.specs, largest.parametrization, tx=tx, params=params)
    )
    return tuple(one for one in found if one.check != "not-checked")
