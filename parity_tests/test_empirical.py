"""One pass against the iterative reference: the same fixed point."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from jaxmup.empirical import calibrate
from parity_tests.tolerances import TOL, relative
from torch_ref import EmpiricalScale, tune

WIDTHS = (6, 12, 9, 5)
BATCH = 16
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(BATCH, WIDTHS[0]))
TARGETS = RANDOM.normal(size=(BATCH, WIDTHS[-1]))
KERNELS = [RANDOM.normal(size=shape) for shape in itertools.pairwise(WIDTHS)]
BIASES = [RANDOM.normal(size=width) for width in WIDTHS[1:]]


class Ours(nnx.Module):
    """Tanh layers; the second one is called `uses` times more if it is square."""

    def __init__(self, kernels, residual, uses):
        self.layers = nnx.List(
            nnx.Linear(*kernel.shape, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
            for kernel in kernels
        )
        for layer, kernel, bias in zip(self.layers, kernels, BIASES, strict=False):
            layer.kernel[...] = kernel
            layer.bias[...] = bias[: kernel.shape[1]]
        self.residual, self.uses = residual, uses

    def __call__(self, x):
        for layer in self.layers:
            for _ in range(self.uses):
                y = jnp.tanh(layer(x))
                x = x + y if self.residual else y
        return x


def theirs(kernels, residual, uses, num_examples):
    """The scales of the reference, from its own loop on one batch until nothing moves."""
    layers = []
    for kernel, bias in zip(kernels, BIASES, strict=False):
        layer = nn.Linear(*kernel.shape).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(kernel.T))
            layer.bias.copy_(torch.tensor(bias[: kernel.shape[1]]))
        layers.append(EmpiricalScale(layer))
    model = nn.ModuleList(layers)

    def loss():
        x = torch.tensor(INPUTS[:, : kernels[0].shape[0]]).requires_grad_()
        for layer in layers:
            for _ in range(uses):
                y = torch.tanh(layer(x))
                x = x + y if residual else y
        return num_examples * (x - torch.tensor(TARGETS[:, : x.shape[1]])).square().mean()

    tune(model, loss, runs=45, joint_runs=90)
    return {
        f"layers/{i}": {
            "scale_actv_y": layer.s_y.item(),
            "scale_grad_x": layer.s_gx.item(),
            "scale_grad_y": layer.s_gy.item(),
        }
        for i, layer in enumerate(layers)
    }


def ours(kernels, residual, uses, num_examples):
    model = Ours(kernels, residual, uses)
    inputs = jnp.asarray(INPUTS[:, : kernels[0].shape[0]])

    def loss(y):
        return num_examples * jnp.square(y - TARGETS[:, : y.shape[1]]).mean()

    found = calibrate(model, inputs, loss, redraw=False, num_examples=1)
    return {
        name: {field: float(value) for field, value in scales.items()}
        for name, scales in found.scales.items()
    }


SQUARE = [k[:5, :5] for k in (KERNELS[0], KERNELS[1], KERNELS[2])]


@pytest.mark.parametrize(
    ("kernels", "residual"), [(KERNELS, False), (SQUARE, True)], ids=["chain", "residual"]
)
def test_fixed_point_is_that_of_the_converged_reference(kernels, residual, agree):
    agree("fixed point", ours(kernels, residual, 1, 1), theirs(kernels, residual, 1, 1))


def test_unconverged_reference_depends_on_its_iteration_order(disagree):
    """Five square roots a module leave 1/32 of each logarithm, first module to last."""
    layer = EmpiricalScale(nn.Linear(1, 1, bias=False).double())
    with torch.no_grad():
        layer.get_parameter("module.weight").fill_(2.0**32)

    def loss():
        return layer(torch.ones(3, 1, dtype=torch.float64, requires_grad=True)).mean()

    tune(layer, loss, joint_runs=0)
    model = Ours([np.full((1, 1), 2.0**32)], False, 1)
    model.layers[0].bias[...] = 0.0
    found = calibrate(model.layers[0], jnp.ones((3, 1)), jnp.mean, redraw=False, num_examples=1)
    exact = float(found.scales["model"]["scale_actv_y"])
    assert exact == 2.0**-32
    assert layer.s_y.item() == pytest.approx(2.0**-31, rel=TOL["one step"].largest)


def test_several_uses_have_another_convention(disagree):
    """The reference takes the largest RMS of all uses, ours their mean square."""
    kernels = [SQUARE[0]]
    reference, found = theirs(kernels, False, 2, 1), ours(kernels, False, 2, 1)
    disagree(found, reference)
    assert relative(found, reference) < 1.0  # another convention, not another quantity


def test_batch_size_of_a_mean_loss_scales_the_reference_alone(agree):
    """Ours is per example: the reference agrees when its loss is a sum over examples."""
    model = Ours(KERNELS, False, 1)

    def loss(y):
        return jnp.square(y - TARGETS).mean()

    inputs = jnp.asarray(INPUTS)
    once = calibrate(model, inputs, loss, redraw=False).scales
    twice = calibrate(
        model,
        jnp.concatenate([inputs, inputs]),
        lambda y: jnp.square(y - np.concatenate([TARGETS, TARGETS])).mean(),
        redraw=False,
    ).scales
    numbers = [jax.tree.map(float, dict(scales)) for scales in (once, twice)]
    agree("one step", numbers[1], numbers[0])
