"""Claim: a training step with jaxmup takes at most 1.02 times that of plain Flax and optax.

An MLP with 3 hidden layers and batches of 128, at widths 256 and 1024 over a base of 64, so that
multipliers and learning-rate factors are at work. Both sides are jitted with donation and take
turns in one process; the ratio is the median of the ratios of neighbouring samples.
"""

from collections.abc import Callable

import optax
from _record import RESULTS
from _step import BASE_WIDTH, CLASSES, DEPTH, INPUTS, PlainMLP, report_widths, trainer
from flax import nnx

import jaxmup
from jaxmup.models import MLP

CLAIM = 1.02
OUT = RESULTS / "step_overhead.json"


def sides(width: int) -> dict[str, Callable[[int], None]]:
    """The two trainers by name."""
    sizes = {"width": width, "depth": DEPTH, "base_width": BASE_WIDTH}
    ours = MLP(INPUTS, CLASSES, **sizes, rngs=nnx.Rngs(0))
    rule = jaxmup.parametrization("mup", "adam")
    scalings = jaxmup.resolve(jaxmup.nnx.specs(ours), rule)
    return {
        "jaxmup": trainer(ours, jaxmup.optim.adam(1e-3, scalings)),
        "flax + optax": trainer(PlainMLP(width, nnx.Rngs(0)), optax.adam(1e-3)),
    }


if __name__ == "__main__":
    report_widths(__doc__.splitlines()[0], sides, CLAIM, OUT)
