"""A linear layer with constant multipliers, and its width rule: `MuLinear`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref import _check
from torch_ref.gradient import scale_gradient
from torch_ref.scale import ParameterScale, width_scale
from torch_ref.tables import TABLES, Layer, OptimizerName, exponents


class ScaledLinear(nn.Module):
    """Affine map y = x W^T + B with W = m_w w and B = m_b b, for any two `ParameterScale`.

    The parameters are `weight_unscaled`, w, of shape (out_features, in_features), and
    `bias_unscaled`, b, of shape (out_features,) or None. There is no attribute `weight`: W is
    computed, and writing into it would change nothing. The scales are constructor arguments, so
    a `state_dict` fits any `ScaledLinear` of the same shapes, whatever its scales.

    Args:
      in_features: size of the last axis of the input.
      out_features: size of the last axis of the output.
      weight: scale of the weight.
      bias: scale of the bias; None leaves the bias out.
      dtype: of the parameters; None is torch's default.
      generator: source of the initial weights; None is torch's global one.

    Raises:
      ValueError: if a feature count is not positive.

    Examples:
      >>> layer = ScaledLinear(2, 1, weight=ParameterScale(init_std=0.0, multiplier=3.0))
      >>> _ = nn.init.ones_(layer.weight_unscaled)
      >>> layer(torch.ones(1, 2)).item()
      6.0
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        weight: ParameterScale,
        bias: ParameterScale | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Allocate and draw the parameters."""
        super().__init__()
        _check.positive("in_features", in_features, "Pass the size of the input's last axis.")
        _check.positive("out_features", out_features, "Pass the size of the output's last axis.")
        self.in_features = in_features
        self.out_features = out_features
        self.weight_scale = weight
        self.bias_scale = bias
        self.weight_unscaled = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype))
        self.bias_unscaled = (
            None if bias is None else nn.Parameter(torch.empty(out_features, dtype=dtype))
        )
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw w ~ N(0, init_std^2), then b likewise."""
        for _, parameter, scale in self.scaled_parameters():
            nn.init.normal_(parameter, std=scale.init_std, generator=generator)

    def scaled_parameters(self) -> list[tuple[str, nn.Parameter, ParameterScale]]:
        """Name, stored parameter and scale; weight first."""
        found = [("weight_unscaled", self.weight_unscaled, self.weight_scale)]
        if self.bias_unscaled is not None and self.bias_scale is not None:
            found.append(("bias_unscaled", self.bias_unscaled, self.bias_scale))
        return found

    def effective_weight(self) -> Tensor:
        """W of shape (out_features, in_features)."""
        return _effective(self.weight_unscaled, self.weight_scale)

    def effective_bias(self) -> Tensor | None:
        """B of shape (out_features,), or None."""
        if self.bias_unscaled is None or self.bias_scale is None:
            return None
        return _effective(self.bias_unscaled, self.bias_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(x, self.effective_weight(), self.effective_bias())

    def extra_repr(self) -> str:
        """Shapes and scales, for `repr`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"weight={self.weight_scale}, bias={self.bias_scale}"
        )


class MuLinear(ScaledLinear):
    """`ScaledLinear` whose scales follow the width by the table of `optimizer`.

    The width n of a weight is out_features for an input layer, in_features for a hidden or an
    output layer. Biases use the input row with n = out_features; the bias of an output layer does
    not grow, so its n is base_width. `lr_scale`, alpha, applies to weight and bias alike.

    Args:
      in_features: size of the last axis of the input.
      out_features: size of the last axis of the output.
      layer: which axes grow: "input" the output axis, "hidden" both, "output" the input axis.
      optimizer: which table: "sgd", or "adam", "adamw", "amsgrad" (one table).
      base_width: n0, the width at which the hyper-parameters were tuned.
      width: n, in place of the feature counts above (not for the bias of an output layer).
      lr_scale: alpha; see `width_scale`.
      weight_init_std: sigma of W at base width, a standard deviation.
      bias_init_std: sigma of B at base width; 0 starts at zero.
      bias: whether there is a bias.
      dtype: of the parameters; None is torch's default.
      generator: source of the initial weights; None is torch's global one.

    Raises:
      ValueError: if `layer` or `optimizer` is unknown, a width, `lr_scale` or `weight_init_std` is
        not positive and finite, or `bias_init_std` is negative.

    Examples:
      >>> layer = MuLinear(256, 256, layer="hidden", optimizer="adam", base_width=64)
      >>> layer.weight_scale
      ParameterScale(init_std=2.0, multiplier=0.25, grad=16.0, lr=1.0)
      >>> layer.bias_scale
      ParameterScale(init_std=0.0, multiplier=1.0, grad=4.0, lr=1.0)

    References:
      Yang et al., Tensor Programs V, arXiv:2203.03466, Table 9 (SGD); Yang and Littwin, Tensor
      Programs IVb, arXiv:2308.01814, Def. 2.5.1 and Prop. 2.2.3 (Adam).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        layer: Layer,
        optimizer: OptimizerName,
        base_width: int,
        width: int | None = None,
        lr_scale: float = 1.0,
        weight_init_std: float = 1.0,
        bias_init_std: float = 0.0,
        bias: bool = True,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Resolve the two scales, then build the layer."""
        weight_row = exponents(layer, optimizer)
        _check.positive(
            "weight_init_std", weight_init_std, "To start at zero, zero `weight_unscaled`."
        )
        fan = out_features if layer == "input" else in_features
        grown = out_features if width is None else width
        weight_scale = width_scale(
            weight_row,
            width=fan if width is None else width,
            base_width=base_width,
            init_std=weight_init_std,
            lr_scale=lr_scale,
        )
        bias_scale = width_scale(
            TABLES[optimizer].input,
            width=base_width if layer == "output" else grown,
            base_width=base_width,
            init_std=bias_init_std,
            lr_scale=lr_scale,
        )
        super().__init__(
            in_features,
            out_features,
            weight=weight_scale,
            bias=bias_scale if bias else None,
            dtype=dtype,
            generator=generator,
        )


def param_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """One optimizer group a parameter, with learning rate lr * scale.lr.

    Needed only where some `ParameterScale.lr` is not 1; parameters of other modules get `lr`.

    Raises:
      ValueError: if `lr` is not positive and finite.

    Examples:
      >>> layer = ScaledLinear(2, 1, weight=ParameterScale(init_std=1.0, lr=0.25))
      >>> [group["lr"] for group in param_groups(layer, lr=0.5)]
      [0.125]
    """
    _check.positive("lr", lr, "It is the learning rate at base width.")
    factor = {
        parameter: scale.lr
        for module in model.modules()
        if isinstance(module, ScaledLinear)
        for _, parameter, scale in module.scaled_parameters()
    }
    return [{"params": [p], "lr": lr * factor.get(p, 1.0)} for p in model.parameters()]


def _effective(stored: Tensor, scale: ParameterScale) -> Tensor:
    return scale.multiplier * scale_gradient(stored, scale.grad)
