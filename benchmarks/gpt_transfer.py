"""Claim: muP carries the learning rate of a GPT from width 64 to 512; the standard one does not.

On the text of Python's standard library: the best learning rate goes as width^β with β within ±0.1
under muP and below -0.5 under the standard parametrization, and width 512 at the best rate of width
64 ends within 1 % of its own best loss. Two CPU cores take less than 30 minutes.

Adam has β2 = 0.95, as language models are trained. Its default of 0.999 averages over more steps
than the 100 of a run; with that, muP's β was -0.11.
"""

import sys

from _transfer import measure, prepare

from jaxmup import transfer

CONFIG = transfer.Config(
    model="gpt",
    widths=(64, 128, 256, 512),
    learning_rates=transfer.log2_grid(-10.5, -5, 0.5),
    seeds=(0, 1, 2),
    depth=2,
    batch_size=16,
    context=32,
    steps=100,
    warmup=10,
    optimizer="adam",
    sweep={"b2": (0.95,)},
)


if __name__ == "__main__":
    sys.exit(not measure("gpt_transfer", CONFIG, prepare(__doc__.splitlines()[0])))
