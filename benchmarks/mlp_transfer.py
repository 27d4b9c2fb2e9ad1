"""Claim: muP carries the learning rate of SGD and of AdamW from width 64 to 512 on the MLP.

On the digits: the best learning rate goes as width^β with β within ±0.1 under muP and below -0.5
under the standard parametrization, and width 512 at the best rate of width 64 ends within 1 % of
its own best loss. SGD has momentum 0.9, AdamW a decoupled weight decay of 0.1.

SGD minimizes the squared error. Its best rate is then just below where training diverges, which
falls as width^-1 under the standard parametrization. The cross-entropy bends down for large logits
and so lets rates above that point train; with it, standard SGD has its optimum at β of about -0.4
or, in short runs, wherever the flat bottom is lowest.
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
from _transfer import measure, prepare

from jaxmup import transfer

SEEDS = tuple(range(8))
SGD = transfer.Config(
    optimizer="sgd", steps=30, seeds=SEEDS, learning_rates=transfer.log2_grid(-9, -1, 0.5)
)
ADAMW = transfer.Config(optimizer="adamw", seeds=SEEDS, sweep={"weight_decay": (0.1,)})


def squared_error(model: Any, batch: Any) -> jax.Array:
    """Half the squared distance of the outputs from the labels as unit vectors."""
    inputs, labels = batch
    outputs = model(inputs)
    errors = outputs - jax.nn.one_hot(labels, outputs.shape[-1])
    return jnp.square(errors).sum(-1).mean() / 2


def main() -> int:
    """Measures both and returns the exit code."""
    trials = prepare(__doc__.splitlines()[0])
    squared = dataclasses.replace(transfer.task_of(SGD), loss_fn=squared_error)
    held = [
        measure(f"mlp_transfer_{name}", config, trials and trials / name, task)
        for name, config, task in (("sgd", SGD, squared), ("adamw", ADAMW, None))
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
