"""The reference models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmup
from jaxmup.models import MLP


def mlp(**changes):
    arguments = {"width": 32, "depth": 3, "base_width": 16}
    return MLP(8, 4, rngs=nnx.Rngs(0), **arguments | changes)


def test_depth_counts_the_hidden_layers():
    state = nnx.state(nnx.eval_shape(lambda: mlp(depth=4)), nnx.Param)
    kernels = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim == 2]
    assert kernels == [(8, 32), (32, 32), (32, 32), (32, 32), (32, 4)]


def test_roles():
    specs = jaxmup.nnx.specs(nnx.eval_shape(mlp))
    assert [specs["hidden"][i]["kernel"].role for i in range(3)] == ["input", "hidden", "hidden"]
    assert [specs["hidden"][i]["bias"].role for i in range(3)] == ["input", "input", "input"]
    assert (specs["readout"]["kernel"].role, specs["readout"]["bias"].role) == ("output", "fixed")


def test_forward_is_activation_after_each_hidden_layer_and_none_after_the_readout():
    model = mlp(activation=jnp.tanh, depth=2)
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
    w0, w1, w2 = (
        np.asarray(layer.kernel[...], np.float64) * layer.kernel_multiplier
        for layer in (*model.hidden, model.readout)
    )
    expected = np.tanh(np.tanh(x @ w0) @ w1) @ w2
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-6)


def test_parametrization_reaches_every_layer():
    # In the gauge "ntk" each kernel has a multiplier other than 1, and `resolve` refuses layers of
    # another gauge.
    rule = jaxmup.parametrization("mup", "sgd", gauge="ntk")
    abstract = nnx.eval_shape(lambda: mlp(parametrization=rule))
    scalings = jaxmup.resolve(jaxmup.nnx.specs(abstract), rule)
    assert scalings["readout"]["kernel"].multiplier == pytest.approx(2**-0.5)
    assert [scalings["hidden"][i]["kernel"].multiplier for i in range(3)] == pytest.approx(
        [1.0, 2**-0.5, 2**-0.5]
    )


@pytest.mark.parametrize("name", ["depth", "width", "base_width"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match="at least 1"):
        mlp(**{name: 0})
