"""The fused step against PyTorch's plain, layer-by-layer and hook forms of the same training."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

from jaxmup import fused
from torch_ref import train_by_hook, train_by_layer, train_whole

LAYERS, WIDTH, OUTPUTS, BATCH, STEPS = 4, 6, 3, 8, 50
FORMS = [train_whole, train_by_layer, train_by_hook]
OPTIMIZERS = {
    "sgd": (partial(torch.optim.SGD, lr=0.1, momentum=0.9), optax.sgd(0.1, 0.9)),
    "adam": (partial(torch.optim.Adam, lr=0.01), optax.adam(0.01)),
}


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    shapes = ((BATCH, WIDTH), (BATCH, OUTPUTS))
    return [tuple(random.normal(size=shape) for shape in shapes) for _ in range(STEPS)]


def torch_layers() -> list[nn.Module]:
    """Equal tanh layers under a linear readout."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(LAYERS)]
    return [layer.double() for layer in (*blocks, nn.Linear(WIDTH, OUTPUTS))]


def weights(layers: list[nn.Module]) -> Any:
    """The parameters of the layers, stacked but for the readout's, with kernels as in JAX."""
    found = [[p.detach().numpy().T.copy() for p in layer.parameters()] for layer in layers]
    blocks = (np.stack(leaves) for leaves in zip(*found[:-1], strict=True))
    return dict(zip(("blocks", "out"), ([*blocks], found[-1]), strict=True))


def layer(p: Any, x: jax.Array) -> jax.Array:
    return x @ p[0] + p[1][None]


def block(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(layer(p, x))


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    x, _ = jax.lax.scan(lambda x, p: (block(p, x), None), x, params["blocks"])
    return jnp.mean((layer(params["out"], x) - y) ** 2)


def jax_fused(tx: optax.GradientTransformation) -> tuple[list[Any], Any]:
    """Losses and parameters of the fused step."""
    step = jax.jit(fused.value_and_update(loss, tx), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.asarray, weights(torch_layers()))
    state, losses = tx.init(params), []
    for batch in batches():
        value, params, state = step(params, state, *batch)
        losses.append(value)
    return losses, params


def jax_layers(tx: optax.GradientTransformation) -> tuple[list[Any], Any]:
    """The same of the step layer by layer."""
    start = jax.tree.map(jnp.asarray, weights(torch_layers()))
    params = [*(jax.tree.map(lambda w, i=i: w[i], start["blocks"]) for i in range(LAYERS))]
    params.append(start["out"])
    step = fused.layer_by_layer([block] * LAYERS + [layer], lambda z, y: jnp.mean((z - y) ** 2), tx)
    states, losses = [tx.init(p) for p in params], []
    for batch in batches():
        value, params, states = step(params, states, *batch)
        losses.append(value)
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params[:-1])
    return losses, {"blocks": blocks, "out": params[-1]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_forms_of_both_libraries_train_alike(optimizer: str, agree: Any) -> None:
    make, tx = OPTIMIZERS[optimizer]
    ours = [jax_fused(tx), jax_layers(tx)]
    for form in FORMS:
        layers = torch_layers()
        tensors = [tuple(map(torch.from_numpy, batch)) for batch in batches()]
        losses = form(layers, tensors, nn.MSELoss(), make)
        expected = weights(layers)
        for got, params in ours:
            agree("fifty steps", np.asarray(got)[:, None], np.asarray(losses)[:, None])
            for name in ("blocks", "out"):
                leaves = [np.ravel(x)[None] for x in params[name]]
                agree("fifty steps", (*leaves,), (*(np.ravel(x)[None] for x in expected[name]),))
    assert losses[-1] < losses[0]
