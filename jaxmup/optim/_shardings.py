"""The layout of an optimizer's state over a mesh, from that of the parameters."""

from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmup._tree import Params, Tree, named_leaves


def state_shardings(tx: optax.GradientTransformation, params: Params) -> Tree:
    """The shardings of an optimizer's state: of each leaf as JAX derives it from the parameters.

    In a mesh of automatic axes neither `jax.eval_shape(tx.init, params)` has shardings nor need
    those of `jax.jit(tx.init)(params)` be those of the parameters. In one of explicit axes they are
    part of the types, so `tx.init` is traced there. Nothing is computed and no array is made.

    Args:
      tx: Optimizer.
      params: Parameters, or their shapes and dtypes, with a `NamedSharding` at each leaf; a leaf
        with another sharding, or with none, is on every device.

    Returns:
      A tree like the state, with a `NamedSharding` at each leaf: the `out_shardings` of
      `jax.jit(tx.init)`, or what a checkpoint is restored by.

    Raises:
      ValueError: if no leaf has a `NamedSharding`, or two have different meshes.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
      >>> sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
      >>> params = {"kernel": jax.ShapeDtypeStruct((4, 8), "float32", sharding=sharding)}
      >>> adam, _ = state_shardings(optax.adam(1e-3), params)
      >>> adam.mu["kernel"].spec, adam.count.spec
      (P(None, 'data'), P())
    """
    mesh = _mesh_of(params)
    explicit = AbstractMesh(
        mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names)
    )

    def typed(x: Any) -> jax.ShapeDtypeStruct:
        spec = _spec_of(x)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(explicit, spec))

    with jax.sharding.use_abstract_mesh(explicit):
        state = jax.eval_shape(tx.init, jax.tree.map(typed, params))
    return jax.tree.map(lambda x: NamedSharding(mesh, _spec_of(x)), state)


def _spec_of(x: Any) -> PartitionSpec:
    sharding = getattr(x, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()


def _mesh_of(params: Params) -> Mesh | AbstractMesh:
    shardings = {name: getattr(x, "sharding", None) for name, x in named_leaves(params)}
    named = {name: x for name, x in shardings.items() if isinstance(x, NamedSharding)}
    if not named:
        raise ValueError(
            "`params` must be laid out over a mesh, by a `NamedSharding` at each leaf. Got "
            f"{len(shardings)} leaves without one."
        )
    (first, sharding), *others = named.items()
    for name, other in others:
        if other.mesh != sharding.mesh:
            raise ValueError(
                f"`params` must be laid out over one mesh. Got {sharding.mesh} for {first} and "
                f"{other.mesh} for {name}."
            )
    return sharding.mesh
