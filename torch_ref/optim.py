"""The Adam family, with every convention that implementations differ in as an argument."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from torch_ref import _check

Decay = Literal["coupled", "decoupled", "absolute"]


class Adam(Optimizer):
    """Adam; with `amsgrad`, AMSGrad.

    Step t = 1, 2, ... of a parameter w with gradient g, (b1, b2) = betas:

        m = b1 m + (1 - b1) g             c1 = 1 - b1^t
        v = b2 v + (1 - b2) g^2           c2 = 1 - b2^t
        u = v, or with amsgrad the running maximum of v

        optimized_update=False:  w = w - lr (m / c1) / (sqrt(u / c2) + eps)
        optimized_update=True:   w = w - lr (sqrt(c2) / c1) m / (sqrt(u) + eps)

    The two agree when the second has eps sqrt(c2) in place of eps. The first is the form of
    `torch.optim.Adam`. The maximum is taken over the raw v, before the correction, as in
    `torch.optim.Adam(amsgrad=True)`; the paper of AMSGrad has no correction.

    Weight decay, before the step: "coupled" adds weight_decay * w to g (L2), "decoupled"
    multiplies w by 1 - lr * weight_decay (AdamW), "absolute" by 1 - weight_decay.

    Every argument but `params` may differ by parameter group. The state has the names of
    `torch.optim.Adam`: step (an int), exp_avg, exp_avg_sq and, with amsgrad, max_exp_avg_sq.

    Args:
      params: parameters, or groups.
      lr: learning rate.
      betas: decay rates of the two moments, dimensionless.
      eps: in units of the gradient; see above for its place.
      optimized_update: whether eps stands beside the uncorrected root.
      weight_decay: see above; dimensionless with "absolute".
      decay: what `weight_decay` means.
      amsgrad: whether v is replaced by its running maximum.

    Raises:
      ValueError: if `lr`, `eps` or `weight_decay` is negative or not finite, a beta is outside
        [0, 1), or `decay` is unknown.

    Examples:
      >>> w = torch.nn.Parameter(torch.tensor([1.0]))
      >>> w.grad = torch.tensor([4.0])
      >>> Adam([w], lr=0.25, eps=4.0, optimized_update=False).step()
      >>> w.item()
      0.875

    References:
      Kingma and Ba, Adam, arXiv:1412.6980, Algorithm 1 (eps beside the corrected root) and the
      end of Section 2 (beside the uncorrected one). Reddi et al., On the Convergence of Adam and
      Beyond, arXiv:1904.09237, Algorithm 2. Loshchilov and Hutter, Decoupled Weight Decay
      Regularization, arXiv:1711.05101, Algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        *,
        optimized_update: bool = True,
        weight_decay: float = 0.0,
        decay: Decay = "coupled",
        amsgrad: bool = False,
    ) -> None:
        """Store the defaults of the groups."""
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "optimized_update": optimized_update,
            "weight_decay": weight_decay,
            "decay": decay,
            "amsgrad": amsgrad,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it lacks comes from the constructor.

        Raises:
          ValueError: if a hyper-parameter is out of range.
        """
        _check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Update every parameter that has a gradient.

        Args:
          closure: recomputes the gradients and returns the loss.

        Returns:
          What `closure` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, parameter.grad, self.state[parameter], group)
        return loss


class AMSGrad(Adam):
    """`Adam` with `amsgrad` on by default.

    Raises:
      ValueError: as `Adam`.

    Examples:
      >>> w = torch.nn.Parameter(torch.tensor([0.0]))
      >>> optimizer = AMSGrad([w], betas=(0.5, 0.5))
      >>> for g in (4.0, 0.0):
      ...     w.grad = torch.tensor([g])
      ...     optimizer.step()
      >>> state = optimizer.state[w]
      >>> state["exp_avg_sq"].item(), state["max_exp_avg_sq"].item()
      (4.0, 8.0)

    References:
      Reddi et al., On the Convergence of Adam and Beyond, arXiv:1904.09237, Algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        *,
        optimized_update: bool = True,
        weight_decay: float = 0.0,
        decay: Decay = "coupled",
        amsgrad: bool = True,
    ) -> None:
        """Store the defaults of the groups."""
        super().__init__(
            params,
            lr,
            betas,
            eps,
            optimized_update=optimized_update,
            weight_decay=weight_decay,
            decay=decay,
            amsgrad=amsgrad,
        )


def _check_group(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        _check.non_negative(name, group[name], "Zero switches it off.")
    for beta in group["betas"]:
        if not 0.0 <= beta < 1.0:
            raise ValueError(
                f"each of `betas` must lie in [0, 1). Got {group['betas']!r}. "
                "A moment forgets by the factor beta at each step."
            )
    _check.one_of("decay", group["decay"], ("coupled", "decoupled", "absolute"))


def _update(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = torch.zeros_like(parameter)
    state["step"] += 1
    grad = _decayed(parameter, grad, group)
    first, second = _moments(grad, state, group)
    parameter.sub_(_direction(first, second, state["step"], group))


def _decayed(parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
    rate = group["weight_decay"]
    if group["decay"] == "coupled":
        return grad + rate * parameter
    parameter.mul_(1 - (group["lr"] * rate if group["decay"] == "decoupled" else rate))
    return grad


def _moments(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    beta1, beta2 = group["betas"]
    first = state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
    second = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    if not group["amsgrad"]:
        return first, second
    maximum = state["max_exp_avg_sq"]
    return first, torch.maximum(maximum, second, out=maximum)


def _direction(first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    beta1, beta2 = group["betas"]
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    if group["optimized_update"]:
        rate = group["lr"] * math.sqrt(correction2) / correction1
        return rate * first / (second.sqrt() + group["eps"])
    return group["lr"] * (first / correction1) / ((second / correction2).sqrt() + group["eps"])
