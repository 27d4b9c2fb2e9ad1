"""The identity whose backward pass multiplies the gradient by a constant."""

from typing import Any, cast

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grad_outputs[0], None


def scale_gradient(x: Tensor, factor: float | Tensor) -> Tensor:
    """Return `x`; its gradient arrives multiplied by `factor`.

    y = x in the forward pass, dL/dx = factor * dL/dy in the backward pass. The operation is part
    of the graph that each forward pass builds. A hook on the parameter would do the same until
    the parameter is replaced: `copy.deepcopy` and `torch.save` of a module drop hooks silently.

    Args:
      x: a tensor of any shape and dtype.
      factor: dimensionless; a number, or a scalar tensor (not differentiated).

    Returns:
      A view of `x`, of its shape and dtype.

    Examples:
      >>> x = torch.tensor([2.0, 3.0], requires_grad=True)
      >>> y = scale_gradient(x, 10.0)
      >>> y.tolist()
      [2.0, 3.0]
      >>> y.sum().backward()
      >>> x.grad.tolist()
      [10.0, 10.0]

    References:
      Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814, Def. 2.2.1 (the exponent d).
    """
    return cast(Tensor, _ScaleGradient.apply(x, factor))
