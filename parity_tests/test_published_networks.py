"""Convolutional and recurrent networks, from files of `torch.save`: outputs, gradients, back."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from jaxmup import bridge
from parity_tests.published import Twins
from parity_tests.published_networks import NETWORKS


def random_network(twins: Twins, dtype: str) -> torch.nn.Module:
    """The network in torch with random values for everything, statistics too."""
    torch.manual_seed(0)
    module = twins.torch().to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn_like(tensor))
    return module


def counterpart(twins: Twins) -> nnx.Module:
    """The network here without values, as it is to be evaluated."""
    model = nnx.eval_shape(twins.flax)
    model.eval()
    return model


def lacks_a_place(name: str) -> bool:
    """True for what Flax has none or one of: counters, and the second of two biases."""
    return name.endswith("num_batches_tracked") or "bias_hh" in name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, dtype: str, tmp_path: Path, agree: Any) -> None:
    twins, rng = NETWORKS[name], np.random.default_rng(1)
    theirs = random_network(twins, dtype)
    drawn = twins.inputs(rng)
    inputs = drawn if drawn.dtype.kind == "i" else drawn.astype(dtype)
    logits = theirs(torch.tensor(inputs))
    weights = rng.standard_normal(tuple(logits.shape)).astype(dtype)
    (logits * torch.tensor(weights)).sum().backward()
    torch.save(theirs.state_dict(), tmp_path / "model.pt")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = tmp_path / "model.pt"
        model = bridge.from_torch(file, counterpart(twins), twins.pairs, settings=theirs)
    here, gradients = forward_and_gradient(model, weights, twins.here(inputs))
    slopes = bridge.to_torch(gradients, file, twins.pairs)
    row = "published" if dtype == "float64" else "published, float32"
    agree(row, np.asarray(here)[None], logits.detach().numpy()[None])
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters() if not lacks_a_place(n)}
    agree(row, _vector(slopes, expected), _vector(expected, expected))

    back, tensors = bridge.to_torch(model, file, twins.pairs), bridge.load(file)
    assert back.keys() == tensors.keys()
    for tensor, value in tensors.items():
        if lacks_a_place(tensor):
            assert not np.any(back[tensor])
            continue
        second = tensors.get(tensor.replace("bias_ih", "bias_hh"), 0) if "bias_ih" in tensor else 0
        np.testing.assert_array_equal(back[tensor], value + second, err_msg=tensor)


def forward_and_gradient(model: nnx.Module, weights: np.ndarray, inputs: Any) -> tuple[Any, Any]:
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = nnx.merge(graph, params, rest, copy=True)(inputs)
            return (logits * weights).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    slopes, logits = run(params)
    return logits, nnx.merge(graph, slopes, rest)


def _vector(arrays: Mapping[str, np.ndarray], names: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])[None]
