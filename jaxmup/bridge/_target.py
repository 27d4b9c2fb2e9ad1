"""Models of Flax as leaves with paths, and models with other leaves."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmup._spec import ParamSpec
from jaxmup._tree import leaves_by_path, listed, map_named
from jaxmup.bridge._layouts import Array
from jaxmup.bridge._units import LayerKind, Leaf
from jaxmup.nnx._layer import SPEC, name_of

_SAVED = (nnx.Param, nnx.BatchStat)


class Target(NamedTuple):
    """A model of Flax.

    Args:
      leaves: what a checkpoint holds of it.
      values: its arrays by path; abstract where the model is.
      build: the model with other arrays, by path.
    """

    leaves: tuple[Leaf, ...]
    values: Mapping[str, Any]
    build: Callable[[Mapping[str, Array]], Any]


def read(model: Any, specs: Any = None) -> Target:
    """Reads a model, which may be abstract.

    Args:
      model: an NNX module, or a tree of arrays such as Linen's variables.
      specs: for a tree, the `ParamSpec` of its parameters, whose multipliers its layers apply.

    Raises:
      TypeError: if a leaf is no array.
    """
    if isinstance(model, nnx.Module):
        return _read_nnx(model)
    values = leaves_by_path(model)
    wrong = [f"{n}: {type(x).__name__}" for n, x in values.items() if not hasattr(x, "shape")]
    if wrong or not values:
        raise TypeError(
            "`target` must be an NNX module or a tree of arrays, such as Linen's variables. Got "
            f"{listed(wrong) if wrong else 'an empty tree'}"
        )
    by_path = specs_by_path(model, specs)
    leaves = tuple(
        Leaf(name, tuple(x.shape), np.dtype(x.dtype), multiplier=_multiplier(by_path.get(name)))
        for name, x in values.items()
    )
    return Target(
        leaves, values, lambda arrays: map_named(lambda _, x: on_device(x), model, arrays)
    )


def on_device(array: Array) -> jax.Array:
    """A copy as an array of JAX with the same dtype.

    Raises:
      ValueError: if JAX would make it narrower.
    """
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"Dtypes are kept, and JAX has no {array.dtype} unless it is told to. Call "
            'jax.config.update("jax_enable_x64", True) first, or convert the checkpoint.'
        )
    return jnp.array(array)  # PyTorch goes on writing to its own memory


def specs_by_path(model: Any, specs: Any) -> dict[str, ParamSpec]:
    """The specs of the leaves by path: those that are given, or an NNX module's own."""
    if specs is None and isinstance(model, nnx.Module):
        flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
        found = {name_of(path): variable.get_metadata().get(SPEC) for path, variable in flat}
        return {path: spec for path, spec in found.items() if spec is not None}
    given = {} if specs is None else leaves_by_path(specs)
    # Specs are of the parameters, where a model may have other collections too.
    return given | {f"params/{path}": spec for path, spec in given.items()}


def _multiplier(spec: ParamSpec | None) -> float:
    return 1.0 if spec is None or spec.applied is None else spec.applied.multiplier


def _read_nnx(model: nnx.Module) -> Target:
    graph, saved, rest = nnx.split(model, _SAVED, ...)
    layers = dict(nnx.iter_modules(model))
    leaves = tuple(
        _nnx_leaf(path, variable, layers.get(path[:-1]))
        for path, variable in nnx.to_flat_state(saved)
    )

    def build(arrays: Mapping[str, Array]) -> nnx.Module:
        abstract = [n for n, x in leaves_by_path(rest).items() if not hasattr(x, "devices")]
        if abstract:
            raise ValueError(
                "What no checkpoint holds, such as random keys, must be in the model. It is "
                f"abstract:{listed(abstract)}\nBuild the model instead of its shapes."
            )
        filled = map_named(lambda _, x: on_device(x), saved, arrays)
        return nnx.merge(graph, filled, jax.tree.map(lambda x: x, rest))

    return Target(leaves, leaves_by_path(saved), build)


def _nnx_leaf(path: tuple[Any, ...], variable: Any, layer: Any) -> Leaf:
    spec: ParamSpec | None = variable.get_metadata().get(SPEC)
    kind = _kind(layer)
    rank = _rank(layer, kind, path[-1]) if spec is None else len(spec.axes)
    return Leaf(
        name_of(path),
        tuple(variable.shape),
        np.dtype(variable.dtype),
        kind,
        rank,
        _multiplier(spec),
    )


def _kind(layer: Any) -> LayerKind | None:
    match layer:
        case nnx.Linear() | nnx.LinearGeneral():
            return "linear"
        case nnx.Conv():
            return "conv"
        case nnx.ConvTranspose():
            return "conv_gradient" if layer.transpose_kernel else "conv_transpose"
        case nnx.Einsum():
            return "einsum"
        case nnx.Embed() | nnx.LayerNorm() | nnx.RMSNorm() | nnx.BatchNorm() | nnx.GroupNorm():
            return "other"
    return None


def _rank(layer: Any, kind: LayerKind | None, leaf: str) -> int | None:
    """The number of axes that a leaf of a layer has before `vmap` stacks layers."""
    if leaf == "kernel":
        match layer:
            case nnx.Linear():
                return 2
            case nnx.LinearGeneral():
                return len(layer.in_features) + len(layer.out_features)
            case nnx.Conv() | nnx.ConvTranspose():
                return len(layer.kernel_shape)
    if isinstance(layer, nnx.LinearGeneral):
        return len(layer.out_features)
    if isinstance(layer, nnx.Embed):
        return 2
    return None if kind is None or kind == "einsum" else 1
