"""An explicit pair settles whatever its shapes allow, and equal names need none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxmup import bridge

ROW = np.arange(1.0, 7.0, dtype=np.float32)
TABLE = np.arange(24.0, dtype=np.float32).reshape(4, 6)
OTHER = np.ones((5, 6), np.float32)
"""A dense layer beside what is converted, so that elimination is not all there is."""


class Own(nnx.Module):
    """A parameter of one's own."""

    def __init__(self, name: str, shape: tuple[int, ...] = (6,)):
        self.fc = nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(0))
        setattr(self, name, nnx.Param(jnp.zeros(shape)))


class Normed(nnx.Module):
    def __init__(self, *, use_bias: bool):
        self.fc = nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(0))
        self.norm = nnx.LayerNorm(6, use_bias=use_bias, rngs=nnx.Rngs(0))


class Embedded(nnx.Module):
    def __init__(self):
        self.fc = nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(0))
        self.pos = nnx.Embed(4, 6, rngs=nnx.Rngs(0))


PAIRED: dict[str, tuple[dict[str, np.ndarray], nnx.Module, dict[str, Any] | None, dict[str, Any]]]
PAIRED = {
    **{
        f"equal names, {name}": ({name: ROW}, Own(name), None, {name: ROW})
        for name in ("gamma", "scale", "mean", "embedding", "weight", "kernel", "table")
    },
    "gamma of a norm": (
        {"norm.gamma": ROW},
        Normed(use_bias=False),
        {"norm.gamma": "norm/scale"},
        {"norm/scale": ROW},
    ),
    "scale of a norm": ({"norm.scale": ROW}, Normed(use_bias=False), None, {"norm/scale": ROW}),
    "gamma and beta, as BERT's": (
        {"norm.gamma": ROW, "norm.beta": -ROW},
        Normed(use_bias=True),
        {"norm.gamma": "norm/scale", "norm.beta": "norm/bias"},
        {"norm/scale": ROW, "norm/bias": -ROW},
    ),
    "a norm's weight": (
        {"norm.weight": ROW},
        Own("gamma"),
        {"norm.weight": "gamma"},
        {"gamma": ROW},
    ),
    "a norm": ({"norm.weight": ROW}, Own("gamma"), {"norm": "gamma"}, {"gamma": ROW}),
    "another name": ({"emb": ROW}, Own("pos"), {"emb": "pos"}, {"pos": ROW}),
    "an embedding's values": (
        {"pos.weight": TABLE},
        Own("pos", (4, 6)),
        {"pos.weight": "pos"},
        {"pos": TABLE},
    ),
    "values of an embedding": (
        {"pos": TABLE},
        Embedded(),
        {"pos": "pos/embedding"},
        {"pos/embedding": TABLE},
    ),
    "x @ proj": (
        {"proj": OTHER.T * 2},
        Own("unused"),
        {"proj": "fc/kernel", "fc": None, "": "unused"},
        {"fc/kernel": OTHER.T * 2},
    ),
}


@pytest.mark.parametrize("case", PAIRED.values(), ids=PAIRED)
def test_a_pair_settles_what_its_shapes_allow(case):
    tensors, model, pairs, wanted = case
    state = {"fc.weight": OTHER, **tensors}
    made = bridge.from_torch(state, model, pairs)
    found = {"/".join(path): x[...] for path, x in nnx.to_flat_state(nnx.state(made))}
    for path, values in wanted.items():
        np.testing.assert_array_equal(found[path], values)
    back = bridge.to_torch(made, state, pairs)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_a_pair_settles_the_leaves_of_a_stack():
    state = {f"h.{i}.norm.gamma": ROW * i for i in range(3)}
    model = {"blocks": {"norm": {"scale": jax.ShapeDtypeStruct((3, 6), "f4")}}}
    made = bridge.from_torch(state, model, {"h.*.norm.gamma": "blocks/norm/scale"})
    np.testing.assert_array_equal(made["blocks"]["norm"]["scale"], np.outer([0, 1, 2], ROW))


def test_a_square_parameter_of_ones_own_is_asked_about():
    state = {"proj": TABLE[:, :4]}
    model = {"fc": {"kernel": jax.ShapeDtypeStruct((4, 4), "f4")}}
    with pytest.raises(ValueError, match="Shapes must tell how these are stored"):
        bridge.plan(state, model, {"proj": "fc/kernel"})
    made = bridge.from_torch(state, model, {"proj": ("fc/kernel", "conv1d")})
    np.testing.assert_array_equal(made["fc"]["kernel"], state["proj"])
    made = bridge.from_torch(state, model, {"proj": ("fc/kernel", "linear")})
    np.testing.assert_array_equal(made["fc"]["kernel"], state["proj"].T)


def test_a_pair_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"norm.gamma \(6\)"):
        bridge.plan(
            {"norm.gamma": ROW}, {"norm": {"scale": TABLE[0, :5]}}, {"norm.gamma": "norm/scale"}
        )


# ---------------------------------------------------------------- all that a model holds


class Rotated(nnx.Module):
    """Tables that are no parameters, one of them no variable either."""

    def __init__(self):
        self.fc = nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(0))
        self.angles = nnx.Variable(jnp.asarray(ROW))
        self.mask = nnx.data(jnp.asarray(ROW))
        self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(0))


def test_what_a_checkpoint_lacks_is_named_and_kept_on_request():
    state = {"fc.weight": OTHER}
    with pytest.raises(ValueError, match=r'(?s)angles \(6\).*mask \(6\).*\{"": "angles"\}'):
        bridge.from_torch(state, Rotated())
    plan = bridge.plan(state, Rotated(), {"": "*"})
    assert ("(none)", "angles") in [row[:2] for row in plan.rows()]
    made = bridge.from_torch(state, Rotated(), {"": "*"})
    np.testing.assert_array_equal(made.fc.kernel[...], OTHER.T)
    np.testing.assert_array_equal(made.angles[...], ROW)
    assert bridge.to_torch(made, state, {"": "*"}).keys() == state.keys()


def test_a_buffer_that_a_checkpoint_has_is_converted():
    state = {"fc.weight": OTHER, "angles": 2 * ROW}
    made = bridge.from_torch(state, Rotated(), {"": "mask"})
    np.testing.assert_array_equal(made.angles[...], 2 * ROW)
    np.testing.assert_array_equal(made.mask, ROW)


def test_to_keep_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'': 'rope/\*'.*none"):
        bridge.plan({"fc.weight": OTHER}, Rotated(), {"": "rope/*"})
    with pytest.raises(ValueError, match="abstract"):
        bridge.from_torch({"fc.weight": OTHER}, nnx.eval_shape(Rotated), {"": "*"})


# ------------------------------------------------------------------------------- weight norm

HOOK = ("weight_g", "weight_v")
PARAMETRIZED = ("parametrizations.weight.original0", "parametrizations.weight.original1")


class NormedByWeight(nnx.Module):
    def __init__(self, inner: nnx.Module):
        self.dense = nnx.WeightNorm(inner, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dense(x)


def effective(scale: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The weight that PyTorch's documentation gives: g · v / ‖v‖ for each output."""
    axes = tuple(range(1, direction.ndim))
    return scale * direction / np.sqrt((direction**2).sum(axes, keepdims=True))


@pytest.mark.parametrize("names", [HOOK, PARAMETRIZED], ids=["hook", "parametrized"])
@pytest.mark.parametrize("framework", ["nnx", "linen"])
def test_weight_norm_computes_what_pytorch_documents(names, framework):
    rng = np.random.default_rng(0)
    scale, direction = rng.normal(size=(7, 1)).astype("f4"), rng.normal(size=(7, 5)).astype("f4")
    bias, x = rng.normal(size=7).astype("f4"), rng.normal(size=(3, 5)).astype("f4")
    state = {"dense.bias": bias, f"dense.{names[0]}": scale, f"dense.{names[1]}": direction}
    if framework == "nnx":
        model = NormedByWeight(nnx.Linear(5, 7, rngs=nnx.Rngs(0)))
        made = bridge.from_torch(state, model)
        got = made(x)
    else:
        module = linen.WeightNorm(linen.Dense(7))
        model = module.init(jax.random.key(0), x)
        made = bridge.from_torch(state, model)
        got = module.apply(made, x)
    want = x @ effective(scale, direction).T + bias
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    back = bridge.to_torch(bridge.from_torch(state, model), state)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_weight_norm_of_a_convolution():
    rng = np.random.default_rng(0)
    scale, direction = rng.normal(size=(4, 1, 1)), rng.normal(size=(4, 2, 3))
    state = {"dense.weight_g": scale.astype("f4"), "dense.weight_v": direction.astype("f4")}
    inner = nnx.Conv(2, 4, (3,), use_bias=False, rngs=nnx.Rngs(0))
    made = bridge.from_torch(state, NormedByWeight(inner))
    x = rng.normal(size=(1, 3, 2)).astype("f4")  # the output in the middle sees all of it
    want = np.einsum("oiw,wi->o", effective(scale, direction), x[0])
    np.testing.assert_allclose(made(x)[0, 1], want, rtol=1e-4)


def test_weights_without_a_norm_do_not_fill_a_normed_layer():
    state = {"dense.weight": np.ones((7, 5), "f4"), "dense.bias": np.ones(7, "f4")}
    with pytest.raises(ValueError, match=r"Of Flax these fit no tensor"):
        bridge.plan(state, NormedByWeight(nnx.Linear(5, 7, rngs=nnx.Rngs(0))))
    normed = {"dense.bias": state["dense.bias"], "dense.weight_g": np.ones((7, 1), "f4")}
    normed["dense.weight_v"] = state["dense.weight"]
    with pytest.raises(ValueError, match=r"Of PyTorch these fit no leaf"):
        bridge.plan(normed, nnx.Linear(5, 7, rngs=nnx.Rngs(0)))


def test_the_direction_of_a_normed_weight_is_no_weight():
    state = {"fc.weight_g": np.ones((7, 1), "f4"), "fc.weight_v": np.ones((7, 5), "f4")}
    model = {"fc": {"kernel": jax.ShapeDtypeStruct((5, 7), "f4")}}
    with pytest.raises(ValueError, match=r"(?s)v without g is another weight.*fc"):
        bridge.plan(state, model, {"fc.weight_v": "fc/kernel", "fc.weight_g": None})
