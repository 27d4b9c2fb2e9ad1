"""Blocks: gated MLP, mixture of experts, and residual blocks that know depth."""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxmup import _check, functional
from jaxmup._parameter import as_parametrization, per_expert_init, require_top_k
from jaxmup._parametrization import Parametrization, ParametrizationName
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
        `parametrization`, `dtype` or `depth_ratio`.

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
        inner = {"base_in_features": base_in_features, "base_out_features": base_hidden_features}
        self.gate = Linear(in_features, hidden_features, **inner, **shared)
        self.up = Linear(in_features, hidden_features, **inner, **shared)
        outer = {"base_in_features": base_hidden_features, "base_out_features": base_out_features}
        self.down = Linear(hidden_features, out_features, **outer, **shared)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """Applies the block to `x` of shape `(..., in_features)`: `(..., out_features)`."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


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
        or `depth_ratio`.

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
        shared = {"rngs": rngs, **linear}
        self.router = Linear(
            in_features, num_experts, use_bias=False, base_in_features=base_in_features, **shared
        )
        bases = (None, base_in_features, base_hidden_features)
        self.up = Einsum(
            "etd,edf->etf",
            (num_experts, in_features, hidden_features),
            base_kernel_shape=bases,
            **{"kernel_init": per_expert_init, **shared},
        )
        self.down = Einsum(
            "etf,efd->etd",
            (num_experts, hidden_features, in_features),
            base_kernel_shape=(bases[0], bases[2], bases[1]),
            **{"kernel_init": per_expert_init, **shared},
        )
        self.top_k = top_k
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """Applies the block to `x` of shape `(..., in_features)`: the same shape."""
        tokens = x.reshape(-1, x.shape[-1])
        gates = functional.top_k_gates(self.router(tokens), self.top_k)
        to_each = jnp.broadcast_to(tokens, (gates.shape[-1], *tokens.shape))
        outputs = self.down(self.activation(self.up(to_each)))
        return functional.mix(outputs, gates).reshape(x.shape)


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


class Stack(nnx.Module):
    """Equal blocks one after another, their parameters stacked along a leading axis.

    Scanned or unrolled, it has the same parameters and computes the same function; scanned it
    compiles one block, whatever their number. `stack[i]` is a block, `len(stack)` their number, and
    a stack is iterated over its blocks.

    Args:
      make_block: Function of random keys that makes a block, called once under `nnx.vmap`.
      num_blocks: Number of blocks.
      unroll: Whether each block is compiled on its own.
      axis_name: Name of the blocks' axis in the sharding metadata of the parameters, a mesh axis or
        a logical one; `None` if the axis is not sharded.
      rngs: Random keys; each block gets its own.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> rule = jaxmup.parametrization("mup", depth_alpha=1.0)
      >>> shared = {"parametrization": rule, "depth_ratio": 6 / 2}  # 2 blocks in the base model
      >>> def make_block(rngs):
      ...     return jaxmup.nnx.Residual(jaxmup.nnx.Linear(4, 4, **shared, rngs=rngs), **shared)
      >>> stack = jaxmup.nnx.Stack(make_block, 6, rngs=nnx.Rngs(0))
      >>> stack(jnp.ones((2, 4))).shape, jaxmup.nnx.specs(stack)["blocks"]["block"]["kernel"].shape
      ((2, 4), (6, 4, 4))
      >>> len(stack), jaxmup.nnx.specs(stack[-1])["block"]["kernel"].shape
      (6, (4, 4))
    """

    def __init__(
        self,
        make_block: Callable[[nnx.Rngs], nnx.Module],
        num_blocks: int,
        *,
        unroll: bool = False,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        _check.function("make_block", make_block)
        _check.size("num_blocks", num_blocks)
        # Without it Flax leaves the metadata of one block on the stack, whose axes are one off.
        make_blocks = nnx.vmap(make_block, transform_metadata={nnx.PARTITION_NAME: axis_name})
        self.blocks = nnx.split_rngs(splits=num_blocks)(make_blocks)(rngs)
        self.num_blocks = num_blocks
        self.unroll = unroll
        self.axis_name = axis_name

    def __call__(self, x: Array) -> Array:
        """Applies the blocks in turn."""
        if not self.unroll:
            run = nnx.scan(
                _step,
                in_axes=(nnx.Carry, 0),
                out_axes=nnx.Carry,
                transform_metadata={nnx.PARTITION_NAME: self.axis_name},
            )
            return run(x, self.blocks)
        for block in self:
            x = block(x)
        return x

    def __len__(self) -> int:
        """The number of blocks."""
        return self.num_blocks

    def __getitem__(self, index: int) -> nnx.Module:
        """The block at `index`, from the end where it is negative.

        A copy: what is written to it does not reach the stack.

        Raises:
          TypeError: if `index` is no integer.
          IndexError: if there is no such block.
        """
        i = operator.index(index)
        if not -self.num_blocks <= i < self.num_blocks:
            raise IndexError(f"`index` must be that of one of {self.num_blocks} blocks. Got {i}.")
        return next(self._cut([i]))

    def __iter__(self) -> Iterator[nnx.Module]:
        """The blocks in turn, each a copy as `stack[i]` is."""
        return self._cut(range(self.num_blocks))

    def _cut(self, indices: Iterable[int]) -> Iterator[nnx.Module]:
        graph, state = nnx.split(self.blocks)
        for i in indices:
            one = jax.tree.map(lambda leaf, i=i: leaf[i], state)
            # One block has no axis of blocks in its sharding.
            one = nnx.spmd.remove_axis(one, 0, {nnx.PARTITION_NAME: self.axis_name})
            yield nnx.merge(graph, one)


def _step(x: Array, block: Callable[[Array], Array]) -> Array:
    return block(x)
