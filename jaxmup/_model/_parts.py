"""A model taken apart into parameters, the rest of its arrays, and what is no array.

One class a kind of model. Each says how what a factory has made is drawn, taken apart, put together
and called; nothing else in jaxmup asks which kind a model is to do any of this.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxmup._inputs import Call, is_array
from jaxmup._parameter import Parameter
from jaxmup._spec import ParamSpec
from jaxmup._tree import Params, PathName, Tree, map_named, path_name
from jaxmup.nnx._specs import declared

Kind: TypeAlias = Literal["nnx", "linen", "tree"]
Selects: TypeAlias = Callable[[PathName, Any], bool]
"""True for the parameters that train, by name and leaf."""
Apply: TypeAlias = Callable[..., Any]
"""Calls a model: `apply(model, *args, **kwargs)`."""


class Parts(NamedTuple):
    """The arrays of a model.

    Args:
      params: Parameters that train; `None` in place of what does not, in a tree of dicts or of
        another framework.
      rest: All other arrays: batch statistics, random streams, frozen parameters, integer tables.
    """

    params: Params
    rest: Tree


class Framework(Protocol):
    """One kind of model, without its arrays."""

    @property
    def kind(self) -> Kind:
        """The name of the kind."""
        ...

    def draw(self, made: Any, key: Any, call: Call | None) -> Parts:
        """The arrays of `made`, which a factory has made with `key`."""
        ...

    def join(self, parts: Parts) -> Any:
        """The model as a user holds it."""
        ...

    def split(self, model: Any) -> Parts:
        """The arrays of a model as a user holds it."""
        ...

    def bind(
        self, parts: Parts, apply: Apply | None, keys: Mapping[str, Array]
    ) -> tuple[Any, Callable[[], Tree]]:
        """The model ready to be called, and a function that returns the rest as calls left it."""
        ...

    def declared(
        self, parts: Parts, initialized: Callable[[], Mapping[PathName, Parameter]]
    ) -> Mapping[PathName, ParamSpec]:
        """The specs that jaxmup layers declare, without the axes that lifting has added.

        Args:
          parts: Shapes of the arrays.
          initialized: Function that returns what the layers of a Linen module make as it is
            initialized.
        """
        ...

    def like_params(self, params: Params, values: Mapping[PathName, Any]) -> Tree:
        """A tree like the parameters with these values, by name."""
        ...


@dataclasses.dataclass(frozen=True)
class Nnx:
    """An NNX module.

    Args:
      graph: Definition of its graph.
      selects: True for the parameters that train.
    """

    graph: Any
    selects: Selects
    kind: Kind = "nnx"

    def draw(self, made: nnx.Module, key: Any, call: Call | None) -> Parts:
        """The arrays that the factory has drawn."""
        del key, call
        return self.split(made)

    def join(self, parts: Parts) -> nnx.Module:
        """A module of its own, which shares nothing with another."""
        # Without a copy, what a call changes would leak its tracers into the parts.
        return nnx.merge(self.graph, parts.params, parts.rest, copy=True)

    def split(self, model: nnx.Module) -> Parts:
        """The arrays of the module, without what `sow` has left in it."""
        _, params, _, rest = nnx.split(model, _trains(self.selects), nnx.Intermediate, ...)
        return Parts(params, rest)

    def bind(
        self, parts: Parts, apply: Apply | None, keys: Mapping[str, Array]
    ) -> tuple[Any, Callable[[], Tree]]:
        """The module, or `apply` of it."""
        model = self.join(parts)
        bound = model if apply is None else functools.partial(apply, model, **keys)
        return bound, lambda: self.split(model).rest

    def declared(
        self, parts: Parts, initialized: Callable[[], Mapping[PathName, Parameter]]
    ) -> Mapping[PathName, ParamSpec]:
        """The specs of its layers."""
        del initialized
        return declared(self.join(parts))

    def like_params(self, params: Params, values: Mapping[PathName, Any]) -> nnx.State:
        """A state with the values in place of the variables."""
        paths = [path for path, _ in nnx.to_flat_state(params)]
        return nnx.from_flat_state([(path, values["/".join(map(str, path))]) for path in paths])


@dataclasses.dataclass(frozen=True)
class Linen:
    """A Linen module, whose arrays are its variables.

    Args:
      module: The module.
      selects: True for the parameters that train.
      apply: Function that calls the module; `None` for its `__call__`.
    """

    module: nn.Module
    selects: Selects
    apply: Apply | None
    kind: Kind = "linen"

    def draw(self, made: nn.Module, key: Any, call: Call | None) -> Parts:
        """The variables that `init` returns."""
        assert call is not None  # `Instance.parts` has seen to it
        init = made.init if self.apply is None else nn.init(self.apply, made)
        args, kwargs = call.with_zeros()
        return self.split(init(key, *args, **kwargs))

    def join(self, parts: Parts) -> dict[str, Any]:
        """The variables."""
        # Parameters that do not train are in the rest under the name of their collection.
        frozen = parts.rest.get("params")
        params = parts.params if frozen is None else _combined(parts.params, frozen)
        return {**parts.rest, "params": params}

    def split(self, model: Mapping[str, Any]) -> Parts:
        """The arrays of the variables."""
        params, frozen = _partition(model.get("params", {}), self.selects)
        rest = {name: values for name, values in model.items() if name != "params"}
        return Parts(params, rest | {"params": frozen} if jax.tree.leaves(frozen) else rest)

    def bind(
        self, parts: Parts, apply: Apply | None, keys: Mapping[str, Array]
    ) -> tuple[Any, Callable[[], Tree]]:
        """A function of the inputs, which keeps what a call leaves in the mutable collections."""
        rest = dict(parts.rest)  # a loss may call the module several times: each goes on from here

        def call(*args: Any, **kwargs: Any) -> Any:
            variables = self.join(Parts(parts.params, rest))
            mutable = [name for name in rest if name != "params"]
            run = self.module.apply
            if apply is not None:
                run = nn.apply(apply, self.module, mutable=mutable or False)
                called = run(variables, *args, rngs=dict(keys), **kwargs)
            else:
                called = run(variables, *args, rngs=dict(keys), mutable=mutable or False, **kwargs)
            if not mutable:
                return called
            outputs, left = called
            rest.update(left)
            return outputs

        return call, lambda: dict(rest)

    def declared(
        self, parts: Parts, initialized: Callable[[], Mapping[PathName, Parameter]]
    ) -> Mapping[PathName, ParamSpec]:
        """The specs of its layers, which make them as the module runs."""
        del parts
        return {name: parameter.spec for name, parameter in initialized().items()}

    def like_params(self, params: Params, values: Mapping[PathName, Any]) -> Tree:
        """A tree like the unboxed collection `params`."""
        return map_named(lambda _, value: value, _unboxed(params), values)


def _unboxed(params: Params) -> Tree:
    """The arrays without their boxes, where Flax would lay those out that are there."""
    return jax.tree.map(
        lambda x: jax.tree.leaves(x)[0] if isinstance(x, nn.meta.AxisMetadata) else x,
        params,
        is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
    )


@dataclasses.dataclass(frozen=True)
class Plain:
    """Any tree: of dicts, of Haiku's parameters, or an Equinox module.

    Args:
      others: The tree with `None` in place of its arrays.
      selects: True for the parameters that train.
    """

    others: Tree
    selects: Selects
    kind: Kind = "tree"

    def draw(self, made: Tree, key: Any, call: Call | None) -> Parts:
        """The arrays that the factory has drawn."""
        del key, call
        return self.split(made)

    def join(self, parts: Parts) -> Tree:
        """The tree."""
        return _combined(_combined(parts.params, parts.rest), self.others)

    def split(self, model: Tree) -> Parts:
        """The arrays of the tree."""
        arrays, _ = _partition(model, _is_array)
        return Parts(*_partition(arrays, self.selects))

    def bind(
        self, parts: Parts, apply: Apply | None, keys: Mapping[str, Array]
    ) -> tuple[Any, Callable[[], Tree]]:
        """The tree itself, which a loss knows how to use, or `apply` of it."""
        tree = self.join(parts)
        bound = tree if apply is None else functools.partial(apply, tree, **keys)
        return bound, lambda: parts.rest

    def declared(
        self, parts: Parts, initialized: Callable[[], Mapping[PathName, Parameter]]
    ) -> Mapping[PathName, ParamSpec]:
        """Nothing: no layer of jaxmup makes a plain tree."""
        del parts, initialized
        return {}

    def like_params(self, params: Params, values: Mapping[PathName, Any]) -> Tree:
        """A tree like the parameters."""
        return map_named(lambda _, value: value, params, values)


def framework_of(made: Any, selects: Selects, apply: Apply | None) -> Framework:
    """The kind of model that a factory has made, without its arrays."""
    if isinstance(made, nn.Module):
        return Linen(made, selects, apply)
    if isinstance(made, nnx.Module):
        return Nnx(nnx.graphdef(made), selects)
    return Plain(_partition(made, _is_array)[1], selects)


def _is_array(_: PathName, leaf: Any) -> bool:
    return is_array(leaf)


def _trains(selects: Selects) -> Callable[[Any, Any], bool]:
    """The filter of Flax for the parameters that train."""

    # Flax names the path of a variable, whose one child is its value.
    def predicate(path: Any, variable: Any) -> bool:
        name = "/".join(map(str, path))
        return isinstance(variable, nnx.Param) and selects(name, variable)

    return predicate


def _partition(tree: Tree, selects: Callable[[PathName, Any], bool]) -> tuple[Tree, Tree]:
    """Two trees like `tree` with the leaves that are selected, and the others; `None` elsewhere."""

    def part(selected: bool) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if selects(path_name(path), leaf) == selected else None, tree
        )

    return part(True), part(False)


def _combined(tree: Tree, other: Tree) -> Tree:
    """A tree of the leaves of both, of which at each place at most one is not `None`."""
    return jax.tree.map(
        lambda one, two: two if one is None else one, tree, other, is_leaf=lambda x: x is None
    )
