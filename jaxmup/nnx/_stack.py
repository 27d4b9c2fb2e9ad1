"""Equal blocks one after another, their parameters stacked."""

import operator
from collections.abc import Callable, Iterable, Iterator

import jax
from flax import nnx
from jax import Array

from jaxmup import _check


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
      remat: Policy of `jax.checkpoint_policies` by which the backward pass computes each block's
        activations again, such as `nothing_saveable` for all of them; `None` keeps them.
      rngs: Random keys; each block gets its own.

    Example:
      >>> import jax.numpy as jnp
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
        remat: Callable[..., bool] | None = None,
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
        self.remat = remat

    def __call__(self, x: Array) -> Array:
        """Applies the blocks in turn."""
        step = call_block(self.remat, is_scanned=not self.unroll)
        if not self.unroll:
            run = nnx.scan(
                step,
                in_axes=(nnx.Carry, 0),
                out_axes=nnx.Carry,
                transform_metadata={nnx.PARTITION_NAME: self.axis_name},
            )
            return run(x, self.blocks)
        for block in self:
            x = step(x, block)
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


def call_block(
    remat: Callable[..., bool] | None, *, is_scanned: bool = False
) -> Callable[[Array, nnx.Module], Array]:
    """The function `(x, block)` that calls a block, which computes it again by a policy.

    Args:
      remat: Policy of `jax.checkpoint_policies`; `None` keeps all activations.
      is_scanned: Whether it is the body of a scan.

    Raises:
      TypeError: if `remat` is no function.
    """
    if remat is None:
        return _call
    _check.function("remat", remat)
    # The loop of a scan keeps XLA from joining the two computations; barriers would cost time.
    return nnx.remat(_call, policy=remat, prevent_cse=not is_scanned)


def _call(x: Array, block: Callable[[Array], Array]) -> Array:
    return block(x)
