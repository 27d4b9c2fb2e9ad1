"""The convex problem on which Adam ends at the worst point and AMSGrad at the best."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_ref import _check
from torch_ref.optim import Adam

LR = 1e-2
BETAS = (0.9, 0.99)
EPS = 1e-16
OPTIMUM = -1.0


@dataclass(frozen=True)
class Trajectory:
    """What `run` recorded; three arrays of one length.

    Args:
      step: int64, the number of the step, counted from 1.
      x: float64, seen by that step, before its update.
      average_regret: float64, the mean of f_t(x_t) - f_t(-1) up to and with that step.
    """

    step: npt.NDArray[np.int64]
    x: npt.NDArray[np.float64]
    average_regret: npt.NDArray[np.float64]


def objective(t: int, x: Tensor) -> Tensor:
    """f_t(x) = 1010 x if t mod 101 = 1, else -10 x.

    The sum over 101 steps is 10 x, so -1 is the best fixed point of [-1, 1].

    Examples:
      >>> x = torch.tensor(0.5)
      >>> [objective(t, x).item() for t in (0, 1, 2, 102)]
      [-5.0, 505.0, -5.0, 505.0]

    References:
      Reddi et al., On the Convergence of Adam and Beyond, arXiv:1904.09237, Section 5.
    """
    return 1010.0 * x if t % 101 == 1 else -10.0 * x


def run(
    optimizer: Literal["adam", "amsgrad"], steps: int, *, record_every: int = 1000
) -> Trajectory:
    """Follow x for `steps` steps of eager PyTorch in float64, from x = 0 and t = 0.

    After each step x is projected onto [-1, 1]. lr 1e-2, betas (0.9, 0.99), eps 1e-16 beside the
    uncorrected root.

    Args:
      optimizer: "adam" or "amsgrad".
      steps: number of steps; some 100 microseconds each.
      record_every: record steps record_every, 2 record_every, ...

    Raises:
      ValueError: if `optimizer` is unknown, or a count not positive.

    Examples:
      >>> run("amsgrad", 4, record_every=2).step
      array([2, 4])

    References:
      Reddi et al., On the Convergence of Adam and Beyond, arXiv:1904.09237, Section 5.
    """
    _check.one_of("optimizer", optimizer, ("adam", "amsgrad"))
    _check.positive("steps", steps, "It counts optimizer steps.")
    _check.positive("record_every", record_every, "It counts optimizer steps.")
    x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    best = torch.tensor(OPTIMUM, dtype=torch.float64)
    stepper = Adam([x], lr=LR, betas=BETAS, eps=EPS, amsgrad=optimizer == "amsgrad")
    regret, rows = 0.0, []
    for t in range(steps):
        loss = objective(t, x)
        regret += (loss.detach() - objective(t, best)).item()
        if (t + 1) % record_every == 0:
            rows.append((t + 1, x.item(), regret / (t + 1)))
        loss.backward()
        stepper.step()
        stepper.zero_grad()
        with torch.no_grad():
            x.clamp_(-1.0, 1.0)
    step, seen, average = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Trajectory(step.astype(np.int64), seen, average)
