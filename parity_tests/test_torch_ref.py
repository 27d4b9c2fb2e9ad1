"""The PyTorch reference on its own: against the papers, `torch.optim` and values typed by hand."""

import ast
import copy
import io
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torch_ref
from torch_ref import (
    ADAM,
    SGD,
    TABLES,
    Absorption,
    Adam,
    AMSGrad,
    EmpiricalScale,
    Exponents,
    MuLinear,
    ParameterScale,
    ScaledLinear,
    counterexample,
    exponents,
    param_groups,
    redundancy_gap,
    scale_gradient,
    three_layers,
    train_by_hook,
    train_by_layer,
    train_whole,
    tune,
    width_scale,
)

STEP_RTOL = 1e-12  # float64, one formula evaluated in two orders: a few hundred roundings
RUN_RTOL = 1e-11  # float64, the same after up to 100 steps
ADD_ATOL = 1e-14  # float64, where terms of order 1 cancel to something near 0
FLOAT32_RTOL = 1e-5  # a float32 gradient against the float64 one: some ten roundings of 6e-8
TYPED_RTOL = 1e-7  # typed by hand to seven digits or more
PRINTED_ATOL = 5e-5  # the source prints four decimals
TRIAL_RTOL = 1e-9  # a change of 1e-5 read off outputs of order 1: 1e-16 / 1e-5, over 20 runs
DISAGREE = 1e-3  # a wrong rule must miss by at least this, a hundred million times RUN_RTOL
BALANCED = (0.8, 1.25)  # RMS of a tuned network on fresh draws of 64 x 32 samples


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: more threads only wait for each other, 20 times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(actual: Tensor, expected: Tensor, rtol: float = STEP_RTOL) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=ADD_ATOL)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


# ------------------------------------------------------------------------------ independence


def test_reference_imports_only_torch_numpy_and_the_standard_library() -> None:
    files = sorted(Path(torch_ref.__file__).parent.glob("*.py"))
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "relative").split(".")[0])
    assert len(files) > 8
    assert names - set(sys.stdlib_module_names) == {"torch", "numpy", "torch_ref"}


# ------------------------------------------------------------------------------------- tables

# layer, optimizer, a, b, c, d
ROWS = [
    ("input", "sgd", -0.5, 0.5, 0, 0),
    ("hidden", "sgd", 0, 0.5, 0, 0),
    ("output", "sgd", 0.5, 0.5, 0, 0),
    ("input", "adam", 0, 0, 0, 1),
    ("hidden", "adam", 1, -0.5, 0, 2),
    ("output", "adam", 1, 0, 0, 1),
    ("hidden", "adamw", 1, -0.5, 0, 2),
    ("hidden", "amsgrad", 1, -0.5, 0, 2),
]


@pytest.mark.parametrize(("layer", "optimizer", "a", "b", "c", "d"), ROWS)
def test_exponents(layer: Any, optimizer: Any, a: float, b: float, c: float, d: float) -> None:
    assert exponents(layer, optimizer) == Exponents(a, b, c, d)


def test_tables_name_their_sources() -> None:
    assert set(TABLES) == {"sgd", "adam", "adamw", "amsgrad"}
    assert "arXiv:2203.03466, Table 9" in SGD.source
    assert "arXiv:2308.01814, Def. 2.5.1" in ADAM.source


# ------------------------------------------------------------------------------------- linear

# Base width 64, width 256 (n0/n = 1/4), alpha = 4, sigma = 1/8.
# layer, optimizer, in, out: weight (std, multiplier, grad), bias (std, multiplier, grad)
SCALES = [
    ("input", "sgd", 3, 256, (1 / 32, 4.0, 1.0), (1 / 32, 4.0, 1.0)),
    ("hidden", "sgd", 256, 256, (1 / 32, 2.0, 1.0), (1 / 32, 4.0, 1.0)),
    ("output", "sgd", 256, 3, (1 / 32, 1.0, 1.0), (1 / 16, 2.0, 1.0)),
    ("input", "adam", 3, 256, (1 / 16, 2.0, 4.0), (1 / 16, 2.0, 4.0)),
    ("hidden", "adam", 256, 256, (1 / 8, 0.5, 16.0), (1 / 16, 2.0, 4.0)),
    ("output", "adam", 256, 3, (1 / 16, 0.5, 4.0), (1 / 16, 2.0, 1.0)),
]


def mu_linear(layer: Any, optimizer: Any, fan_in: int, fan_out: int, **options: Any) -> MuLinear:
    defaults: dict[str, Any] = {"base_width": 64, "dtype": torch.float64, "generator": seeded(0)}
    return MuLinear(fan_in, fan_out, layer=layer, optimizer=optimizer, **(defaults | options))


@pytest.mark.parametrize(("layer", "optimizer", "fan_in", "fan_out", "weight", "bias"), SCALES)
def test_mu_linear_scales(
    layer: str,
    optimizer: str,
    fan_in: int,
    fan_out: int,
    weight: tuple[float, float, float],
    bias: tuple[float, float, float],
) -> None:
    module = mu_linear(
        layer, optimizer, fan_in, fan_out, lr_scale=4.0, weight_init_std=1 / 8, bias_init_std=1 / 8
    )
    assert module.weight_scale == ParameterScale(*weight)
    assert module.bias_scale == ParameterScale(*bias)


@pytest.mark.parametrize(("layer", "optimizer", "a", "b", "c", "d"), ROWS)
def test_base_width_is_the_standard_layer_bit_for_bit(
    layer: str, optimizer: str, a: float, b: float, c: float, d: float
) -> None:
    module = mu_linear(layer, optimizer, 64, 64, weight_init_std=0.3, bias_init_std=0.1)
    assert module.weight_scale == ParameterScale(init_std=0.3)
    assert module.bias_scale == ParameterScale(init_std=0.1)
    assert torch.equal(module.effective_weight(), module.weight_unscaled)


def test_width_replaces_the_feature_counts() -> None:
    module = mu_linear("hidden", "adam", 3, 5, base_width=2, width=4)
    assert module.weight_scale == width_scale(
        Exponents(1, -0.5, 0, 2), width=4, base_width=2, init_std=1.0
    )
    assert module.bias_scale == ParameterScale(init_std=0.0, grad=2.0)
    output = mu_linear("output", "adam", 3, 5, base_width=2, width=4)
    assert output.bias_scale == ParameterScale(init_std=0.0)


def test_learning_rate_exponent() -> None:
    scale = width_scale(Exponents(0, 0, 1, 0), width=12, base_width=3, init_std=1.0)
    assert scale == ParameterScale(init_std=1.0, lr=0.25)


@pytest.mark.parametrize(("layer", "optimizer", "fan_in", "fan_out", "weight", "bias"), SCALES)
def test_initial_weights_have_the_stated_standard_deviation(
    layer: str, optimizer: str, fan_in: int, fan_out: int, weight: tuple[float, ...], bias: object
) -> None:
    module = mu_linear(layer, optimizer, fan_in, fan_out, lr_scale=4.0, weight_init_std=1 / 8)
    w = module.weight_unscaled
    # Five standard errors of the standard deviation of w.numel() normal samples.
    assert abs(w.std().item() / weight[0] - 1) < 5 / math.sqrt(2 * w.numel())
    assert module.bias_unscaled is not None
    assert torch.count_nonzero(module.bias_unscaled) == 0


@pytest.mark.parametrize(("layer", "optimizer", "fan_in", "fan_out", "weight", "bias"), SCALES)
def test_forward_and_gradients_against_a_plain_layer(
    layer: str,
    optimizer: str,
    fan_in: int,
    fan_out: int,
    weight: tuple[float, float, float],
    bias: tuple[float, float, float],
) -> None:
    module = mu_linear(layer, optimizer, fan_in, fan_out, lr_scale=4.0, bias_init_std=1.0)
    assert module.bias_unscaled is not None
    plain = nn.Linear(fan_in, fan_out, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(weight[1] * module.weight_unscaled)
        plain.bias.copy_(bias[1] * module.bias_unscaled)
    x = randn(7, fan_in, seed=1)
    close(module(x), plain(x))
    module(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert plain.weight.grad is not None
    assert plain.bias.grad is not None
    assert module.weight_unscaled.grad is not None
    assert module.bias_unscaled.grad is not None
    close(module.weight_unscaled.grad, weight[1] * weight[2] * plain.weight.grad)
    close(module.bias_unscaled.grad, bias[1] * bias[2] * plain.bias.grad)


def by_deepcopy(module: MuLinear) -> nn.Module:
    return copy.deepcopy(module)


def by_torch_save(module: MuLinear) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def by_state_dict(module: MuLinear) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh = mu_linear("hidden", "adam", 256, 256, generator=seeded(9))
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh


def by_dtype(module: MuLinear) -> nn.Module:
    return copy.deepcopy(module).to(torch.float32)


def by_new_parameter(module: MuLinear) -> nn.Module:
    clone = copy.deepcopy(module)
    clone.weight_unscaled = nn.Parameter(module.weight_unscaled.detach().clone())
    return clone


@pytest.mark.parametrize(
    ("clone", "rtol"),
    [
        (by_deepcopy, STEP_RTOL),
        (by_torch_save, STEP_RTOL),
        (by_state_dict, STEP_RTOL),
        (by_dtype, FLOAT32_RTOL),
        (by_new_parameter, STEP_RTOL),
    ],
)
def test_gradient_scale_survives(clone: Callable[[MuLinear], nn.Module], rtol: float) -> None:
    module = mu_linear("hidden", "adam", 256, 256)
    other = clone(module)
    x = randn(4, 256, seed=1)
    for one in (module, other):
        parameter = one.get_parameter("weight_unscaled")
        one(x.to(parameter.dtype)).sum().backward()
    # W = w / 4, d = 2 at four times the base width: 16 / 4 times the sum of the inputs.
    expected = (4.0 * x.sum(dim=0)).expand(256, 256)
    for one, bound in ((module, STEP_RTOL), (other, rtol)):
        grad = one.get_parameter("weight_unscaled").grad
        assert grad is not None
        torch.testing.assert_close(grad.double(), expected, rtol=bound, atol=bound)
    assert [name for name, _ in other.named_parameters()] == ["weight_unscaled", "bias_unscaled"]


def test_gradients_accumulate_and_pass_higher_derivatives() -> None:
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        scale_gradient(x, 5.0).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 10.0
    (first,) = torch.autograd.grad(scale_gradient(x, 5.0).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    # d/dx of 5 * 3 y^2, where y passes its gradient 5 times: 5 * 5 * 6 x.
    assert (first.item(), second.item()) == (135.0, 450.0)


def test_computed_weight_cannot_be_mistaken_for_the_parameter() -> None:
    with pytest.raises(AttributeError):
        _ = mu_linear("hidden", "sgd", 4, 4).weight


def test_no_bias() -> None:
    module = mu_linear("input", "sgd", 4, 4, bias=False)
    assert module.effective_bias() is None
    assert [name for name, _ in module.named_parameters()] == ["weight_unscaled"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer": "readout"},
            r"`layer` must be one of 'input', 'hidden', 'output'. Got 'readout'",
        ),
        ({"optimizer": "lion"}, r"`optimizer` must be one of 'sgd', .* Got 'lion'"),
        ({"lr_scale": 0.0}, r"`lr_scale` must be positive and finite. Got 0.0. It is alpha"),
        ({"lr_scale": -1.0}, "`lr_scale` must be positive"),
        ({"lr_scale": NAN}, "`lr_scale` must be positive and finite. Got nan"),
        ({"weight_init_std": 0.0}, "`weight_init_std` must be positive"),
        ({"weight_init_std": NAN}, "`weight_init_std` must be positive"),
        ({"bias_init_std": -1.0}, "`init_std` must be non-negative"),
        ({"base_width": 0}, "`base_width` must be positive"),
        ({"base_width": math.inf}, "`base_width` must be positive"),
        ({"width": -4}, "`width` must be positive"),
        ({"width": NAN}, "`width` must be positive"),
    ],
)
def test_mu_linear_rejects(options: dict[str, Any], message: str) -> None:
    arguments = {"layer": "hidden", "optimizer": "adam", "base_width": 4} | options
    with pytest.raises(ValueError, match=message):
        MuLinear(8, 8, **arguments)


@pytest.mark.parametrize("field", ["multiplier", "grad", "lr"])
@pytest.mark.parametrize("value", [0.0, -1.0, NAN, math.inf])
def test_parameter_scale_rejects(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{field}` must be positive and finite"):
        ParameterScale(**{"init_std": 1.0, field: value})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_scaled_linear_rejects_empty_shapes(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="_features` must be positive"):
        ScaledLinear(*shape, weight=ParameterScale(init_std=1.0))


# One run in two gauges. Tensor Programs V, arXiv:2203.03466, Table 3 (no multiplier, lr per
# parameter) at r = n/n0 = 3 is written as factors of lr and, for Adam, of eps, in the order
# input W, b, hidden W, b, output W, b. eps goes as the gradient: 1/n but for the last layer.
TABLE_3 = {
    "sgd": ((3.0, 3.0, 1.0, 3.0, 1 / 3, 1.0), (1.0,) * 6),
    "adam": ((1.0, 1.0, 1 / 3, 1.0, 1 / 3, 1.0), (1 / 3, 1 / 3, 1 / 3, 1 / 3, 1.0, 1.0)),
}


def make_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(groups)
    return torch.optim.SGD([{k: v for k, v in g.items() if k != "eps"} for g in groups])


def regress(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x, target = randn(16, 5, seed=3), randn(16, 2, seed=4)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(x) - target).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_training_equals_tensor_programs_table_3(name: Any) -> None:
    options = {"optimizer": name, "base_width": 4, "weight_init_std": 0.5, "bias_init_std": 0.5}
    shapes: list[tuple[int, int, Any]] = [(5, 12, "input"), (12, 12, "hidden"), (12, 2, "output")]
    ours = [
        MuLinear(i, o, layer=kind, dtype=torch.float64, generator=seeded(i + o), **options)
        for i, o, kind in shapes
    ]
    theirs = [nn.Linear(i, o, dtype=torch.float64) for i, o, _ in shapes]
    for one, other in zip(ours, theirs, strict=True):
        bias = one.effective_bias()
        assert bias is not None
        with torch.no_grad():
            other.weight.copy_(one.effective_weight())
            other.bias.copy_(bias)
    ours_net = nn.Sequential(ours[0], nn.Tanh(), ours[1], nn.Tanh(), ours[2])
    theirs_net = nn.Sequential(theirs[0], nn.Tanh(), theirs[1], nn.Tanh(), theirs[2])
    lr, eps = 0.05, 0.01
    groups = [
        {"params": [p], "lr": lr * lr_factor, "eps": eps * eps_factor}
        for p, lr_factor, eps_factor in zip(theirs_net.parameters(), *TABLE_3[name], strict=True)
    ]
    regress(theirs_net, make_optimizer(name, groups), 20)
    whole = [{"params": list(ours_net.parameters()), "lr": lr, "eps": eps}]
    regress(ours_net, make_optimizer(name, whole), 20)
    for one, other in zip(ours, theirs, strict=True):
        close(one.effective_weight(), other.weight, RUN_RTOL)
        bias = one.effective_bias()
        assert bias is not None
        close(bias, other.bias, RUN_RTOL)


def test_param_groups_reach_every_parameter() -> None:
    scaled = ScaledLinear(
        2, 3, weight=ParameterScale(1.0, lr=0.5), bias=ParameterScale(0.0, lr=0.25)
    )
    network = nn.Sequential(scaled, nn.Linear(3, 1))
    groups = param_groups(network, lr=8.0)
    assert [group["lr"] for group in groups] == [4.0, 2.0, 8.0, 8.0]
    assert [g["params"][0] is p for g, p in zip(groups, network.parameters(), strict=True)] == [
        True
    ] * 4


# -------------------------------------------------------------------------------------- optim


def one_parameter(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=torch.float64))


def follow(optimizer: torch.optim.Optimizer, gradients: list[float]) -> float:
    """The parameter after one step for each gradient."""
    (parameter,) = optimizer.param_groups[0]["params"]
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return parameter.item()


def train(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: Tensor) -> None:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()


# lr 1, gradient 1, eps 0.3, betas (0.9, 0.999), from 0: -1 / (1 + 0.3) beside the corrected root;
# beside the uncorrected one sqrt(0.001) = 0.0316228, so -0.0316228 / (0.0316228 + 0.3). With
# 0.3 sqrt(0.001) as eps the second is the first; with 0.3 * 0.001 it would be -0.99060.
@pytest.mark.parametrize(
    ("optimized_update", "eps", "expected"),
    [
        (False, 0.3, -0.7692307692307692),
        (True, 0.3, -0.09535768),
        (True, 0.3 * 0.03162277660168379, -0.7692307692307692),
        (True, 0.0003, -0.99060232),
    ],
)
def test_place_of_eps(optimized_update: bool, eps: float, expected: float) -> None:
    optimizer = Adam([one_parameter(0.0)], lr=1.0, eps=eps, optimized_update=optimized_update)
    assert follow(optimizer, [1.0]) == pytest.approx(expected, rel=TYPED_RTOL)


# betas (1/2, 1/2), eps 0, lr 1, gradients 4, 0: m = 2, 1; v = 8, 4; both corrections 1/2, 3/4.
# Step 1 is -1. Step 2: (1 / .75) / sqrt(4 / .75) = 1/sqrt(3); with the maximum of the raw v
# (1 / .75) / sqrt(8 / .75) = 1/sqrt(6). The maximum of the corrected v, 16, would give 1/3.
@pytest.mark.parametrize("optimized_update", [False, True])
@pytest.mark.parametrize(
    ("amsgrad", "expected"), [(False, -1.5773502691896257), (True, -1.4082482904638631)]
)
def test_two_steps_by_hand(optimized_update: bool, amsgrad: bool, expected: float) -> None:
    options: dict[str, Any] = {"lr": 1.0, "betas": (0.5, 0.5), "eps": 0.0}
    for family in (Adam, AMSGrad):
        optimizer = family(
            [one_parameter(0.0)], **options, optimized_update=optimized_update, amsgrad=amsgrad
        )
        assert follow(optimizer, [4.0, 0.0]) == pytest.approx(expected, rel=STEP_RTOL)


def test_amsgrad_is_off_in_adam_and_on_in_amsgrad() -> None:
    for family, names in (
        (Adam, {"step", "exp_avg", "exp_avg_sq"}),
        (AMSGrad, {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    ):
        parameter = one_parameter(0.0)
        optimizer = family([parameter])
        follow(optimizer, [1.0])
        assert set(optimizer.state[parameter]) == names


# w = 2, gradient 1, lr 1/2, weight_decay 1/10, eps 0: the step itself is -1/2 in each case.
@pytest.mark.parametrize(
    ("decay", "expected", "first_moment"),
    [
        ("coupled", 2.0 - 0.5, 0.12),
        ("decoupled", 2.0 * 0.95 - 0.5, 0.1),
        ("absolute", 2.0 * 0.9 - 0.5, 0.1),
    ],
)
def test_weight_decay(decay: Any, expected: float, first_moment: float) -> None:
    parameter = one_parameter(2.0)
    optimizer = Adam([parameter], lr=0.5, eps=0.0, weight_decay=0.1, decay=decay)
    assert follow(optimizer, [1.0]) == pytest.approx(expected, rel=STEP_RTOL)
    moment = optimizer.state[parameter]["exp_avg"].item()
    assert moment == pytest.approx(first_moment, rel=STEP_RTOL)


TORCH_PEERS = [
    pytest.param(Adam, torch.optim.Adam, {}, {}, id="adam"),
    pytest.param(Adam, torch.optim.Adam, {"weight_decay": 0.1}, {}, id="adam-l2"),
    pytest.param(
        Adam, torch.optim.AdamW, {"weight_decay": 0.1}, {"decay": "decoupled"}, id="adamw"
    ),
    pytest.param(AMSGrad, torch.optim.Adam, {"amsgrad": True}, {}, id="amsgrad"),
    pytest.param(
        AMSGrad,
        torch.optim.AdamW,
        {"amsgrad": True, "weight_decay": 0.1},
        {"decay": "decoupled"},
        id="amsgrad-decoupled",
    ),
]


def cosine(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)


@pytest.mark.parametrize(("ours", "theirs", "shared", "own"), TORCH_PEERS)
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_hundred_steps_against_torch_optim(
    ours: Any, theirs: Any, shared: dict[str, Any], own: dict[str, Any], eps: float
) -> None:
    options: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.95), "eps": eps} | shared
    one, other = nn.Parameter(randn(6, 4, seed=5)), nn.Parameter(randn(6, 4, seed=5))
    optimizers = [ours([one], **options, optimized_update=False, **own), theirs([other], **options)]
    schedules = [cosine(optimizer) for optimizer in optimizers]
    gradients = randn(100, 6, 4, seed=6)
    gradients[:, 0] = 0.0  # a row without a gradient
    gradients[20:70, 1] = 0.0  # and one that pauses
    for gradient in gradients:
        for parameter, optimizer, schedule in zip((one, other), optimizers, schedules, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
            schedule.step()
    close(one, other, RUN_RTOL)
    state, expected = optimizers[0].state[one], optimizers[1].state[other]
    assert set(state) == set(expected)
    for name, value in state.items():
        close(torch.as_tensor(value, dtype=torch.float64), expected[name].double(), RUN_RTOL)


def test_optimized_update_differs_only_through_eps() -> None:
    runs = []
    for optimized_update, eps in ((True, 0.0), (False, 0.0), (True, 0.1), (False, 0.1)):
        parameter = nn.Parameter(randn(4, seed=5))
        optimizer = Adam([parameter], lr=0.05, eps=eps, optimized_update=optimized_update)
        train(parameter, optimizer, randn(50, 4, seed=6))
        runs.append(parameter.detach())
    close(runs[0], runs[1], RUN_RTOL)
    assert (runs[2] - runs[3]).abs().max() > DISAGREE


def test_groups_have_their_own_hyper_parameters() -> None:
    first, second, third = one_parameter(2.0), one_parameter(2.0), one_parameter(2.0)
    optimizer = Adam(
        [
            {"params": [first]},
            {"params": [second], "lr": 1.0, "weight_decay": 0.1, "decay": "absolute"},
        ],
        lr=0.5,
        eps=0.0,
    )
    optimizer.add_param_group({"params": [third], "lr": 0.25})
    for parameter in (first, second, third):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    values = [parameter.item() for parameter in (first, second, third)]
    assert values == pytest.approx([1.5, 0.8, 1.75], rel=STEP_RTOL)


def test_parameter_without_gradient_is_left_alone() -> None:
    parameter = one_parameter(2.0)
    optimizer = Adam([parameter], weight_decay=0.1, decay="absolute")
    optimizer.step()
    assert parameter.item() == 2.0
    assert not optimizer.state[parameter]


@pytest.mark.parametrize("family", [Adam, AMSGrad])
def test_state_dict_round_trip_continues_the_run(family: Any) -> None:
    first_half, second_half = randn(10, 4, seed=6).split(5)
    parameter = nn.Parameter(randn(4, seed=5))
    optimizer = family([parameter], lr=0.05, weight_decay=0.1, decay="decoupled")
    train(parameter, optimizer, first_half)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed = nn.Parameter(parameter.detach().clone())
    resumed_optimizer = family([resumed])
    resumed_optimizer.load_state_dict(torch.load(buffer, weights_only=True))
    train(parameter, optimizer, second_half)
    train(resumed, resumed_optimizer, second_half)
    assert torch.equal(resumed, parameter)


def test_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    parameter = one_parameter(3.0)
    optimizer = Adam([parameter], lr=0.5, eps=0.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert parameter.item() == pytest.approx(2.5, rel=STEP_RTOL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "`lr` must be non-negative and finite. Got -1.0"),
        ({"lr": NAN}, "`lr` must be non-negative"),
        ({"eps": -1e-8}, "`eps` must be non-negative"),
        ({"weight_decay": -0.1}, "`weight_decay` must be non-negative"),
        ({"betas": (1.0, 0.9)}, r"`betas` must lie in \[0, 1\). Got \(1.0, 0.9\)"),
        ({"betas": (0.9, NAN)}, r"`betas` must lie in \[0, 1\)"),
        ({"decay": "l2"}, "`decay` must be one of 'coupled', 'decoupled', 'absolute'. Got 'l2'"),
    ],
)
def test_adam_rejects(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adam([one_parameter(0.0)], **options)
    with pytest.raises(ValueError, match=message):
        Adam([{"params": [one_parameter(0.0)], **options}])


# --------------------------------------------------------------------------------- redundancy


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_multiplier_is_redundant(optimizer: Any, multiplier: float) -> None:
    lr = 0.02 / multiplier ** {"sgd": 2, "adam": 1}[optimizer]  # moves W alike for every A
    assert redundancy_gap(optimizer, multiplier, lr=lr, steps=100) < RUN_RTOL


@pytest.mark.parametrize(
    ("optimizer", "wrong"),
    [
        ("sgd", Absorption(lr=1, eps=0)),
        ("adam", Absorption(lr=2, eps=-1)),
        ("adam", Absorption(lr=1, eps=0)),
        ("adam", Absorption(lr=1, eps=1)),
    ],
)
def test_other_powers_part(optimizer: Any, wrong: Absorption) -> None:
    assert redundancy_gap(optimizer, 2.0, absorption=wrong) > DISAGREE


def test_redundancy_rejects() -> None:
    with pytest.raises(ValueError, match="`optimizer` must be one of 'sgd', 'adam'"):
        redundancy_gap("lion", 2.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`multiplier` must be positive"):
        redundancy_gap("sgd", 0.0)


# ---------------------------------------------------------------------------------- layerwise

FACTORIES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "amsgrad": lambda params: AMSGrad(params, lr=0.05, weight_decay=0.1, decay="decoupled"),
}
# scheme: gradients alive at once, of six parameters in three layers
PEAKS = {train_whole: 6, train_by_layer: 2, train_by_hook: 1}
BATCHES = [(randn(8, 4, seed=i), randn(8, 3, seed=100 + i)) for i in range(25)]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("scheme", [train_by_layer, train_by_hook])
def test_three_backward_passes_agree(scheme: Any, factory: str) -> None:
    whole, other = three_layers(4, 8, 3), three_layers(4, 8, 3)
    start = copy.deepcopy(whole)
    expected = train_whole(whole, BATCHES, nn.MSELoss(), FACTORIES[factory])
    losses = scheme(other, BATCHES, nn.MSELoss(), FACTORIES[factory])
    assert losses == pytest.approx(expected, rel=RUN_RTOL)
    for a, b, c in zip(
        *(nn.Sequential(*layers).parameters() for layers in (whole, other, start)), strict=True
    ):
        close(b, a, RUN_RTOL)
        assert (a - c).abs().max() > DISAGREE
        assert a.grad is None
        assert b.grad is None


@pytest.mark.parametrize(("scheme", "expected"), PEAKS.items())
def test_gradients_alive_at_once(scheme: Any, expected: int) -> None:
    layers = three_layers(4, 8, 3)
    parameters = list(nn.Sequential(*layers).parameters())
    alive = []
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in parameters))
        )
    scheme(layers, BATCHES[:2], nn.MSELoss(), FACTORIES["sgd"])
    assert max(alive) == expected
    assert len(alive) == 12


def test_hooks_are_removed_even_after_an_error() -> None:
    layers = three_layers(4, 8, 3)
    with pytest.raises(RuntimeError):
        train_by_hook(
            layers, [(randn(8, 5, seed=0), randn(8, 3, seed=1))], nn.MSELoss(), FACTORIES["sgd"]
        )
    network = nn.Sequential(*layers)
    network(BATCHES[0][0]).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


# ---------------------------------------------------------------------------------- empirical


class Gain(nn.Module):
    """y = g x with a parameter g."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def ones() -> Tensor:
    return torch.ones(3, dtype=torch.float64, requires_grad=True)


def scales(module: EmpiricalScale) -> tuple[float, float, float]:
    return module.s_y.item(), module.s_gx.item(), module.s_gy.item()


def test_scales_act_where_they_should() -> None:
    layer = EmpiricalScale(Gain(7.0))
    for buffer, value in ((layer.s_y, 2.0), (layer.s_gx, 3.0), (layer.s_gy, 5.0)):
        buffer.fill_(value)
    x = ones()
    y = layer(x)
    y.sum().backward()
    gain = layer.get_parameter("module.gain")
    assert gain.grad is not None
    assert x.grad is not None
    assert y.tolist() == [14.0] * 3  # s_y g x
    assert gain.grad.item() == 30.0  # s_gy s_y sum(x)
    assert x.grad.tolist() == [210.0] * 3  # s_gx s_gy s_y g


def test_activations_are_tuned_first_to_last() -> None:
    first, second = EmpiricalScale(Gain(2.0**32)), EmpiricalScale(Gain(2.0**-32))
    model = nn.Sequential(first, second)
    tune(model, lambda: model(ones()).mean(), joint_runs=0)
    # Five square roots leave 2^(32 / 32) of the first RMS; the second then starts at 2^-31.
    assert first.s_y.item() == pytest.approx(2.0**-31, rel=STEP_RTOL)
    assert second.s_y.item() == pytest.approx(2.0 ** (31 * 31 / 32), rel=STEP_RTOL)


def test_gradients_are_tuned_last_to_first() -> None:
    first, second = EmpiricalScale(Gain(1.0)), EmpiricalScale(Gain(1.0))
    model = nn.Sequential(first, second)
    tune(model, lambda: 2.0**32 * model(ones()).sum(), joint_runs=0)
    # 2^32 comes in; five square roots let 2 out of the second and 2^(1/32) out of the first.
    assert scales(second) == pytest.approx((1.0, 2.0**-31, 1.0), rel=STEP_RTOL)
    assert scales(first) == pytest.approx((1.0, 2.0 ** (1 / 32 - 1), 1.0), rel=STEP_RTOL)


# The gradient of g is 3 * 16 / 3 = 16, so its update of size h changes y by 16 h: 16^(1/4) = 2.
# Each further run takes the change to its 3/4 power; s_gy follows it: 16^((3/4)^20 - 1).
@pytest.mark.parametrize(
    ("joint_runs", "expected"), [(1, 0.5), (2, 2.0**-1.75), (20, 0.06305195211)]
)
def test_joint_runs_balance_the_gradient_scales(joint_runs: int, expected: float) -> None:
    layer = EmpiricalScale(Gain(1.0))
    tune(layer, lambda: 16 / 3 * layer(ones()).sum(), runs=0, joint_runs=joint_runs)
    assert layer.s_y.item() == 1.0
    assert layer.s_gy.item() == pytest.approx(expected, rel=TRIAL_RTOL)
    assert layer.s_gx.item() * layer.s_gy.item() == pytest.approx(1.0, rel=STEP_RTOL)


def test_tuning_leaves_weights_and_gradients_alone() -> None:
    model = nn.Sequential(EmpiricalScale(Gain(3.0)), nn.Tanh(), EmpiricalScale(Gain(0.1)))
    tune(model, lambda: model(ones()).sum())
    assert [p.item() for p in model.parameters()] == [3.0, 0.1]
    assert [p.grad for p in model.parameters()] == [None, None]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_scales_survive_copies() -> None:
    layer = EmpiricalScale(Gain(3.0))
    tune(layer, lambda: layer(ones()).sum())
    restored = EmpiricalScale(Gain(0.0))
    restored.load_state_dict(layer.state_dict())
    assert scales(copy.deepcopy(layer)) == scales(restored) == scales(layer)
    assert layer.s_y.dtype == torch.float64


def test_residual_branch_counts_its_own_gradient_only() -> None:
    layer = EmpiricalScale(Gain(1.0))

    # x is read beside the layer too, with a gradient of 1000 that must not count.
    def loss() -> Tensor:
        x = ones()
        return (2.0**32 * layer(x) + 1000 * x).sum()

    tune(layer, loss, joint_runs=0)
    assert layer.s_gx.item() == pytest.approx(2.0**-31, rel=STEP_RTOL)


def test_module_called_twice_counts_with_its_largest_rms() -> None:
    layer = EmpiricalScale(Gain(1.0))
    tune(layer, lambda: (layer(ones()) + layer(2.0**32 * ones())).sum(), joint_runs=0)
    assert layer.s_y.item() == pytest.approx(2.0**-31, rel=STEP_RTOL)


def test_zero_carries_no_information() -> None:
    first, last = EmpiricalScale(Gain(1.0)), EmpiricalScale(Gain(0.0))
    model = nn.Sequential(first, last)
    tune(model, lambda: model(ones()).sum())
    assert all(math.isfinite(value) for value in scales(first) + scales(last))
    assert last.s_y.item() == 1.0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(Gain(1.0)), "Got 0 called of 0"),
        (nn.Sequential(EmpiricalScale(Gain(math.inf))), "RMS of the activation` must be"),
    ],
)
def test_tune_rejects(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(model, lambda: model(ones()).sum())


def test_tune_rejects_a_module_that_is_not_called() -> None:
    used = EmpiricalScale(Gain(1.0))
    model = nn.ModuleList([used, EmpiricalScale(Gain(1.0))])
    with pytest.raises(ValueError, match="Got 1 called of 2"):
        tune(model, lambda: used(ones()).sum())
    with pytest.raises(ValueError, match="`update_size` must be positive"):
        tune(used, lambda: used(ones()).sum(), update_size=0.0)


def test_tuned_network_is_balanced() -> None:
    generator = seeded(0)
    layers = [EmpiricalScale(nn.Linear(32, 32, bias=False).double()) for _ in range(4)]
    model = nn.Sequential(*(step for layer in layers for step in (layer, nn.Tanh())))
    seen: list[Tensor] = []

    def run() -> Tensor:
        for layer in layers:  # fresh weights, far too large
            nn.init.normal_(layer.get_parameter("module.weight"), generator=generator)
        x = torch.randn(64, 32, dtype=torch.float64, generator=generator, requires_grad=True)
        target = torch.randn(64, 32, dtype=torch.float64, generator=generator)
        return (model(x) * target).sum()

    tune(model, run)
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, y: seen.append(y.detach()))
    run()
    low, high = BALANCED
    assert all(low < y.square().mean().sqrt().item() < high for y in seen)


# ----------------------------------------------------------------------------- counterexample


# x seen by step 1,000 and 10,000, as printed by the original implementation in float64.
@pytest.mark.parametrize(
    ("optimizer", "expected"), [("adam", [0.1957, 1.0]), ("amsgrad", [0.0057, -0.0557])]
)
def test_counterexample(optimizer: Any, expected: list[float]) -> None:
    trajectory = counterexample.run(optimizer, 10_000)
    assert trajectory.step.tolist() == list(range(1000, 10_001, 1000))
    np.testing.assert_allclose(trajectory.x[[0, -1]], expected, rtol=0, atol=PRINTED_ATOL)


def test_regret_of_the_first_two_steps() -> None:
    trajectory = counterexample.run("adam", 2, record_every=1)
    # t = 0: f(0) - f(-1) = 0 - 10; the step is +lr. t = 1: 1010 * (0.01 + 1).
    np.testing.assert_allclose(trajectory.x, [0.0, 0.01], rtol=STEP_RTOL)
    np.testing.assert_allclose(
        trajectory.average_regret, [-10.0, (-10.0 + 1020.1) / 2], rtol=STEP_RTOL
    )


def test_counterexample_rejects() -> None:
    with pytest.raises(ValueError, match="`optimizer` must be one of 'adam', 'amsgrad'"):
        counterexample.run("sgd", 10)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`steps` must be positive"):
        counterexample.run("adam", 0)
