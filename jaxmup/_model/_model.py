"""The user's model: what makes it at a size, how it is called, and what of it trains."""

import dataclasses
import fnmatch
import functools
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import flax.errors
import jax
import numpy as np
from flax import nnx
from jax import Array

from jaxmup._inputs import Call, as_call, take_arrays
from jaxmup._model._arguments import asked_for, call_with_size, open_parameters
from jaxmup._model._parts import Apply, Framework, Kind, Parts, Selects, framework_of, is_floating
from jaxmup._program import ClosedJaxpr
from jaxmup._spec import ParamSpec
from jaxmup._tree import Params, PathName, Size, Specs, Tree, leaves_by_path

MakeModel: TypeAlias = Callable[..., Any]
"""A function of a size that makes a model."""
Wrt: TypeAlias = Any
"""The parameters that train: patterns of names, a predicate, or a filter of `flax.nnx`."""
_KEYS = ("key", "rngs")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of any size: the function that makes it, how it is called, and what of it trains.

    Every tool of jaxmup takes one in place of `make_model`; each then sees the same model.

    `make_model` is called with a size, one positional argument or a mapping of keyword arguments,
    and gets by name what it has parameters for: `rngs`, an `nnx.Rngs`, or `key`, a random key, to
    draw its values with; and from the tools that have them `parametrization`, `base_width`,
    `depth`, and what `offered` holds. It returns

    - an NNX module, whose parameters are its `nnx.Param`s;
    - a Linen module, whose parameters are the collection `params` that `init` returns; all other
      collections change as it is called;
    - any tree, such as a dict, Haiku's parameters or an Equinox module. Its parameters are its
      floating-point arrays; integers, booleans, functions and the like are carried along untouched.

    Args:
      make_model: Function of a size that makes the model.
      inputs: Arguments of a call: an array or any tree as the one argument, a tuple of positional
        arguments, `{"args": ..., "kwargs": ...}`, or a function of the size that returns one of
        these. Arrays may be `jax.ShapeDtypeStruct`s; what is no array stays as it is, such as the
        flag `train=False`. A Linen module has no parameters without.
      apply: Function `apply(model, *args, **kwargs)` that calls the model, for one that is not
        called as `model(*args, **kwargs)`. A Linen module comes to it bound to its variables. It
        gets a random `key` of the call, or `rngs`, if it has a parameter of that name.
      wrt: Parameters that train: a pattern of names such as `"*/lora_*"`, several of them, a
        predicate of name and leaf, or for NNX a filter such as `nnx.LoRAParam`; `None` for all.
        The others belong to the rest of the model's state.
      axis_names: Names of axes that the model reduces over, as a batch norm over devices does. In
        the tools they have size 1.
      offered: Further arguments of `make_model`, by name.

    Raises:
      TypeError: if `make_model` is no function, or `apply` is neither one nor `None`.

    Example:
      >>> import jaxmup
      >>> from flax import nnx
      >>> def make_model(width, rngs):
      ...     hidden = nnx.Linear(4, width, rngs=rngs)
      ...     return nnx.Sequential(hidden, nnx.Linear(width, 2, rngs=rngs))
      >>> model = jaxmup.Model(make_model, wrt="*/kernel")
      >>> list(model.at(8).parameters)
      ['layers/0/kernel', 'layers/1/kernel']
    """

    make_model: MakeModel
    inputs: Any = None
    apply: Apply | None = None
    wrt: Wrt = None
    axis_names: tuple[str, ...] = ()
    offered: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.make_model):
            raise TypeError(
                "`make_model` must be a function of a size that returns a model, such as the class "
                f"of a module. Got {self.make_model!r}."
            )
        if not (self.apply is None or callable(self.apply)):
            raise TypeError(
                f"`apply` must be a function `apply(model, *args, **kwargs)`. Got {self.apply!r}."
            )

    def offering(self, **arguments: Any) -> "Model":
        """The model with further arguments for its factory, which takes those that it asks for."""
        return dataclasses.replace(self, offered={**self.offered, **arguments})

    def asks_for(self, *names: str) -> bool:
        """True if the factory has an open parameter of one of these names."""
        return any(name in open_parameters(self.make_model) for name in names)

    def make(self, size: Size, key: Array | None = None) -> Any:
        """What the factory returns for a size; without a key, whose values mean nothing."""
        # Without a key only shapes are wanted: any values will do.
        rngs = _uncounted if key is None else nnx.Rngs
        key = jax.random.key(0) if key is None else key
        drawing = {"key": lambda: key, "rngs": lambda: rngs(key)}
        asked = {name: drawing[name]() for name in _KEYS if self._is_drawn_with(name, size)}
        return call_with_size(self.make_model, size, {**self.offered, **asked})

    def is_drawn_with_key(self, size: Size) -> bool:
        """True if the factory has a parameter `key` or `rngs` that `size` leaves open."""
        return any(self._is_drawn_with(name, size) for name in _KEYS)

    def _is_drawn_with(self, name: str, size: Size) -> bool:
        return self.asks_for(name) and not (isinstance(size, Mapping) and name in size)

    def call(self, size: Size) -> Call | None:
        """The arguments of a call of the model of this size; `None` if none were given."""
        if self.inputs is None:
            return None
        return as_call(
            call_with_size(self.inputs, size, {}) if callable(self.inputs) else self.inputs
        )

    def at(self, size: Size, what: str = "size") -> "Instance":
        """The model of one size, made abstractly: nothing is allocated.

        Args:
          size: Size of the model.
          what: Word for the size in errors, such as `"base"`.

        Raises:
          ValueError: if the factory or the function of `inputs` fails.
        """
        seen: list[Framework] = []

        def arrays() -> Parts | None:
            made = self.make(size)
            seen.append(framework_of(made, self._selects, self.apply))
            return None if seen[0].kind == "linen" else seen[0].draw(made, None, None)

        parts = _of_the_users(
            f"`make_model` must build `{what}` = {size!r}", jax.eval_shape, arrays
        )
        call = _of_the_users(f"`inputs` must be made for `{what}` = {size!r}", self.call, size)
        return Instance(self, size, what, seen[0], call, parts)

    @property
    def _selects(self) -> Selects:
        selects = _selection(self.wrt)
        return lambda name, leaf: is_floating(leaf) and selects(name, leaf)


def as_model(model: MakeModel | Model, **given: Any) -> Model:
    """The `Model` that a tool was given, itself or by its factory and arguments of `Model`.

    Raises:
      TypeError: if an argument is given beside a `Model`, which has its own.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if not isinstance(model, Model):
        return Model(model, **given)
    if given:
        raise TypeError(
            f"A `Model` says itself what {', '.join(f'`{name}`' for name in given)} says beside a "
            "factory. Got both. Give it to the `Model`."
        )
    return model


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """A model of one size, without its arrays, and all that can be done with it.

    Args:
      model: The model.
      size: Its size.
      what: Word for the size in errors.
      framework: What of it is no array.
      inputs: Arguments of a call; `None` if none were given.
      made: Shapes of its arrays; `None` for a Linen module, which has none before it is called.
    """

    model: Model
    size: Size
    what: str
    framework: Framework
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
        return self.initialized()

    def initialized(self) -> Parts:
        """The shapes of the arrays of a Linen module, as it is initialized once more."""
        if self.inputs is None:
            raise TypeError(
                "`inputs` must be given for a Linen module, which has no parameters before it is "
                "called. Got none. Pass what the model of "
                f"`{self.what}` = {self.size!r} is called with."
            )
        arrays, static = take_arrays(self.inputs)
        made = self.model.make(self.size)

        def draw(arrays: list[Any]) -> Parts:
            return self.framework.draw(made, jax.random.key(0), static.joined(arrays))

        wanted = f"The model of `{self.what}` = {self.size!r} must be called with its `inputs`"
        return _of_the_users(wanted, jax.eval_shape, self.with_axes(draw), arrays)

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
        specs = leaves_by_path(self.framework.declared(self.parts, self.inputs, given))
        return self.like_params({name: specs[name] for name in self.parameters})

    def like_params(self, values: Mapping[PathName, Any]) -> Tree:
        """A tree like the parameters with these values, by name."""
        return self.framework.like_params(self.params, values)

    def draw(self, key: Any) -> Parts:
        """The arrays of the model, drawn with a key; for a Linen module also a dict of keys."""
        made = self.model.make(self.size, key)
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
            return self.framework.bind(parts, self.model.apply, {})
        state, key = parts.rest
        now, later = jax.random.split(key)
        keys = self._keys_of_a_call(now)
        model, left = self.framework.bind(parts._replace(rest=state), self.model.apply, keys)
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
        """True if a call of the model can be traced: its arguments and what to call are given."""
        if self.inputs is None:
            return False
        if self.kind == "linen" or self.model.apply is not None:
            return True
        return callable(self.join(self.parts))

    def program(self) -> ClosedJaxpr:
        """The program of a call, from the parameters, the rest and the arguments to the outputs.

        Raises:
          ValueError: if the model cannot be called with its inputs.
        """
        assert self.inputs is not None  # `is_callable` has seen to it
        arrays, static = take_arrays(self.inputs)
        key = jax.eval_shape(lambda: jax.random.key(0))
        parts = jax.eval_shape(self._for_calls, self.parts, key)

        def run(params: Params, rest: Tree, arrays: list[Any]) -> Any:
            model, _ = self.bind(Parts(params, rest))
            args, kwargs = static.joined(arrays)
            return model(*args, **kwargs)

        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
        wanted = f"The model of `{self.what}` = {self.size!r} must be called with its `inputs`"
        trace = jax.make_jaxpr(self.with_axes(run))
        return _of_the_users(wanted, trace, parts.params, parts.rest, shapes)

    def with_axes(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, a pure one of arrays, run inside of the axes that the model reduces over."""
        if not self.model.axis_names:
            return function
        for name in self.model.axis_names:
            # Nothing is mapped over the axis, so nothing gets a dimension but what depends on it.
            function = jax.vmap(function, in_axes=None, axis_name=name, axis_size=1)  # type: ignore[arg-type]
        axes = (0,) * len(self.model.axis_names)
        return lambda *args: jax.tree.map(lambda x: x[axes], function(*args))

    @functools.cached_property
    def needs_key(self) -> bool:
        """True if a call needs a random key that the model does not hold itself."""
        apply = self.model.apply
        if self.kind != "linen":
            return apply is not None and any(name in open_parameters(apply) for name in _KEYS)
        try:
            jax.eval_shape(lambda parts: self._first_call(parts), self.parts)
        except flax.errors.InvalidRngError:
            return True
        return False

    def _first_call(self, parts: Parts) -> Any:
        assert self.inputs is not None  # `Model.at` has seen to it
        args, kwargs = self.inputs.with_zeros()

        def run(parts: Parts) -> Any:
            return self.framework.bind(parts, self.model.apply, {})[0](*args, **kwargs)

        return self.with_axes(run)(parts)

    def _keys_of_a_call(self, key: Array) -> dict[str, Any]:
        if self.kind == "linen":  # which draws from the first where it has no stream of a name
            return {"params": key, "dropout": jax.random.fold_in(key, 1)}
        assert self.model.apply is not None
        return asked_for(self.model.apply, {"key": key, "rngs": nnx.Rngs(key)})

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


_OF_CALLS = 0x6A78  # folded into the key of a model for its calls: no initializer has this number


def _selection(wrt: Wrt) -> Selects:
    """True for the parameters that `wrt` stands for, by name and leaf."""
    if wrt is None:
        return lambda name, leaf: True
    if isinstance(wrt, str):
        return lambda name, leaf: fnmatch.fnmatchcase(name, wrt)
    if isinstance(wrt, types.FunctionType | functools.partial):
        return wrt
    if isinstance(wrt, Iterable) and all(isinstance(one, str) for one in wrt):
        patterns = tuple(wrt)
        return lambda name, leaf: any(fnmatch.fnmatchcase(name, one) for one in patterns)
    filter_ = nnx.filterlib.to_predicate(wrt)
    return lambda name, leaf: filter_(tuple(name.split("/")), leaf)


def _uncounted(key: Array) -> nnx.Rngs:
    """`nnx.Rngs(key)` for shapes alone: its count is in NumPy, which is not traced.

    Flax asks each count for its sharding. To say that a traced one has none, JAX goes through all
    that was traced before, which takes minutes in a model of many layers.
    """
    rngs = nnx.Rngs(key)
    count: Any = np.zeros((), np.uint32)
    rngs.default.count = nnx.RngCount(count, tag="default")
    return rngs


def _of_the_users(what: str, function: Callable[..., T], *args: Any) -> T:
    """What a function of the user's returns; an error that says what was wanted if it raises."""
    try:
        return function(*args)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{what}. It raised {type(error).__name__}: {error}") from error
