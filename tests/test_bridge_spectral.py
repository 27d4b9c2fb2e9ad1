"""Spectral norm: two singular vectors in PyTorch, one and σ in Flax; and the scales of norms."""

import jax
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxmup
from jaxmup import bridge

HOOK = ("weight_orig", "weight_u", "weight_v")
PARAMETRIZED = tuple(f"parametrizations.weight.{name}" for name in ("original", "0._u", "0._v"))
SPELLINGS = pytest.mark.parametrize("names", [HOOK, PARAMETRIZED], ids=["hook", "parametrized"])
State = dict[str, np.ndarray]


def vectors(matrix: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The left and right vectors after so many power iterations, as PyTorch's code makes them."""
    left = np.ones(matrix.shape[0])
    right = np.zeros(matrix.shape[1])
    for _ in range(steps):
        right = matrix.T @ left
        right /= np.linalg.norm(right)
        left = matrix @ right
        left /= np.linalg.norm(left)
    return left, right


def state(names: tuple[str, ...], shape: tuple[int, ...], axis: int = 0, steps: int = 200) -> State:
    """A weight under spectral norm, whose vectors have converged unless it is said otherwise."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape).astype("f4")
    matrix = np.moveaxis(weight, axis, 0).reshape(shape[axis], -1).astype(np.float64)
    left, right = vectors(matrix, steps)
    tensors = dict(zip(names, (weight, left.astype("f4"), right.astype("f4")), strict=True))
    return {"dense.bias": rng.normal(size=shape[axis]).astype("f4")} | {
        f"dense.{name}": x for name, x in tensors.items()
    }


class Normed(nnx.Module):
    def __init__(self, inner: nnx.Module):
        self.dense = nnx.SpectralNorm(inner, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dense(x, update_stats=True)


def linear() -> nnx.Module:
    return nnx.Linear(5, 7, rngs=nnx.Rngs(0))


def normed(weight: np.ndarray) -> np.ndarray:
    """W over its largest singular value, by its decomposition."""
    return weight / np.linalg.svd(weight.reshape(len(weight), -1))[1][0]


@SPELLINGS
@pytest.mark.parametrize("framework", ["nnx", "linen"])
def test_spectral_norm_computes_the_same_and_comes_back(names, framework):
    tensors = state(names, (7, 5))
    x = np.random.default_rng(1).normal(size=(3, 5)).astype("f4")
    module = linen.SpectralNorm(linen.Dense(7))
    if framework == "nnx":
        model = Normed(linear())
        got = bridge.from_torch(tensors, model)(x)
    else:
        model = module.init(jax.random.key(0), x, update_stats=True)
        made = bridge.from_torch(tensors, model)
        got, _ = module.apply(made, x, update_stats=True, mutable=["batch_stats"])
    want = x @ normed(tensors[f"dense.{names[0]}"]).T + tensors["dense.bias"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    back = bridge.to_torch(bridge.from_torch(tensors, model), tensors)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if name.endswith("_v"):  # Flax has no place for it; the iteration has converged
            np.testing.assert_allclose(back[name], tensor, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(back[name], tensor)


def test_the_state_of_the_iteration_goes_along():
    """One step of it: Flax's vector is PyTorch's, and σ is u · W v of what PyTorch holds."""
    tensors = state(HOOK, (7, 5), steps=1)
    weight, left, right = (tensors[f"dense.{name}"] for name in HOOK)
    kept = bridge.from_torch(tensors, Normed(linear())).dense.batch_stats
    np.testing.assert_array_equal(kept["kernel", "u"][...], left[None])
    np.testing.assert_allclose(kept["kernel", "sigma"][...], left @ weight @ right, rtol=1e-6)
    back = bridge.to_torch(bridge.from_torch(tensors, Normed(linear())), tensors)
    expected = weight.T @ left
    np.testing.assert_allclose(
        back["dense.weight_v"], expected / np.linalg.norm(expected), rtol=1e-6
    )


CONVOLUTIONS = {
    "convolution": (nnx.Conv, {}, (4, 2, 3), 0),
    "transposed convolution": (nnx.ConvTranspose, {}, (2, 4, 3), 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_spectral_norm_of_a(case):
    make, options, shape, axis = case
    tensors = state(PARAMETRIZED, shape, axis)
    model = Normed(make(2, 4, (3,), **options, rngs=nnx.Rngs(0)))
    made = bridge.from_torch(tensors, model)
    kernel = np.asarray(made.dense.layer_instance.kernel[...])
    sigma = np.linalg.svd(kernel.reshape(-1, 4))[1][0]
    np.testing.assert_allclose(made.dense.batch_stats["kernel", "sigma"][...], sigma, rtol=1e-5)
    made(np.zeros((1, 5, 2), "f4"))
    np.testing.assert_allclose(made.dense.layer_instance.kernel[...], kernel / sigma, rtol=1e-4)
    back = bridge.to_torch(bridge.from_torch(tensors, model), tensors)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(back[name], tensor, rtol=1e-4, atol=1e-6, err_msg=name)


def test_another_matrix_is_refused():
    """With `transpose_kernel`, Flax's matrix is of the inputs: its norm is another."""
    model = Normed(nnx.ConvTranspose(3, 3, (3,), transpose_kernel=True, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="fit no leaf"):
        bridge.plan(state(HOOK, (3, 3, 3), 1), model)


def test_an_embedding_keeps_the_other_vector():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(9, 4)).astype("f4")
    left, right = (x.astype("f4") for x in vectors(table, 200))
    tensors = {"dense.weight_orig": table, "dense.weight_u": left, "dense.weight_v": right}
    model = Normed(nnx.Embed(9, 4, rngs=nnx.Rngs(0)))
    made = bridge.from_torch(tensors, model)
    np.testing.assert_array_equal(made.dense.batch_stats["embedding", "u"][...], right[None])
    np.testing.assert_allclose(made(np.arange(9)), normed(table), rtol=1e-4, atol=1e-5)
    back = bridge.to_torch(bridge.from_torch(tensors, model), tensors)
    np.testing.assert_array_equal(back["dense.weight_v"], right)
    np.testing.assert_allclose(back["dense.weight_u"], left, rtol=1e-4, atol=1e-6)


def test_a_file_of_either_side(tmp_path):
    tensors = state(PARAMETRIZED, (7, 5))
    for name, to, like in (("torch", "flax", None), ("flax", "torch", tensors)):
        source = tmp_path / f"{name}.safetensors"
        if to == "flax":
            bridge.save(source, tensors)
        conversion = bridge.conversion(source, Normed(linear()), to=to, like=like)
        conversion.write(tmp_path / f"{to}.safetensors")
    back = bridge.load(tmp_path / "torch.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_allclose(back[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)


INCOMPLETE = {
    "no v": ("weight_orig", "weight_u"),
    "no u": ("weight_orig", "weight_v"),
    "a pruned weight": ("weight_orig",),
    "the direction of a weight norm": ("weight_v",),
    "a parametrization of one's own": ("parametrizations.weight.original",),
}


@pytest.mark.parametrize("names", INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_weight_without_what_norms_it_is_no_weight(names):
    whole = state(HOOK, (7, 5))
    whole["dense.parametrizations.weight.original"] = whole["dense.weight_orig"]
    whole["dense.weight_v"] = whole["dense.weight_orig" if len(names) == 1 else "dense.weight_v"]
    tensors = {f"dense.{n}": whole[f"dense.{n}"] for n in ("bias", *names)}
    for model in (linear(), Normed(linear())):
        with pytest.raises(ValueError, match="fit no leaf"):
            bridge.plan(tensors, model)


def test_what_is_normed_on_one_side_is_refused():
    tensors = state(HOOK, (7, 5))
    plain = {"dense.weight": tensors["dense.weight_orig"], "dense.bias": tensors["dense.bias"]}
    with pytest.raises(ValueError, match="fit no tensor"):
        bridge.plan(plain, Normed(linear()))
    with pytest.raises(ValueError, match="fit no leaf"):
        bridge.plan(tensors, linear())
    model = {"fc": {"kernel": jax.ShapeDtypeStruct((5, 7), "f4")}}
    with pytest.raises(ValueError, match=r"(?s)W without σ.*dense"):
        bridge.plan(tensors, model, {"dense.weight_orig": "fc/kernel", "dense": None})


# --------------------------------------------------------------------- multipliers and scales


def scaled() -> nnx.Module:
    """Y = x W / 2: of width 10 over 5."""
    return jaxmup.nnx.Linear(10, 3, base_in_features=5, use_bias=False, rngs=nnx.Rngs(0))


def test_a_multiplier_cannot_be_put_under_spectral_norm():
    tensors = state(HOOK, (3, 10))
    del tensors["dense.bias"]
    with pytest.raises(ValueError, match=r"norm 1 whatever is stored.*weight_orig"):
        bridge.plan(tensors, Normed(scaled()))
    bridge.plan(tensors, Normed(scaled()), multipliers={"dense.weight_orig": 0.5})


def test_a_multiplier_is_put_into_the_scale_of_a_weight_norm():
    rng = np.random.default_rng(0)
    scale, direction = rng.normal(size=(3, 1)).astype("f4"), rng.normal(size=(3, 10)).astype("f4")
    tensors = {"weight_g": scale, "weight_v": direction}
    model = nnx.WeightNorm(scaled(), rngs=nnx.Rngs(0))
    made = bridge.from_torch(tensors, model)
    weight = scale * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    x = rng.normal(size=(2, 10)).astype("f4")
    np.testing.assert_allclose(made(x), x @ weight.T, rtol=1e-5)
    back = bridge.to_torch(bridge.from_torch(tensors, model), tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


SCALES = {
    "of the inputs": ((1, 5), nnx.Linear, (5, 5), {}),
    "of a transposed convolution, of the inputs": ((5, 1, 1), nnx.ConvTranspose, (5, 5, (2,)), {}),
}


@pytest.mark.parametrize("case", SCALES.values(), ids=SCALES)
def test_a_scale_along_another_axis_is_refused(case):
    """In PyTorch `dim` may be any; of a square weight nothing but its shape tells."""
    shape, make, sizes, options = case
    weight = np.ones((5, 5, 2)[: len(shape)], "f4")
    tensors = {"weight_g": np.ones(shape, "f4"), "weight_v": weight}
    layer = make(*sizes, use_bias=False, **options, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="fit no leaf"):
        bridge.plan(tensors, nnx.WeightNorm(layer, rngs=nnx.Rngs(0)))


def test_the_optimizer_of_a_weight_under_spectral_norm():
    """What is trained is the weight alone; the vectors are buffers."""
    tensors = state(HOOK, (7, 5))
    plan = bridge.plan(tensors, Normed(linear()))
    params = {
        "dense": {"layer_instance": {"kernel": np.zeros((5, 7), "f4"), "bias": np.zeros(7, "f4")}}
    }
    moment = np.arange(35, dtype="f4").reshape(7, 5)
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
    run = {
        "state": {0: {"momentum_buffer": np.ones(7, "f4")}, 1: {"momentum_buffer": moment}},
        "param_groups": [{**group, "params": [0, 1]}],
    }
    names = ["dense.bias", "dense.weight_orig"]
    tx = optax.sgd(0.1, 0.9)
    made = bridge.optimizer_from_torch(run, plan, tx, params, names=names)
    trace = made[0].trace["dense"]["layer_instance"]["kernel"]
    np.testing.assert_array_equal(trace, moment.T)
    back = bridge.optimizer_to_torch(made, plan, tx, params, run, names=names)
    np.testing.assert_array_equal(back["state"][1]["momentum_buffer"], moment)
