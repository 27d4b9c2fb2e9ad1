"""An optimizer that treats each layer of a stack as a parameter of its own."""

from typing import Any

import jax
import optax
from jax import Array

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._tree import OptState, Params, PathName, Updates, leaves_by_path, path_name


def per_layer(
    tx: optax.GradientTransformation, *paths: PathName
) -> optax.GradientTransformationExtraArgs:
    """`tx` for each layer of each stack on its own, as it would be in the unrolled model.

    A stack of layers is one array, so a transform that looks at a parameter as a whole takes its
    layers together: the norms of Adafactor, LAMB and LARS, the matrices of Muon. This runs it on
    each layer by itself; what does not look at a whole parameter it leaves as it is.

    Args:
      tx: Any optax transform that does not couple parameters.
      *paths: Paths of the stacks, such as `"blocks"`: each names a parameter or a subtree, all of
        whose arrays have a leading axis of layers.

    Returns:
      A transform with the state of `optax.partition`; that of a stack has a leading axis of layers
      on every leaf.

    Raises:
      TypeError: if `tx` is no transform, or a path no string.
      ValueError: if no path is given; at `init`, if a path names no parameter,
        or parameters of unequal lengths.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = per_layer(optax.clip_by_block_rms(1.0), "w")
      >>> gradients = {"w": jnp.array([[3.0], [0.5]])}  # as one parameter it has an RMS of 2.2
      >>> tx.update(gradients, tx.init(gradients))[0]["w"].tolist()
      [[1.0], [0.5]]
    """
    _check.transform("tx", tx)
    if not paths:
        raise ValueError("`paths` must name a stack, or more. Got none. Leave `tx` as it is then.")
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"`paths` must be names, such as 'blocks'. Got {paths!r}.")

    def label(path: tuple[Any, ...], _: Array) -> PathName:
        name = path_name(path)
        found = [p for p in paths if name == p or name.startswith(f"{p}/")]
        return found[0] if found else ""

    partition = optax.partition(
        {"": tx, **{path: _over_layers(tx) for path in paths}},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )

    def init(params: Params) -> OptState:
        _require_stacks(params, paths)
        return partition.init(params)

    return optax.GradientTransformationExtraArgs(init, partition.update)


def _over_layers(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        # Extra arguments, such as the value of the loss, are those of all layers.
        def one(
            updates: Updates, state: OptState, params: Params | None
        ) -> tuple[Updates, OptState]:
            return tx.update(updates, state, params, **extra)

        return jax.vmap(one)(updates, state, params)

    return optax.GradientTransformationExtraArgs(jax.vmap(tx.init), update)


def _require_stacks(params: Params, paths: tuple[PathName, ...]) -> None:
    leaves = leaves_by_path(params)
    for path in paths:
        shapes = {n: x.shape for n, x in leaves.items() if n == path or n.startswith(f"{path}/")}
        if not shapes or len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
            rows = listed(f"{name} {shape}" for name, shape in shapes.items()) or " none"
            raise ValueError(
                f"The parameters at {path!r} must all have a leading axis of as many layers. "
                f"Got{rows}\nThe parameters are{listed(leaves)}"
            )
