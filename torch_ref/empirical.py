"""Scales that are measured, not derived: a wrapper with three numbers, and their tuning."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from torch_ref import _check
from torch_ref.gradient import scale_gradient


class EmpiricalScale(nn.Module):
    """y = s_y f(x), with gradients scaled on their way in and out.

    Backward: dL/dy is multiplied by s_gy as it comes in, the resulting dL/dx by s_gx as it goes
    out; the forward pass sees neither. The parameters of f thus get s_gy times, and the modules
    before it s_gx s_gy times, the true gradient. The weights of f are left as they are.

    The scales are scalar buffers, 1 at first, so a `state_dict` holds them; `tune` sets them.

    Args:
      module: f; any number of tensors in, one tensor out.

    Examples:
      >>> layer = EmpiricalScale(nn.Identity())
      >>> _ = layer.s_y.fill_(2.0), layer.s_gx.fill_(3.0), layer.s_gy.fill_(5.0)
      >>> x = torch.ones((), requires_grad=True)
      >>> y = layer(x)
      >>> y.backward()
      >>> y.item(), x.grad.item()
      (2.0, 30.0)
    """

    s_y: Tensor
    s_gx: Tensor
    s_gy: Tensor

    def __init__(self, module: nn.Module) -> None:
        """Wrap `module` with scales of 1, in the dtype of its parameters."""
        super().__init__()
        self.module = module
        dtype = next((p.dtype for p in module.parameters()), torch.get_default_dtype())
        for name in ("s_y", "s_gx", "s_gy"):
            self.register_buffer(name, torch.ones((), dtype=dtype))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply f and the scales."""
        y = self.module(*(scale_gradient(x, self.s_gx) for x in inputs))
        return scale_gradient(self.s_y * y, self.s_gy)


def tune(
    model: nn.Module,
    fresh_loss: Callable[[], Tensor],
    *,
    runs: int = 5,
    joint_runs: int = 20,
    update_size: float = 1e-5,
) -> None:
    """Set the scales of every `EmpiricalScale` in `model` from whole-model runs.

    1. First module to last, `runs` runs each: s_y /= sqrt(RMS(y)).
    2. Last module to first, `runs` runs each: s_gx /= sqrt(RMS(dL/dx)), dL/dx as it goes out.
    3. `joint_runs` runs, all modules in each: an update of the module's own parameters by
       -update_size times their gradients changes its output by D; with
       q = (RMS(D) / update_size)^(1/4), s_gx *= q and s_gy /= q, which keeps s_gx s_gy.

    Each root is damping: in runs on one batch, stages 1 and 2 halve the logarithm of an RMS each
    time, and stage 3 takes it to 3/4. A module that is called more than once counts with its
    largest RMS, as do several inputs. An RMS of zero (a layer that starts at zero, an input that
    needs no gradient) carries no information and leaves its scale as it is.

    Args:
      model: the model; only the scales change. All `.grad` are None afterwards.
      fresh_loss: draws a fresh batch (and, if the scales are to fit a distribution of weights
        and not these weights, fresh weights), runs the model, returns the scalar loss.
      runs: runs per module in stages 1 and 2.
      joint_runs: runs in stage 3.
      update_size: a learning rate, small enough for the change to be linear.

    Raises:
      ValueError: if the model has no `EmpiricalScale`, a run does not call one, an RMS is not
        finite, or `update_size` is not positive and finite.

    Examples:
      >>> layer = EmpiricalScale(nn.Identity())
      >>> tune(layer, lambda: layer(torch.full((3,), 2.0**32, requires_grad=True)).mean())
      >>> layer.s_y.item() == 2.0**-31
      True
    """
    _check.positive("update_size", update_size, "It is the learning rate of the trial update.")
    order = list(_observe(model, fresh_loss))
    for scale in order:
        for _ in range(runs):
            seen = _observe(model, fresh_loss)[scale]
            _divide(scale.s_y, _rms("activation", seen.outputs) ** 0.5)
    for scale in reversed(order):
        for _ in range(runs):
            seen = _observe(model, fresh_loss)[scale]
            _divide(scale.s_gx, _rms("gradient", seen.gradients) ** 0.5)
    for _ in range(joint_runs):
        for scale, seen in _observe(model, fresh_loss).items():
            change = _rms("change", _changes(scale, seen, update_size)) / update_size
            _balance(scale, change**0.25)
    model.zero_grad(set_to_none=True)


@dataclass
class _Seen:
    """What passed through one module in one run."""

    inputs: list[tuple[Tensor, ...]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


def _observe(model: nn.Module, fresh_loss: Callable[[], Tensor]) -> dict[EmpiricalScale, _Seen]:
    """Run the model forward and backward; what each module saw, in order of evaluation."""
    seen: dict[EmpiricalScale, _Seen] = {}
    scales = [module for module in model.modules() if isinstance(module, EmpiricalScale)]

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A view of each input: its gradient is this module's alone, even if others read the input.
        views = tuple(x.view_as(x) for x in inputs)
        record = seen.setdefault(module, _Seen())  # pyright: ignore[reportArgumentType]
        record.inputs.append(tuple(x.detach() for x in views))
        for view in views:
            if view.requires_grad:
                view.register_hook(record.gradients.append)
        return views

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module].outputs.append(output.detach())  # pyright: ignore[reportArgumentType]

    handles = [scale.register_forward_pre_hook(enter) for scale in scales]
    handles += [scale.register_forward_hook(leave) for scale in scales]
    try:
        model.zero_grad(set_to_none=True)
        fresh_loss().backward()
    finally:
        for handle in handles:
            handle.remove()
    if not seen or len(seen) < len(scales):
        raise ValueError(
            "a run must call every `EmpiricalScale` of the model, and there must be one. "
            f"Got {len(seen)} called of {len(scales)}. Wrap the layers to be tuned, and remove "
            "those that the loss does not use."
        )
    return seen


@torch.no_grad()
def _changes(scale: EmpiricalScale, seen: _Seen, update_size: float) -> Iterable[Tensor]:
    """The change of each output that the module's own update makes; parameters stay."""
    updated = {
        name: parameter - update_size * parameter.grad
        for name, parameter in scale.named_parameters()
        if parameter.grad is not None
    }
    return [
        functional_call(scale, updated, inputs) - output
        for inputs, output in zip(seen.inputs, seen.outputs, strict=True)
    ]


def _rms(what: str, tensors: Iterable[Tensor]) -> float:
    """The largest root mean square; 0.0 of none."""
    largest = max((float(t.square().mean().sqrt()) for t in tensors), default=0.0)
    _check.non_negative(f"RMS of the {what}", largest, "Start from smaller weights or inputs.")
    return largest


def _divide(scale: Tensor, factor: float) -> None:
    if factor > 0:
        scale.div_(factor)


def _balance(scale: EmpiricalScale, factor: float) -> None:
    if factor > 0:
        scale.s_gx.mul_(factor)
        scale.s_gy.div_(factor)
