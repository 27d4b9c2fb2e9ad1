"""An explicit pair settles whatever its shapes allow, and equal names need none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
