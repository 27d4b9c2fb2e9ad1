"""The numbers that scale one parameter, and how a row of exponents gives them at a width."""

import math
from dataclasses import dataclass

from torch_ref import _check
from torch_ref.tables import Exponents


@dataclass(frozen=True)
class ParameterScale:
    """The resolved numbers of one parameter; any gauge of any table can be written with them.

    W = multiplier * w, std(w) = init_std, the gradient of w is multiplied by grad and its
    learning rate by lr (see `param_groups`).

    Args:
      init_std: a standard deviation (not a variance), in units of w; 0 starts at zero.
      multiplier: dimensionless.
      grad: dimensionless.
      lr: dimensionless.

    Raises:
      ValueError: if `init_std` is negative or not finite, or another number not positive and
        finite.

    Examples:
      >>> ParameterScale(init_std=0.02, multiplier=0.5)
      ParameterScale(init_std=0.02, multiplier=0.5, grad=1.0, lr=1.0)

    References:
      Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814, Def. 2.2.1.
    """

    init_std: float
    multiplier: float = 1.0
    grad: float = 1.0
    lr: float = 1.0

    def __post_init__(self) -> None:
        """Check the four numbers."""
        _check.non_negative("init_std", self.init_std, "It is a standard deviation.")
        for name in ("multiplier", "grad", "lr"):
            _check.positive(name, getattr(self, name), "It is a factor; 1.0 changes nothing.")


def width_scale(
    row: Exponents, *, width: float, base_width: float, init_std: float, lr_scale: float = 1.0
) -> ParameterScale:
    """Resolve a row of exponents at a width.

    With n = width, n0 = base_width, sigma = init_std, alpha = lr_scale:
    multiplier = sqrt(alpha) (n0/n)^a, init_std = sigma (n0/n)^b / sqrt(alpha), lr = (n0/n)^c,
    grad = (n/n0)^d. All are exactly 1 (init_std is sigma) at base width and alpha = 1.

    alpha multiplies the effective learning rate of W under SGD; under Adam only sqrt(alpha)
    does, for the update of w does not see the multiplier.

    Raises:
      ValueError: if a width or `lr_scale` is not positive and finite, or `init_std` negative.

    Examples:
      >>> row = Exponents(a=1.0, b=-0.5, c=0.0, d=2.0)
      >>> width_scale(row, width=256, base_width=64, init_std=0.125)
      ParameterScale(init_std=0.25, multiplier=0.25, grad=16.0, lr=1.0)

    References:
      Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814, Def. 2.2.1.
    """
    _check.positive("width", width, "It counts the features of the axis that grows.")
    _check.positive("base_width", base_width, "It is `width` in the model that was tuned.")
    _check.positive("lr_scale", lr_scale, "It is alpha; 1.0 keeps the global learning rate.")
    shrink = base_width / width
    return ParameterScale(
        init_std=init_std * shrink**row.b / math.sqrt(lr_scale),
        multiplier=math.sqrt(lr_scale) * shrink**row.a,
        grad=(width / base_width) ** row.d,
        lr=shrink**row.c,
    )
