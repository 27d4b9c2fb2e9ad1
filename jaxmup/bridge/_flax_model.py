"""Models of Flax as leaves with paths, and models with other leaves."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmup._check import listed
from jaxmup._inputs import is_array
from jaxmup._spec import ParamSpec
from jaxmup._tree import (
    PathName,
    Specs,
    Tree,
    added_axes,
    leaves_by_path,
    named_leaves,
    require_leaves,
)
from jaxmup.bridge._units import COLLECTIONS, FlaxLeaf, LayerKind
from jaxmup.nnx._layer import SPEC, name_of

_PASSING = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation)
"""What a model holds for a while only, and no checkpoint does."""
LeafArrays: TypeAlias = Mapping[PathName, np.ndarray | jax.Array | jax.ShapeDtypeStruct]


class FlaxModel(NamedTuple):
    """A model of Flax, taken apart.

    Args:
      leaves: Leaves that a checkpoint holds.
      values: LeafArrays of the leaves; abstract where the model is.
      specs: `ParamSpec` of each leaf that has one.
      build: Function from other arrays to the model that holds them.
      layers: Modules by path; none of a tree.
    """

    leaves: tuple[FlaxLeaf, ...]
    values: LeafArrays
    specs: Mapping[PathName, ParamSpec]
    build: Callable[[Mapping[PathName, np.ndarray]], Any]
    layers: Mapping[PathName, nnx.Module] = MappingProxyType({})


def open_model(model: nnx.Module | Tree, specs: Specs | None = None) -> FlaxModel:
    """Takes a model apart, which may be abstract.

    Args:
      model: An NNX module, or a tree with arrays, such as Linen's variables or an Equinox module.
        Leaves that are no arrays, such as flags and functions, stay as they are.
      specs: For a tree, the `ParamSpec` of its parameters, whose multipliers its layers apply; an
        NNX module has its own.

    Raises:
      TypeError: if no leaf is an array, or one of `specs` is no `ParamSpec`.
      ValueError: if two leaves have one name, or a spec is of no leaf or of another shape than its.
    """
    if isinstance(model, nnx.Module):
        return _open_nnx(model, specs)
    values = {name: leaf for name, leaf in named_leaves(model) if _is_array(leaf)}
    if not values:
        wrong = [
            f"{name or '(the tree itself)'}: {type(leaf).__name__}"
            for name, leaf in named_leaves(model)
        ]
        raise TypeError(
            "`model` must be an NNX module or a tree with arrays, such as Linen's variables. Got "
            f"{listed(wrong) if wrong else 'an empty tree'}"
        )
    by_path = _given_specs(specs, values)
    leaves = tuple(
        FlaxLeaf(name, tuple(x.shape), np.dtype(x.dtype), multiplier=_multiplier(by_path.get(name)))
        for name, x in values.items()
    )
    return FlaxModel(leaves, values, by_path, lambda arrays: _with_arrays(model, arrays))


def on_device(array: np.ndarray) -> jax.Array:
    """A copy as an array of JAX with the same dtype.

    Raises:
      ValueError: if JAX would make it narrower.
    """
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"Dtypes are kept, and JAX has no {array.dtype} unless it is told to. Call "
            'jax.config.update("jax_enable_x64", True) first, or convert the checkpoint.'
        )
    # PyTorch goes on writing to its own memory, and JAX copies when its device gets to it, even if
    # it is asked for a copy: so the copy that is made now is numpy's.
    return jnp.asarray(np.array(array, order="C"))


def _is_array(leaf: Any) -> bool:
    """True for arrays of numbers; a random key is an array of JAX, but no checkpoint holds one."""
    return is_array(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)


def _with_arrays(tree: Tree, arrays: Mapping[PathName, np.ndarray]) -> Tree:
    """The tree with other arrays, its other leaves as they are."""
    leaves = [
        on_device(arrays[name]) if _is_array(leaf) else leaf for name, leaf in named_leaves(tree)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _given_specs(specs: Specs | None, values: LeafArrays) -> dict[PathName, ParamSpec]:
    """The specs by the paths of their leaves, each checked against its leaf."""
    if specs is None:
        return {}
    remedy = "Use `jaxmup.infer`, `jaxmup.nnx.specs` or `jaxmup.linen.specs`."
    given = require_leaves("specs", specs, ParamSpec, remedy)
    found: dict[PathName, ParamSpec] = {}
    for name, spec in given.items():
        # Specs are of the parameters, where a model may have other collections too.
        paths = [p for p in (name, f"{COLLECTIONS[0]}/{name}") if p in values]
        if not paths:
            raise ValueError(
                f"Each of `specs` must be of a parameter. {name} is of none. The leaves are"
                f"{listed(values)}"
            )
        added_axes(paths[0], spec, tuple(values[paths[0]].shape))  # refuses another shape
        found[paths[0]] = spec
    return found


def _multiplier(spec: ParamSpec | None) -> float:
    return 1.0 if spec is None or spec.applied is None else spec.applied.multiplier


def _open_nnx(model: nnx.Module, specs: Specs | None) -> FlaxModel:
    graph, saved, rest = nnx.split(model, _is_saved, ...)
    values = leaves_by_path(saved)
    layers = dict(nnx.iter_modules(model))
    variables = nnx.to_flat_state(saved)
    leaves = tuple(_nnx_leaf(path, variable, layers.get(path[:-1])) for path, variable in variables)

    def build(arrays: Mapping[PathName, np.ndarray]) -> nnx.Module:
        abstract = [n for n, x in leaves_by_path(rest).items() if not hasattr(x, "devices")]
        if abstract:
            raise ValueError(
                "What no checkpoint holds, such as random keys, must be in the model. It is "
                f"abstract:{listed(abstract)}\nBuild the model instead of its shapes."
            )
        # `rest` is mapped to new variables: merged as it is, two models would share them.
        return nnx.merge(graph, _with_arrays(saved, arrays), jax.tree.map(lambda x: x, rest))

    own = {name_of(path): spec for path, variable in variables if (spec := _own_spec(variable))}
    known = own if specs is None else _given_specs(specs, values)
    by_path = {name_of(path): layer for path, layer in layers.items()}
    return FlaxModel(leaves, values, known, build, by_path)


def _is_saved(path: tuple[Any, ...], value: Any) -> bool:
    """True for parameters, statistics and buffers, be they variables or arrays alone."""
    held = value.get_raw_value() if isinstance(value, nnx.Variable) else value
    return not isinstance(value, _PASSING) and _is_array(held)


def _own_spec(variable: nnx.Variable[Any] | jax.Array) -> ParamSpec | None:
    return variable.get_metadata().get(SPEC) if isinstance(variable, nnx.Variable) else None


def _nnx_leaf(
    path: tuple[Any, ...], variable: nnx.Variable[Any] | jax.Array, layer: nnx.Module | None
) -> FlaxLeaf:
    spec, kind = _own_spec(variable), _kind(layer)
    rank = _rank(layer, kind, path[-1]) if spec is None else len(spec.axes)
    return FlaxLeaf(
        name_of(path),
        tuple(variable.shape),
        np.dtype(variable.dtype),
        kind,
        rank,
        _multiplier(spec),
    )


def _kind(layer: nnx.Module | None) -> LayerKind | None:
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


def _rank(layer: nnx.Module | None, kind: LayerKind | None, leaf: str) -> int | None:
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
    # An einsum's kernel has as many axes as its letters, and a layer of the user's own any number.
    return None if kind is None or kind == "einsum" else 1
