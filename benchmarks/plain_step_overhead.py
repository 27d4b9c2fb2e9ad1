"""Claim: muP through `infer` takes at most 1.02 times the training step of the plain script.

The model of both sides is the same plain Flax MLP with 3 hidden layers, on batches of 128, at
widths 256 and 1024. One side starts from `rescale` over a base of 64 and trains with
`jaxmup.optim.adamw`, so that learning-rate factors are at work, the other with `optax.adamw`. Both
are jitted with donation and take turns in one process; the ratio is the median of the ratios of
neighbouring samples.
"""

from collections.abc import Callable

import jax
import optax
from _record import RESULTS
from _step import BASE_WIDTH, INPUTS, PlainMLP, report_widths, trainer
from flax import nnx

import jaxmup

CLAIM = 1.02
OUT = RESULTS / "plain_step_overhead.json"


def sides(width: int) -> dict[str, Callable[[int], None]]:
    """The two trainers by name."""
    rule = jaxmup.parametrization("mup", "adam", gauge="table3")
    sizes = {"base": BASE_WIDTH, "target": width}
    inputs = jax.ShapeDtypeStruct((1, INPUTS), "float32")
    specs = jaxmup.infer(PlainMLP, delta=2 * BASE_WIDTH, **sizes, inputs=inputs)
    model = jaxmup.rescale(PlainMLP, specs, rule, key=jax.random.key(0), **sizes)
    tx = jaxmup.optim.adamw(1e-3, jaxmup.resolve(specs, rule))
    return {
        "jaxmup": trainer(model, tx),
        "flax + optax": trainer(PlainMLP(width, nnx.Rngs(0)), optax.adamw(1e-3)),
    }


if __name__ == "__main__":
    report_widths(__doc__.splitlines()[0], sides, CLAIM, OUT)
