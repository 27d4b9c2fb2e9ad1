"""A model of one size, without its arrays, and all that can be done with it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxmup._inputs import Call, shape_of, take_arrays
from jaxmup._model._arguments import KEYS, asked_for, open_parameters
from jaxmup._model._parts import Apply, Framework, Kind, Parts
from jaxmup._model._users import call_users
from jaxmup._parameter import Parameter
from jaxmup._program import (
    ClosedJaxpr,
    Traced,
    as_function,
    dependencies,
    part,
    traced,
    without_dead_code,
)
from jaxmup._spec import ParamSpec
from jaxmup._tree import (
    Params,
    PathName,
    Size,
    Specs,
    Tree,
    leaves_by_path,
    specs_of_leaves,
)
from jaxmup.linen._specs import recorded

_OF_CALLS = 0x6A78  # folded into the key of a model for its calls: no initializer has this number


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """A model of one size, without its arrays, and all that can be done with it.

    Args:
      size: Size of the model.
      what: Word for the size in errors.
      make: Function of a random key, or of `None` for its shapes alone, that calls the factory.
      is_drawn: True if the factory is given the key.
      framework: Kind of the model, without its arrays.
      apply: Function that calls the model; `None` for the model itself.
      axis_names: Names of the axes that it reduces over.
      inputs: Arguments of a call; `None` if none were given.
      made: Shapes of its arrays; `None` for a Linen module, which has none before it is called.
    """

    size: Size
    what: str
    make: Callable[[Any], Any]
    is_drawn: bool
    framework: Framework
    apply: Apply | None
    axis_names: tuple[str, ...]
    inputs: Call | None
    made: Parts | None

    @property
    def kind(self) -> Kind:
        """The kind of model: `"nnx"`, `"linen"`, or `"tree"` for any other tree."""
        return self.framework.kind

    @functools.cached_property
    def parts(self) -> Parts:
        """The shapes of its arrays, as `jax.ShapeDtypeStruct`s.

        Raises:
          TypeError: if it is a Linen module and there are no `inputs`.
          ValueError: if a Linen module refuses its inputs.
        """
        if self.made is not None:
            return self.made
        return self._initialized[0]

    @functools.cached_property
    def _initialized(self) -> tuple[Parts, dict[PathName, Parameter]]:
        """The shapes of the arrays of a Linen module, and what its jaxmup layers make, by name."""
        arrays, static = take_arrays(self._required_inputs())
        made = self.make(None)

        def draw(arrays: list[Any]) -> Parts:
            return self.framework.draw(made, jax.random.key(0), static.joined(arrays))

        with recorded() as made_by_layers:
            parts = call_users(self._must_be_called, jax.eval_shape, self.with_axes(draw), arrays)
        return parts, made_by_layers

    def drawing(self, key: Any) -> Traced:
        """The program from the leaves of a key to those of its `parts`, and their shapes."""
        self._required_inputs()
        made = self.make(key)
        draw = self.with_axes(lambda key: self.framework.draw(made, key, self.inputs))
        return call_users(self._must_be_called, traced, draw, key)

    def _required_inputs(self) -> Call:
        if self.inputs is None:
            raise TypeError(
                "`inputs` must be given for a Linen module, which has no parameters before it is "
                "called. Got none. Pass what the model of "
                f"`{self.what}` = {self.size!r} is called with."
            )
        return self.inputs

    @property
    def _must_be_called(self) -> str:
        return f"The model of `{self.what}` = {self.size!r} must be called with its `inputs`"

    @property
    def params(self) -> Params:
        """The parameters that train, as shapes."""
        return self.parts.params

    @functools.cached_property
    def parameters(self) -> dict[PathName, Any]:
        """The parameters that train by name, as shapes.

        Raises:
          ValueError: if two have one name.
        """
        return leaves_by_path(self.params)

    def require_parameters(self) -> None:
        """Refuses a model that nothing can train.

        Raises:
          ValueError: if it has no parameters.
        """
        if not self.parameters:
            raise ValueError(
                "`make_model` must return a model with parameters: an NNX or Linen module, or a "
                f"tree of arrays. That of `{self.what}` = {self.size!r} has none: it is "
                f"{self._held()!r:.200}."
            )

    @functools.cached_property
    def specs(self) -> Specs | None:
        """The specs that its layers declare; `None` unless all parameters are of jaxmup layers."""
        try:
            return self.declared()
        except ValueError:  # a parameter is of another layer
            return None

    def declared(self, given: Mapping[PathName, ParamSpec] | None = None) -> Specs:
        """The specs that its layers declare.

        Args:
          given: Specs of the parameters that no jaxmup layer has made, by name.

        Raises:
          ValueError: naming the parameters that have no spec.
        """
        return self.like_params(specs_of_leaves(self._shapes, self.specs_of_layers, given))

    @functools.cached_property
    def specs_of_layers(self) -> dict[PathName, ParamSpec]:
        """The specs that jaxmup layers declare, by name; other parameters have none."""
        found = self.framework.declared(self.parts, lambda: self._initialized[1])
        shapes = {name: shape for name, shape in self._shapes.items() if name in found}
        return specs_of_leaves(shapes, {name: found[name] for name in shapes}, None)

    @property
    def _shapes(self) -> dict[PathName, tuple[int, ...]]:
        return {name: tuple(leaf.shape) for name, leaf in self.parameters.items()}

    def like_params(self, values: Mapping[PathName, Any]) -> Tree:
        """A tree like the parameters with these values, by name."""
        return self.framework.like_params(self.params, values)

    def draw(self, key: Any) -> Parts:
        """The arrays of the model, drawn with a key; for a Linen module also a dict of keys."""
        made = self.make(key)
        drawn = self.with_axes(lambda key: self.framework.draw(made, key, self.inputs))(key)
        return self._for_calls(drawn, key)

    def split(self, model: Any, key: Any) -> Parts:
        """The arrays of a model as a user holds it, with a key for its calls."""
        return self._for_calls(self.framework.split(model), key)

    def join(self, parts: Parts) -> Any:
        """The model as a user holds it: an NNX module, a Linen module's variables, or a tree."""
        return self.framework.join(parts._replace(rest=self._without_key(parts.rest)))

    def bind(self, parts: Parts) -> tuple[Any, Callable[[], Tree]]:
        """The model ready to be called, and a function that returns the rest as calls left it.

        A plain tree that has no `apply` is returned as it is.
        """
        if not self.needs_key:
            return self.framework.bind(parts, self.apply, {})
        state, key = parts.rest
        now, later = jax.random.split(key)
        keys = self._keys_of_a_call(now)
        model, left = self.framework.bind(parts._replace(rest=state), self.apply, keys)
        return model, lambda: _Keyed(left(), later)

    def call(self, parts: Parts, inputs: Call) -> tuple[Any, Tree]:
        """The outputs of one call, and the rest as it left it."""

        def run(parts: Parts, arrays: list[Any]) -> tuple[Any, Tree]:
            model, left = self.bind(parts)
            args, kwargs = static.joined(arrays)
            return model(*args, **kwargs), left()

        arrays, static = take_arrays(inputs)
        return self.with_axes(run)(parts, arrays)

    @functools.cached_property
    def is_callable(self) -> bool:
        """True if a call can be traced: its arguments are given, and there is something to call."""
        if self.inputs is None:
            return False
        if self.kind == "linen" or self.apply is not None:
            return True
        return callable(self._held())

    def _held(self) -> Any:
        """The model as a user holds it, or the Linen module."""
        return self.make(None) if self.kind == "linen" else self.join(self.parts)

    @property
    def called_at(self) -> str:
        """The function that calls the model and its line, such as `apply (model.py:12)`."""
        function: Any = self.apply or type(self._held()).__call__
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)
        code = getattr(function, "__code__", None)
        name = getattr(function, "__qualname__", repr(function)).rpartition("<locals>.")[2]
        return (
            name
            if code is None
            else f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})"
        )

    def program(self) -> ClosedJaxpr:
        """The program of a call, from parameters, the rest and the arguments to what it returns.

        What the call computes and does not return is no part of it, such as new batch statistics,
        or a slice of features of which only the shape is used.

        Raises:
          TypeError: if there are no inputs, or nothing that can be called.
          ValueError: if the model refuses its inputs.
        """
        if not self.is_callable:
            raise TypeError(
                f"`inputs` must be given for a call, and `apply` for a model that cannot be called "
                f"itself. That of `{self.what}` = {self.size!r} is {self._held()!r:.200}. Pass "
                "`apply=lambda model, x: outputs`."
            )
        assert self.inputs is not None
        arrays, static = take_arrays(self.inputs)
        key = jax.eval_shape(lambda: jax.random.key(0))
        parts = jax.eval_shape(self._for_calls, self.parts, key)

        def run(params: Params, rest: Tree, arrays: list[Any]) -> Any:
            return self.call(Parts(params, rest), static.joined(arrays))[0]

        shapes = list(map(shape_of, arrays))
        program: ClosedJaxpr = call_users(
            self._must_be_called, jax.make_jaxpr(run), parts.params, parts.rest, shapes
        )
        every_output = [True] * len(program.jaxpr.outvars)
        return without_dead_code(program, every_output, keep_inputs=True)[0]

    def numbers(self) -> dict[int, np.ndarray]:
        """Single numbers among the rest that the factory sets at a size, whatever its key.

        Returns:
          Each by its position among the leaves of the rest.
        """
        leaves = enumerate(jax.tree.leaves(self.parts.rest))
        single = [
            i for i, leaf in leaves if leaf.size == 1 and jnp.issubdtype(leaf.dtype, np.inexact)
        ]
        if not single:
            return {}
        key = jax.random.key(0)
        program = jax.make_jaxpr(lambda key: jax.tree.leaves(self.draw(key).rest))(key)
        random = dependencies(program, ["key"])
        known = [i for i in single if not random[i]]
        with jax.ensure_compile_time_eval():
            values = as_function(part(program, known)[0])()
        return dict(zip(known, map(np.asarray, values), strict=True))

    def with_axes(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, a pure one of arrays, run inside of the axes that the model reduces over."""
        if not self.axis_names:
            return function
        for name in self.axis_names:
            # Nothing is mapped over the axis, so nothing gets a dimension but what depends on it.
            function = jax.vmap(function, in_axes=None, axis_name=name, axis_size=1)  # type: ignore[arg-type]
        axes = (0,) * len(self.axis_names)
        return lambda *args: jax.tree.map(lambda x: x[axes], function(*args))

    @functools.cached_property
    def needs_key(self) -> bool:
        """True if a call needs a random key that the model does not hold itself."""
        apply = self.apply
        if self.kind != "linen":
            return apply is not None and any(name in open_parameters(apply) for name in KEYS)
        try:
            jax.eval_shape(lambda parts: self._first_call(parts), self.parts)
        except flax.errors.InvalidRngError:
            return True
        return False

    def _first_call(self, parts: Parts) -> Any:
        assert self.inputs is not None  # `Model.at` has seen to it
        args, kwargs = self.inputs.with_zeros()

        def run(parts: Parts) -> Any:
            return self.framework.bind(parts, self.apply, {})[0](*args, **kwargs)

        return self.with_axes(run)(parts)

    def _keys_of_a_call(self, key: Array) -> dict[str, Any]:
        if self.kind == "linen":  # which draws from the first where it has no stream of a name
            return {"params": key, "dropout": jax.random.fold_in(key, 1)}
        assert self.apply is not None
        return asked_for(self.apply, {"key": key, "rngs": nnx.Rngs(key)})

    def _for_calls(self, parts: Parts, key: Any) -> Parts:
        if not self.needs_key:
            return parts
        first = jax.tree.leaves(key)[0]
        return parts._replace(rest=_Keyed(parts.rest, jax.random.fold_in(first, _OF_CALLS)))

    def _without_key(self, rest: Tree) -> Tree:
        return rest.state if isinstance(rest, _Keyed) else rest


class _Keyed(NamedTuple):
    """The rest of a model's state, and the random key of its next call."""

    state: Tree
    key: Array
