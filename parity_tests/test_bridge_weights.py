"""Layers of PyTorch become layers of Flax that compute the same, and come back bit for bit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from jaxmup import bridge

WITHIN = 1e-13  # float64: sums of at most a hundred products, rounded in another order


@pytest.fixture(autouse=True)
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(before)


class Case(NamedTuple):
    """A module of each framework, and how each is applied to the same input.

    Args:
      torch: Function that makes the module of PyTorch.
      flax: Function that makes the NNX module.
      shape: Shape of the input.
      torch_apply: Function that returns PyTorch's output in Flax's axes.
      flax_apply: Function that returns Flax's output.
    """

    torch: Callable[[], nn.Module]
    flax: Callable[[nnx.Rngs], Any]
    shape: tuple[int, ...]
    torch_apply: Callable[[Any, Any], Any] = lambda module, x: module(x)
    flax_apply: Callable[[Any, Any], Any] = lambda module, x: module(x)


F64: Any = {"param_dtype": jnp.float64}


def channels_last(module: Any, x: Any) -> Any:
    """A module over images, whose channels PyTorch has first."""
    return module(x.movedim(-1, 1)).movedim(1, -1)


def attended(module: Any, x: Any) -> Any:
    return module(x, x, x, need_weights=False)[0]


def over_time(cell: Any, x: Any) -> Any:
    """Runs a cell of Flax over the second axis."""
    return nnx.RNN(cell)(x, initial_carry=cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0)))


def first(module: Any, x: Any) -> Any:
    return module(x)[0]


def without_b_hn(module: nn.GRU) -> nn.GRU:
    """A GRU that flax.nnx can be: the bias inside its product with r is zero."""
    with torch.no_grad():
        module.bias_hh_l0[2 * module.hidden_size :] = 0
    return module


def evaluated(module: nn.Module) -> nn.Module:
    """A batch norm that has seen batches, and now uses its averages."""
    for _ in range(3):
        module(torch.randn(8, 6, 4, 4) * 2 + 1)
    return module.eval()


def drawn(module: nn.Module) -> nn.Module:
    """A module all of whose parameters are random."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def linear_general(rngs: nnx.Rngs) -> Any:
    return nnx.LinearGeneral((4, 6), (3, 5), axis=(-2, -1), rngs=rngs, **F64)


def attention(rngs: nnx.Rngs) -> Any:
    # jax.nn.dot_product_attention, Flax's default, rounds its logits to float32.
    return nnx.MultiHeadAttention(4, 12, decode=False, attention_fn=attend, rngs=rngs, **F64)


def attend(query: Any, key: Any, value: Any, **_: Any) -> Any:
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)


def conv(*sizes: Any, **options: Any) -> Callable[[nnx.Rngs], Any]:
    return lambda rngs: nnx.Conv(*sizes, **options, rngs=rngs, **F64)


def conv_transpose(*sizes: Any, **options: Any) -> Callable[[nnx.Rngs], Any]:
    return lambda rngs: nnx.ConvTranspose(*sizes, **options, padding="VALID", rngs=rngs, **F64)


CASES = {
    "Linear": Case(
        lambda: nn.Linear(3, 5), lambda rngs: nnx.Linear(3, 5, rngs=rngs, **F64), (2, 3)
    ),
    "square Linear without bias": Case(
        lambda: nn.Linear(4, 4, bias=False),
        lambda rngs: nnx.Linear(4, 4, use_bias=False, rngs=rngs, **F64),
        (2, 4),
    ),
    "Linear to several axes": Case(
        lambda: nn.Linear(24, 15),
        linear_general,
        (2, 4, 6),
        lambda module, x: module(x.flatten(1)).unflatten(1, (3, 5)),
    ),
    "Conv1d": Case(
        lambda: nn.Conv1d(3, 5, 4), conv(3, 5, (4,), padding="VALID"), (2, 9, 3), channels_last
    ),
    "square Conv1d": Case(
        lambda: nn.Conv1d(4, 4, 4), conv(4, 4, (4,), padding="VALID"), (2, 9, 4), channels_last
    ),
    "Conv2d in groups, strided": Case(
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, groups=2),
        conv(4, 6, (3, 2), strides=2, feature_group_count=2, padding="VALID"),
        (2, 7, 8, 4),
        channels_last,
    ),
    "Conv3d": Case(
        lambda: nn.Conv3d(2, 3, (2, 3, 1), bias=False),
        conv(2, 3, (2, 3, 1), use_bias=False, padding="VALID"),
        (1, 4, 5, 3, 2),
        channels_last,
    ),
    "ConvTranspose1d": Case(
        lambda: nn.ConvTranspose1d(3, 5, 3), conv_transpose(3, 5, (3,)), (2, 6, 3), channels_last
    ),
    "square ConvTranspose2d, strided": Case(
        lambda: nn.ConvTranspose2d(4, 4, (3, 2), stride=2),
        conv_transpose(4, 4, (3, 2), strides=(2, 2)),
        (2, 5, 6, 4),
        channels_last,
    ),
    "ConvTranspose2d as a gradient": Case(
        lambda: nn.ConvTranspose2d(4, 6, (3, 3), stride=2),
        conv_transpose(4, 6, (3, 3), strides=(2, 2), transpose_kernel=True),
        (2, 5, 5, 4),
        channels_last,
    ),
    "ConvTranspose3d": Case(
        lambda: nn.ConvTranspose3d(2, 3, (2, 3, 2)),
        conv_transpose(2, 3, (2, 3, 2)),
        (1, 3, 4, 3, 2),
        channels_last,
    ),
    "LayerNorm": Case(
        lambda: drawn(nn.LayerNorm(6)),
        lambda rngs: nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **F64),
        (2, 6),
    ),
    "RMSNorm": Case(
        lambda: drawn(nn.RMSNorm(6, eps=1e-6)),
        lambda rngs: nnx.RMSNorm(6, rngs=rngs, **F64),
        (2, 6),
    ),
    "GroupNorm": Case(
        lambda: drawn(nn.GroupNorm(3, 6)),
        lambda rngs: nnx.GroupNorm(6, 3, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **F64),
        (2, 4, 4, 6),
        channels_last,
    ),
    "BatchNorm with its averages": Case(
        lambda: evaluated(drawn(nn.BatchNorm2d(6))),
        lambda rngs: nnx.BatchNorm(6, use_running_average=True, rngs=rngs, **F64),
        (2, 4, 4, 6),
        channels_last,
    ),
    "BatchNorm without parameters": Case(
        lambda: evaluated(nn.BatchNorm2d(6, affine=False)),
        lambda rngs: nnx.BatchNorm(
            6, use_running_average=True, use_bias=False, use_scale=False, rngs=rngs, **F64
        ),
        (2, 4, 4, 6),
        channels_last,
    ),
    "MultiheadAttention, packed": Case(
        lambda: drawn(nn.MultiheadAttention(12, 4, batch_first=True)),
        attention,
        (2, 5, 12),
        attended,
    ),
    "LSTM": Case(
        lambda: nn.LSTM(3, 5, batch_first=True),
        lambda rngs: nnx.LSTMCell(3, 5, rngs=rngs, **F64),
        (2, 7, 3),
        first,
        over_time,
    ),
    "LSTM of equal sizes, optimized": Case(
        lambda: nn.LSTM(5, 5, batch_first=True),
        lambda rngs: nnx.OptimizedLSTMCell(5, 5, rngs=rngs, **F64),
        (2, 7, 5),
        first,
        over_time,
    ),
    "GRU": Case(
        lambda: without_b_hn(nn.GRU(3, 5, batch_first=True)),
        lambda rngs: nnx.GRUCell(3, 5, rngs=rngs, **F64),
        (2, 7, 3),
        first,
        over_time,
    ),
    "RNN": Case(
        lambda: nn.RNN(3, 5, batch_first=True),
        lambda rngs: nnx.SimpleCell(3, 5, dtype=jnp.float64, rngs=rngs, **F64),
        (2, 7, 3),
        first,
        over_time,
    ),
}
_SUMMED = ("bias_ih_l0", "bias_hh_l0")


@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_the_same_and_comes_back(name):
    case = CASES[name]
    module = case.torch()
    x = np.random.default_rng(0).standard_normal(case.shape)
    with torch.no_grad():
        expected = case.torch_apply(module, torch.from_numpy(x)).numpy()
    state = module.state_dict()
    layer = bridge.from_torch(state, case.flax(nnx.Rngs(0)))
    got = np.asarray(case.flax_apply(layer, jnp.asarray(x)))
    assert got.shape == expected.shape
    assert np.max(np.abs(got - expected)) <= WITHIN * max(1.0, np.max(np.abs(expected)))
    require_same(bridge.to_torch(layer, state), state)


def require_same(got: dict[str, np.ndarray], state: dict[str, torch.Tensor]) -> None:
    """The same tensors bit for bit, but for what Flax has one of, or none."""
    assert list(got) == list(state) or set(got) == set(state)
    for name, tensor in state.items():
        if name in _SUMMED:
            continue
        if name.endswith("num_batches_tracked"):
            assert got[name] == 0
            continue
        assert got[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(got[name], tensor.numpy(), err_msg=name)
    if _SUMMED[0] in state:
        total = sum(got[name] for name in _SUMMED)
        np.testing.assert_array_equal(total, sum(state[name].numpy() for name in _SUMMED))


SPECTRAL = {
    "hook": nn.utils.spectral_norm,
    "parametrized": nn.utils.parametrizations.spectral_norm,
}
SPECTRAL_WITHIN = 1e-11  # Flax adds 1e-12 to the squares that it divides by, PyTorch does not


@pytest.mark.parametrize("wrap", SPECTRAL.values(), ids=SPECTRAL)
def test_spectral_norm_once_its_iteration_has_converged(wrap):
    module = wrap(nn.Conv2d(3, 4, 3))
    x = torch.randn(2, 3, 5, 5)
    for _ in range(300):
        module(x)
    module.eval()
    expected = module(x).detach().movedim(1, -1).numpy()
    state = module.state_dict()
    inner = conv(3, 4, (3, 3), padding="VALID")(nnx.Rngs(0))
    model = bridge.from_torch(state, nnx.SpectralNorm(inner, rngs=nnx.Rngs(0), **F64))
    back = bridge.to_torch(model, state)
    got = model(x.movedim(1, -1).numpy(), update_stats=False)
    assert np.max(np.abs(got - expected)) <= SPECTRAL_WITHIN
    for name, tensor in state.items():
        if name.endswith("_v"):
            assert np.max(np.abs(back[name] - tensor.numpy())) <= SPECTRAL_WITHIN
        else:
            np.testing.assert_array_equal(back[name], tensor.numpy(), err_msg=name)


def test_spectral_norm_iterates_as_the_hook_from_wherever_it_stands():
    module = nn.utils.spectral_norm(nn.Linear(3, 4))
    x = torch.randn(2, 3)
    layer = linen.SpectralNorm(linen.Dense(4, **F64), **F64)
    held = layer.init(jax.random.key(0), x.numpy(), update_stats=True)
    held = bridge.from_torch(module.state_dict(), held)
    for _ in range(3):
        got, moved = layer.apply(held, x.numpy(), update_stats=True, mutable=["batch_stats"])
        held = {**held, **moved}
        assert np.max(np.abs(got - module(x).detach().numpy())) <= SPECTRAL_WITHIN
