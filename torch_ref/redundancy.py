"""A multiplier is redundant: weights, learning rate and eps can absorb it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from torch_ref import _check
from torch_ref.linear import ScaledLinear
from torch_ref.optim import Adam
from torch_ref.scale import ParameterScale


@dataclass(frozen=True)
class Absorption:
    """How a multiplier A moves into the hyper-parameters: lr * A^lr and eps * A^eps."""

    lr: int
    eps: int


# W = A w. SGD: w moves by lr dL/dw = lr A dL/dW, so W by lr A^2 dL/dW. Adam: w moves by lr times a
# ratio in which A cancels if eps is of the size A too, so W moves by lr A; eps is in units of
# dL/dw, which is A times dL/dW.
ABSORPTIONS: Mapping[str, Absorption] = MappingProxyType(
    {"sgd": Absorption(lr=2, eps=0), "adam": Absorption(lr=1, eps=-1)}
)


def redundancy_gap(
    optimizer: Literal["sgd", "adam"],
    multiplier: float,
    *,
    lr: float = 0.01,
    eps: float = 0.1,
    steps: int = 20,
    absorption: Absorption | None = None,
    seed: int = 0,
) -> float:
    """Train a layer with W = A w beside one with W = w that absorbed A; how far do they part?

    The first has A = multiplier, weights W0 / A, `lr` and `eps`. The second has no multiplier,
    weights W0, lr * A^p and eps * A^q with the powers (p, q) of `absorption`. Both do `steps`
    steps in float64 on the same regression problem. With the powers of `ABSORPTIONS` they differ
    by rounding only.

    Args:
      optimizer: "sgd" or "adam".
      multiplier: A, dimensionless.
      lr: learning rate of the layer with the multiplier.
      eps: of Adam, in units of the gradient; large by default so that a wrong power shows.
      steps: number of steps.
      absorption: other powers, to see the two layers part.
      seed: of weights and data.

    Returns:
      The largest difference of the two W after any step, over the largest entry of W.

    Raises:
      ValueError: if `optimizer` is unknown or `multiplier` not positive and finite.

    Examples:
      >>> redundancy_gap("adam", 4.0) < 1e-12
      True
      >>> redundancy_gap("adam", 4.0, absorption=Absorption(lr=2, eps=-1)) > 0.1
      True

    References:
      Yang et al., Tensor Programs V, arXiv:2203.03466, Lemma J.1 (for eps = 0).
    """
    _check.one_of("optimizer", optimizer, ABSORPTIONS)
    _check.positive("multiplier", multiplier, "It multiplies the weights in the forward pass.")
    powers = ABSORPTIONS[optimizer] if absorption is None else absorption
    scaled, absorbed = _layer(multiplier, seed), _layer(1.0, seed)
    data = torch.randn(32, 6 + 3, dtype=torch.float64, generator=_generator(seed + 1))
    scaled_optimizer = _optimizer(optimizer, scaled, lr, eps)
    absorbed_optimizer = _optimizer(
        optimizer, absorbed, lr * multiplier**powers.lr, eps * multiplier**powers.eps
    )
    gap = 0.0
    for _ in range(steps):
        one = _step(scaled, scaled_optimizer, data)
        other = _step(absorbed, absorbed_optimizer, data)
        gap = max(gap, float((one - other).abs().max() / one.abs().max()))
    return gap


def _layer(multiplier: float, seed: int) -> ScaledLinear:
    scale = ParameterScale(init_std=1.0 / multiplier, multiplier=multiplier)
    return ScaledLinear(6, 3, weight=scale, dtype=torch.float64, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _optimizer(name: str, layer: ScaledLinear, lr: float, eps: float) -> Optimizer:
    if name == "sgd":
        return SGD(layer.parameters(), lr=lr)
    return Adam(layer.parameters(), lr=lr, eps=eps)


def _step(layer: ScaledLinear, optimizer: Optimizer, data: Tensor) -> Tensor:
    inputs, targets = data.split([6, 3], dim=1)
    optimizer.zero_grad()
    (layer(inputs).tanh() - targets).square().mean().backward()
    optimizer.step()
    return layer.effective_weight().detach()
