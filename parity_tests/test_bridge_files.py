"""Files of torch.save, layers of `torch_ref`, and tensors in PyTorch's own modules."""

import os
import pickle
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import jaxmup
import torch_ref
from jaxmup import bridge


class Hostile:
    """Unpickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def linear() -> nnx.Linear:
    return nnx.eval_shape(lambda: nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_save(tmp_path, legacy):
    module = nn.Linear(2, 3).to(torch.bfloat16)
    path = tmp_path / "model.pt"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    layer = bridge.from_torch(path, linear())
    assert layer.kernel[...].dtype == jnp.bfloat16
    other = nn.Linear(2, 3).to(torch.bfloat16)
    other.load_state_dict(bridge.as_tensors(bridge.to_torch(layer, path)))
    assert torch.equal(other.weight, module.weight)
    assert torch.equal(other.bias, module.bias)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda marker: Hostile(os.system, f"touch {marker}"),
        lambda marker: Hostile(subprocess.call, ["touch", marker]),
        lambda marker: Hostile(eval, f"open({marker!r}, 'w')"),
        lambda marker: Hostile(open, marker, "w"),
    ],
)
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, call, zipped):
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    content = {"weight": torch.ones(3, 2), "bias": call(str(marker))}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=f"{path} must hold tensors alone"):
        bridge.from_torch(path, linear())
    assert not marker.exists()


def test_other_contents_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    for content, words in (
        ([torch.ones(2)], "a state dict. Got list"),
        ({"model": {}, "epoch": 3}, r"'model': dict, 'epoch': int"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=words) as caught:
            bridge.load(path)
        assert str(path) in str(caught.value)
    torch.save({"weight": torch.arange(1000.0)}, path)
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[:-100])
    with pytest.raises(ValueError, match=f"{path} must be a whole file|{path} must hold tensors"):
        bridge.load(path)
    at = raw.index(np.float32(500).tobytes())
    raw[at] ^= 1  # in the data, where PyTorch itself would not see it
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"checksum of .*data/0 is wrong"):
        bridge.load(path)


def test_attention_over_keys_and_values_of_other_sizes():
    module = nn.MultiheadAttention(8, 2, kdim=8, vdim=8).double()
    apart = nn.MultiheadAttention(8, 2, kdim=8, vdim=6).double()
    assert "in_proj_weight" in module.state_dict()
    state = apart.state_dict()
    target = {
        name: {"kernel": np.zeros((inputs, 2, 4)), "bias": np.zeros((2, 4))}
        for name, inputs in (("query", 8), ("key", 8), ("value", 6))
    } | {"out": {"kernel": np.zeros((2, 4, 8)), "bias": np.zeros(8)}}
    made = bridge.from_torch(state, target)
    value = state["v_proj_weight"].numpy().T.reshape(6, 2, 4)
    np.testing.assert_array_equal(made["value"]["kernel"], value)
    back = bridge.to_torch(made, state)
    assert all(np.array_equal(back[name], tensor.numpy()) for name, tensor in state.items())


@pytest.mark.parametrize("role", ["input", "hidden", "output"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("gauge", ["table8", "table3"])
def test_layers_with_constant_multipliers_compute_the_same(role, optimizer, gauge):
    sizes = {"input": (4, 32), "hidden": (32, 32), "output": (32, 4)}[role]
    options = {"layer": role, "optimizer": optimizer, "base_width": 8, "lr_scale": 2.0}
    module = torch_ref.MuLinear(*sizes, **options, bias_init_std=1.0, dtype=torch.float64)
    arguments = bridge.AbcdLayer(role, optimizer, width=32, base_width=8, lr_scale=2.0)
    parametrization = jaxmup.parametrization("mup", optimizer, gauge=gauge)
    layer = jaxmup.nnx.Linear(
        *sizes,
        base_in_features=None if role == "input" else 8,
        base_out_features=None if role == "output" else 8,
        param_dtype=jnp.float64,
        parametrization=parametrization,
        rngs=nnx.Rngs(0),
    )
    multipliers = bridge.abcd_multipliers({"": arguments})
    made = bridge.from_torch(module.state_dict(), layer, multipliers=multipliers)
    x = np.random.default_rng(0).standard_normal((2, sizes[0]))
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(made(jnp.asarray(x)), expected, rtol=1e-13, atol=1e-13)

    state, numbers = bridge.to_abcd(made, module.state_dict(), parametrization)
    scales = {
        name.removesuffix("_unscaled"): torch_ref.ParameterScale(**{"init_std": 1.0, **own})
        for name, own in numbers.items()
    }
    again = torch_ref.ScaledLinear(*sizes, **scales, dtype=torch.float64)
    again.load_state_dict(bridge.as_tensors(state))
    np.testing.assert_allclose(
        again(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-13, atol=1e-13
    )
    plain = nn.Linear(*sizes, dtype=torch.float64)
    plain.load_state_dict(bridge.as_tensors(bridge.to_torch(made, plain.state_dict())))
    np.testing.assert_allclose(
        plain(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-13, atol=1e-13
    )
