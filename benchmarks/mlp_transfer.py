"""Claim: muP carries the learning rate of SGD and of AdamW from width 64 to 512 on the MLP.

On the digits: the best learning rate goes as width^β with β within ±0.1 under muP and below -0.5
under the standard parametrization, and width 512 at the best rate of width 64 ends within 1 % of
its own best loss. SGD has momentum 0.9, AdamW a decoupled weight decay of 0.1.
"""

import sys

from _transfer import measure, prepare

from jaxmup import transfer

SEEDS = tuple(range(8))
CONFIGS = {
    "sgd": transfer.Config(optimizer="sgd", seeds=SEEDS),
    "adamw": transfer.Config(optimizer="adamw", seeds=SEEDS, sweep={"weight_decay": (0.1,)}),
}


def main() -> int:
    """Measures both and returns the exit code."""
    trials = prepare(__doc__.splitlines()[0])
    held = [
        measure(f"mlp_transfer_{name}", config, trials and trials / name)
        for name, config in CONFIGS.items()
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
