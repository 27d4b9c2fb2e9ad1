"""Blocks: gated MLP, mixture of experts, and residual blocks that know depth."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxmup import _check, functional
from jaxmup._parameter import as_parametrization, per_expert_init, require_top_k
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.functional import OutSharding
from jaxmup.nnx._linear import Einsum, Linear


class GatedMLP(nnx.Module):
    """A gated feed-forward layer, SwiGLU by default: `down(activation(gate(x)) · up(x))`.

    Args:
      in_features: Size of the last axis of the inputs.
      hidden_features: Size of the hidden layer.
      out_features: Size of the last axis of the outputs; `None` for `in_features`.
      activation: Activation of the gate.
      use_bias: Whether the three linear layers have biases.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_hidden_features: `hidden_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow. Where
        `out_features` is `None`, it is `base_in_features`.
      rngs: Random keys.
      **linear: Arguments that the three `jaxmup.nnx.Linear` have in common, such as
        `parametrization`, `dtype` or `depth_ratio`. Initializers and metadata of `down` are
        `down_kernel_init`, `down_bias_init`, `down_kernel_metadata` and `down_bias_metadata`;
        without them it has those of the others, with the axes of the kernel's `out_sharding` the
        other way round and its bias not sharded.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> sizes = {"base_in_features": 4, "base_hidden_features": 8}
      >>> mlp = jaxmup.nnx.GatedMLP(8, 16, **sizes, rngs=nnx.Rngs(0))
      >>> mlp(jnp.ones((2, 8))).shape
      (2, 8)

    References:
      Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, Equation 6.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        *,
        activation: Callable[[Array], Array] = jax.nn.silu,
        use_bias: bool = False,
        base_in_features: int | None = None,
        base_hidden_features: int | None = None,
        base_out_features: int | None = None,
        rngs: nnx.Rngs,
        **linear: Any,
    ):
        if out_features is None:
            out_features, base_out_features = in_features, base_in_features
        shared = {"use_bias": use_bias, "rngs": rngs, **linear}
        shared, of_down = split_arguments(shared)
        inner = {"base_in_features": base_in_features, "base_out_features": base_hidden_features}
        self.gate = Linear(in_features, hidden_features, **inner, **shared)
        self.up = Linear(in_features, hidden_features, **inner, **shared)
        outer = {"base_in_features": base_hidden_features, "base_out_features": base_out_features}
        self.down = Linear(hidden_features, out_features, **outer, **of_down)
        self.activation = activation

    def __call__(
        self, x: Array, out_sharding: OutSharding = None, hidden_sharding: OutSharding = None
    ) -> Array:
        """Applies the block to `x` of shape `(..., in_features)`: `(..., out_features)`.

        Args:
          x: Inputs.
          out_sharding: Sharding of the outputs, in a mesh of explicit axes.
          hidden_sharding: Sharding of the hidden layer, in a mesh of explicit axes.
        """
        gate, up = self.gate(x, hidden_sharding), self.up(x, hidden_sharding)
        return self.down(self.activation(gate) * up, out_sharding)


class MixtureOfExperts(nnx.Module):
    """A mixture of MLPs: each input goes to the `top_k` experts that a router prefers.

    The experts are batch axes: each follows the rule of a hidden matrix of its own size. The router
    reads a growing axis out into a fixed number of experts, so it follows the rule of a readout.
    Every expert computes every input, and the gates of those not chosen are zero: exact, with no
    capacity to run over, and `num_experts / top_k` times the work of a dispatched mixture.

    Not settled: the rule holds for a fixed number of experts. Where their number, `top_k`
    or their granularity grow too, plain muP is not enough (arXiv:2508.09752, arXiv:2605.14200), and
    this layer has no base for them.

    Args:
      in_features: Size of the last axis of inputs and outputs.
      hidden_features: Size of each expert's hidden layer.
      num_experts: Number of experts; the same in every model.
      top_k: Number of experts that an input goes to; the same in every model.
      activation: Activation of the hidden layer.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_hidden_features: `hidden_features` of the base model; `None` if it does not grow.
      rngs: Random keys.
      **linear: Arguments that router and experts have in common, such as `parametrization`, `dtype`
        or `depth_ratio`. `kernel_metadata` is that of the experts' `up`. Those of the other
        kernels are `down_kernel_metadata` and `router_kernel_metadata`, and there are
        `down_kernel_init` and `router_kernel_init`. Without them `down` has the metadata of `up`,
        with the last two axes of `out_sharding` the other way round, and the router has none.

    Raises:
      ValueError: if `top_k` is not between 1 and `num_experts`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> sizes = {"base_in_features": 4, "base_hidden_features": 8}
      >>> block = jaxmup.nnx.MixtureOfExperts(8, 16, 4, 2, **sizes, rngs=nnx.Rngs(0))
      >>> specs = jaxmup.nnx.specs(block)
      >>> specs["router"]["kernel"].role, specs["up"]["kernel"].role
      ('output', 'hidden')
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_experts: int,
        top_k: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.silu,
        base_in_features: int | None = None,
        base_hidden_features: int | None = None,
        rngs: nnx.Rngs,
        **linear: Any,
    ):
        require_top_k(top_k, num_experts)
        linear, of_router = _of_router(linear)
        of_up, of_down = split_arguments({"kernel_init": per_expert_init, "rngs": rngs, **linear})
        self.router = Linear(
            in_features,
            num_experts,
            use_bias=False,
            base_in_features=base_in_features,
            rngs=rngs,
            **of_router,
        )
        bases = (None, base_in_features, base_hidden_features)
        self.up = Einsum(
            "etd,edf->etf",
            (num_experts, in_features, hidden_features),
            base_kernel_shape=bases,
            **of_up,
        )
        self.down = Einsum(
            "etf,efd->etd",
            (num_experts, hidden_features, in_features),
            base_kernel_shape=(bases[0], bases[2], bases[1]),
            **of_down,
        )
        self.top_k = top_k
        self.activation = activation

    def __call__(
        self, x: Array, out_sharding: OutSharding = None, hidden_sharding: OutSharding = None
    ) -> Array:
        """Applies the block to `x` of shape `(..., in_features)`: the same shape.

        Args:
          x: Inputs.
          out_sharding: Sharding of the outputs of shape `(..., in_features)`, in a mesh of explicit
            axes.
          hidden_sharding: Sharding of the hidden layer of shape
            `(experts, tokens, hidden_features)`, in a mesh of explicit axes.
        """
        tokens = x.reshape(-1, x.shape[-1])
        gates = functional.top_k_gates(self.router(tokens), self.top_k)
        to_each = jnp.broadcast_to(tokens, (gates.shape[-1], *tokens.shape))
        hidden = self.activation(self.up(to_each, out_sharding=hidden_sharding))
        experts, of_tokens = _first_two(hidden_sharding)
        outputs = self.down(hidden, out_sharding=experts)
        mixed = functional.mix(outputs, gates, of_tokens).reshape(x.shape)
        return mixed if out_sharding is None else jax.sharding.reshard(mixed, out_sharding)


class Residual(nnx.Module):
    """A residual block whose contribution knows depth: `x + depth_ratio^-α · block(x)`.

    The layers of the block take the same `depth_ratio`, which their learning rates and eps follow.

    Args:
      block: An NNX module, or any function.
      depth_ratio: Number of residual blocks of the model over that of the base model.
      parametrization: A `Parametrization`, whose `depth_alpha` is α, or its name.

    Raises:
      ValueError: if `depth_ratio` is not a finite positive number, or is not 1 and the
        parametrization says nothing about depth.

    Example:
      >>> import jaxmup
      >>> rule = jaxmup.parametrization("mup", depth_alpha=1.0)
      >>> block = jaxmup.nnx.Residual(jnp.ones_like, depth_ratio=4.0, parametrization=rule)
      >>> float(block(jnp.array(1.0)))
      1.25

    References:
      Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers",
      arXiv:2505.01618, Table 1.
    """

    def __init__(
        self,
        block: Callable[..., Array],
        *,
        depth_ratio: float = 1.0,
        parametrization: Parametrization | ParametrizationName = "mup",
    ):
        _check.function("block", block)
        self.block = block
        self.multiplier = as_parametrization(parametrization).residual_multiplier(depth_ratio)

    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
        """Adds `multiplier · block(x, ...)` to `x`."""
        return x + functional.scale(self.block(x, *args, **kwargs), self.multiplier)


def _first_two(hidden: OutSharding) -> tuple[PartitionSpec | None, PartitionSpec | None]:
    """The shardings of the experts' outputs and of their mixture, from that of the hidden layer."""
    if hidden is None:
        return None, None
    spec = hidden.spec if isinstance(hidden, NamedSharding) else hidden
    experts, tokens, *_ = *spec, None, None
    return PartitionSpec(experts, tokens, None), PartitionSpec(tokens, None)


_OF_PARAMETERS = ("kernel_init", "bias_init", "kernel_metadata", "bias_metadata")


def split_arguments(linear: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the layers into a hidden layer, and of the layer `down` out of it.

    Args:
      linear: Arguments of all, those of `down` alone with its name in front.

    Example:
      >>> split_arguments({"kernel_metadata": {"out_sharding": ("embed", "mlp")}})[1]
      {'kernel_metadata': {'out_sharding': ('mlp', 'embed')}}
    """
    own = {name: f"down_{name}" for name in _OF_PARAMETERS}
    into = {name: value for name, value in linear.items() if name not in own.values()}
    down = dict(into)
    if "kernel_metadata" in into:
        down["kernel_metadata"] = _turned(into["kernel_metadata"])
    if "bias_metadata" in into:
        down["bias_metadata"] = {
            name: value for name, value in into["bias_metadata"].items() if name != "out_sharding"
        }
    down |= {name: linear[theirs] for name, theirs in own.items() if linear.get(theirs) is not None}
    return into, down


def _turned(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a kernel with its last two axes the other way round."""
    names = metadata.get("out_sharding")
    if not isinstance(names, tuple | list | PartitionSpec):
        return dict(metadata)
    *batch, inputs, outputs = names
    return {**metadata, "out_sharding": (*batch, outputs, inputs)}


def _of_router(linear: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a mixture's experts, and those of its router."""
    own = {name: f"router_{name}" for name in ("kernel_init", "kernel_metadata")}
    experts = {name: value for name, value in linear.items() if name not in own.values()}
    of_experts = {"kernel_metadata", *(f"down_{name}" for name in _OF_PARAMETERS)}
    router = {name: value for name, value in experts.items() if name not in of_experts}
    router |= {name: linear[theirs] for name, theirs in own.items() if theirs in linear}
    return experts, router
