"""Blocks: gated MLP, mixture of experts, and residual blocks that know depth."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.linear import default_kernel_init
from flax.typing import Dtype, Initializer
from jax import Array

from jaxmup import _check, functional
from jaxmup._parameter import as_parametrization, per_expert_init, require_top_k
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.linen._layer import once
from jaxmup.linen._linear import Dense, Einsum


class _Block(nn.Module, kw_only=True):
    """The fields that the layers of a block have in common.

    Args:
      base_in_features: Size of the last axis of the inputs in the base model; `None` if it does not
        grow.
      base_hidden_features: `hidden_features` of the base model; `None` if it does not grow.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      dtype: Dtype of the computation; `None` for that of inputs and parameters.
      param_dtype: Dtype of the parameters.
    """

    base_in_features: int | None = None
    base_hidden_features: int | None = None
    parametrization: Parametrization | ParametrizationName = "mup"
    lr_scale: float = 1.0
    depth_ratio: float = 1.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.nowrap
    def shared(self) -> dict[str, Any]:
        """The settings of every layer of the block."""
        names = ("parametrization", "lr_scale", "depth_ratio", "dtype", "param_dtype")
        return {name: getattr(self, name) for name in names}


class GatedMLP(_Block):
    """A gated feed-forward layer, SwiGLU by default: `down(activation(gate(x)) · up(x))`.

    Args:
      hidden_features: Size of the hidden layer.
      features: Size of the last axis of the outputs; `None` for that of the inputs.
      activation: Activation of the gate.
      use_bias: Whether the three linear layers have biases.
      base_in_features: Size of the last axis of the inputs in the base model; `None` if it does not
        grow.
      base_hidden_features: `hidden_features` of the base model; `None` if it does not grow.
      base_features: `features` of the base model; `None` if it does not grow. Where `features` is
        `None`, it is `base_in_features`.
      kernel_init: Initializer of the kernels of gate and up at base width; in Flax's
        `with_partitioning` it names their axes.
      down_kernel_init: Initializer of the kernel of `down`; `None` for `kernel_init`.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      dtype: Dtype of the computation; `None` for that of inputs and parameters.
      param_dtype: Dtype of the parameters.

    Example:
      >>> import jaxmup
      >>> mlp = jaxmup.linen.GatedMLP(16, base_in_features=4, base_hidden_features=8)
      >>> sorted(jaxmup.linen.specs(mlp, jnp.ones((2, 8))))
      ['down', 'gate', 'up']

    References:
      Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, Equation 6.
    """

    hidden_features: int
    features: int | None = None
    activation: Callable[[Array], Array] = jax.nn.silu
    use_bias: bool = False
    base_features: int | None = None
    kernel_init: Initializer = default_kernel_init
    down_kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the block to `x` of shape `(..., in_features)`: `(..., features)`."""
        features, base_features = self.features, self.base_features
        if features is None:
            features, base_features = x.shape[-1], self.base_in_features
        shared = {"use_bias": self.use_bias, **self.shared()}
        inner = {
            "base_in_features": self.base_in_features,
            "base_features": self.base_hidden_features,
            "kernel_init": self.kernel_init,
        }
        gate = Dense(self.hidden_features, name="gate", **inner, **shared)(x)
        up = Dense(self.hidden_features, name="up", **inner, **shared)(x)
        outer = {
            "base_in_features": self.base_hidden_features,
            "base_features": base_features,
            "kernel_init": self.down_kernel_init or self.kernel_init,
        }
        return Dense(features, name="down", **outer, **shared)(self.activation(gate) * up)


class MixtureOfExperts(_Block):
    """A mixture of MLPs: each input goes to the `top_k` experts that a router prefers.

    The experts are batch axes: each follows the rule of a hidden matrix of its own size. The router
    reads a growing axis out into a fixed number of experts, so it follows the rule of a readout.
    Every expert computes every input, and the gates of those not chosen are zero: exact, with no
    capacity to run over, and `num_experts / top_k` times the work of a dispatched mixture.

    Not settled: the rule holds for a fixed number of experts. Where their number, `top_k`
    or their granularity grow too, plain muP is not enough (arXiv:2508.09752, arXiv:2605.14200), and
    this layer has no base for them.

    Args:
      hidden_features: Size of each expert's hidden layer.
      num_experts: Number of experts; the same in every model.
      top_k: Number of experts that an input goes to; the same in every model.
      activation: Activation of the hidden layer.
      base_in_features: Size of the last axis of inputs and outputs in the base model; `None` if it
        does not grow.
      base_hidden_features: `hidden_features` of the base model; `None` if it does not grow.
      kernel_init: Initializer of the experts' `up` at base width; in Flax's `with_partitioning` it
        names the axes of the kernel.
      down_kernel_init: Initializer of the experts' `down`; `None` for `kernel_init`.
      router_kernel_init: Initializer of the router's kernel.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      dtype: Dtype of the computation; `None` for that of inputs and parameters.
      param_dtype: Dtype of the parameters.

    Raises:
      ValueError: at the first call, if `top_k` is not between 1 and `num_experts`.

    Example:
      >>> import jaxmup
      >>> sizes = {"base_in_features": 4, "base_hidden_features": 8}
      >>> block = jaxmup.linen.MixtureOfExperts(16, 4, 2, **sizes)
      >>> specs = jaxmup.linen.specs(block, jnp.ones((3, 8)))
      >>> specs["router"]["kernel"].role, specs["up"]["kernel"].role
      ('output', 'hidden')
    """

    hidden_features: int
    num_experts: int
    top_k: int
    activation: Callable[[Array], Array] = jax.nn.silu
    kernel_init: Initializer = per_expert_init
    down_kernel_init: Initializer | None = None
    router_kernel_init: Initializer = default_kernel_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the block to `x` of shape `(..., in_features)`: the same shape."""
        once(require_top_k, self.top_k, self.num_experts)
        features, hidden, shared = x.shape[-1], self.hidden_features, self.shared()
        base_in, base_hidden = self.base_in_features, self.base_hidden_features
        tokens = x.reshape(-1, features)
        router = Dense(
            self.num_experts,
            use_bias=False,
            base_in_features=base_in,
            kernel_init=self.router_kernel_init,
            name="router",
            **shared,
        )
        gates = functional.top_k_gates(router(tokens), self.top_k)
        shared |= {"use_bias": False}
        up = Einsum(
            (self.num_experts, features, hidden),
            "etd,edf->etf",
            base_shape=(None, base_in, base_hidden),
            kernel_init=self.kernel_init,
            name="up",
            **shared,
        )
        down = Einsum(
            (self.num_experts, hidden, features),
            "etf,efd->etd",
            base_shape=(None, base_hidden, base_in),
            kernel_init=self.down_kernel_init or self.kernel_init,
            name="down",
            **shared,
        )
        to_each = jnp.broadcast_to(tokens, (self.num_experts, *tokens.shape))
        outputs = down(self.activation(up(to_each)))
        return functional.mix(outputs, gates).reshape(x.shape)


class Residual(nn.Module):
    """A residual block whose contribution knows depth: `x + depth_ratio^-α · block(x)`.

    The layers of the block take the same `depth_ratio`, which their learning rates and eps follow.

    Args:
      block: A Linen module, or any function.
      depth_ratio: Number of residual blocks of the model over that of the base model.
      parametrization: A `Parametrization`, whose `depth_alpha` is α, or its name.

    Raises:
      ValueError: at the first call, if `depth_ratio` is not a finite positive number, or is not 1
        and the parametrization says nothing about depth.

    Example:
      >>> import jaxmup
      >>> rule = jaxmup.parametrization("mup", depth_alpha=1.0)
      >>> block = jaxmup.linen.Residual(jnp.ones_like, depth_ratio=4.0, parametrization=rule)
      >>> float(block.apply({}, jnp.array(1.0)))
      1.25

    References:
      Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers",
      arXiv:2505.01618, Table 1.
    """

    block: Callable[..., Array]
    depth_ratio: float = 1.0
    parametrization: Parametrization | ParametrizationName = "mup"

    @nn.compact
    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
        """Adds `multiplier · block(x, ...)` to `x`."""
        _check.function("block", self.block)
        multiplier = once(_residual_multiplier, self.parametrization, self.depth_ratio)
        return x + functional.scale(self.block(x, *args, **kwargs), multiplier)


def _residual_multiplier(
    parametrization: Parametrization | ParametrizationName, depth_ratio: float
) -> float:
    return as_parametrization(parametrization).residual_multiplier(depth_ratio)
