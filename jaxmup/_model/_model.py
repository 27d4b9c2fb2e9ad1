"""The user's model: what makes it at a size, how it is called, and what of it trains."""

import dataclasses
import fnmatch
import functools
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import jax
from flax import nnx
from jax import Array

from jaxmup._inputs import Call, as_call
from jaxmup._model._arguments import KEYS, call_with_size, open_parameters
from jaxmup._model._instance import Instance
from jaxmup._model._parts import Apply, Framework, Parts, Selects, framework_of
from jaxmup._model._users import call_users
from jaxmup._program import ClosedJaxpr, traced
from jaxmup._tree import Size, is_floating

MakeModel: TypeAlias = Callable[..., Any]
"""A function of a size that makes a model."""
Wrt: TypeAlias = Any
"""The parameters that train: patterns of names, a predicate, or a filter of `flax.nnx`."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of any size: the function that makes it, how it is called, and what of it trains.

    Every tool of jaxmup takes one in place of `make_model`; each then sees the same model.

    `make_model` is called with a size, one positional argument or a mapping of keyword arguments.
    A mapping is the one argument, as a configuration, of a function that must be given one and has
    no parameters of its names. By name the function gets what it has parameters for: `rngs`, an
    `nnx.Rngs`, or `key`, a random key, to draw its values with; and from the tools that have them
    `parametrization`, `base_width`, `depth`, and what `offered` holds. It returns

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
      corrected: True if the model is called through `jaxmup.corrected`, which inserts the factors
        that its program lacks and no parameter can carry. The tools that infer specs then call it
        so.
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
    corrected: bool = False
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
        """The model that the factory makes of a size; its values mean nothing without a key."""
        # Without a key only shapes are wanted: any values will do.
        if key is None:
            return self._made(size, jax.random.key(0), _quick_rngs)
        return self._made(size, key, nnx.Rngs)

    def _made(self, size: Size, key: Any, rngs: Callable[[Any], nnx.Rngs]) -> Any:
        drawing = {"key": lambda: key, "rngs": lambda: rngs(key)}
        asked = {name: drawing[name]() for name in KEYS if self._is_drawn_with(name, size)}
        made = call_with_size(self.make_model, size, {**self.offered, **asked})
        return _with_own_streams(made)

    def _is_drawn_with(self, name: str, size: Size) -> bool:
        return self.asks_for(name) and not (isinstance(size, Mapping) and name in size)

    def inputs_of(self, size: Size) -> Call | None:
        """The arguments of a call of the model of this size; `None` if none were given."""
        if self.inputs is None:
            return None
        return as_call(
            call_with_size(self.inputs, size, {}) if callable(self.inputs) else self.inputs
        )

    def at(self, size: Size, what: str = "size") -> Instance:
        """The model of one size, made abstractly: nothing is allocated.

        Args:
          size: Size of the model.
          what: Word for the size in errors, such as `"base"`.

        Raises:
          ValueError: if the factory or the function of `inputs` fails.
        """
        return self._traced_at(size, what, jax.eval_shape(lambda: jax.random.key(0)))[0]

    def drawn_at(self, size: Size, what: str, key: Any) -> tuple[Instance, ClosedJaxpr]:
        """The model of one size, and the program that draws it, traced once.

        Args:
          size: Size of the model.
          what: Word for the size in errors.
          key: Random key, of which only the type matters; a dict of keys for a Linen module that
            wants one.

        Returns:
          The instance, and the program from the leaves of `key` to those of its `parts`.

        Raises:
          TypeError, ValueError: as `at`, and as `Instance.parts`.
        """
        instance, program = self._traced_at(size, what, key)
        if instance.kind != "linen":
            return instance, program
        program, parts = instance.drawing(key)
        return dataclasses.replace(instance, made=parts), program

    def _traced_at(self, size: Size, what: str, key: Any) -> tuple[Instance, ClosedJaxpr]:
        seen: list[Framework] = []

        def arrays(key: Any) -> Parts | None:
            made = self._made(size, key, _quick_rngs)
            seen.append(framework_of(made, self._selects, self.apply))
            return None if seen[0].kind == "linen" else seen[0].draw(made, None, None)

        must_build = f"`make_model` must build `{what}` = {size!r}"
        program, parts = call_users(must_build, traced, arrays, key)
        call = call_users(f"`inputs` must be made for `{what}` = {size!r}", self.inputs_of, size)
        instance = Instance(
            size=size,
            what=what,
            make=functools.partial(self.make, size),
            is_drawn=any(self._is_drawn_with(name, size) for name in KEYS),
            framework=seen[0],
            apply=self.apply,
            axis_names=self.axis_names,
            inputs=call,
            made=parts,
        )
        return instance, program

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


def _selection(wrt: Wrt) -> Selects:
    """True for the parameters that `wrt` stands for, by name and leaf."""
    if wrt is None:
        return lambda name, leaf: True
    if isinstance(wrt, str):
        return lambda name, leaf: fnmatch.fnmatchcase(name, wrt)
    if isinstance(wrt, types.FunctionType | functools.partial):
        return wrt
    if _are_patterns(wrt):
        return lambda name, leaf: any(fnmatch.fnmatchcase(name, one) for one in wrt)
    filter_ = nnx.filterlib.to_predicate(wrt)
    return lambda name, leaf: filter_(tuple(name.split("/")), leaf)


def _are_patterns(wrt: Wrt) -> bool:
    # An iterator would be used up by the first model.
    return isinstance(wrt, Collection) and all(isinstance(one, str) for one in wrt)


def _quick_rngs(key: Any) -> nnx.Rngs:
    """`nnx.Rngs(key)`, to trace what is drawn with it."""
    rngs = nnx.Rngs(key)
    for stream in vars(rngs).values():
        if type(stream) is nnx.RngStream:
            stream.__class__ = _Stream
    return rngs


class _Stream(nnx.RngStream):
    """A stream of keys that can be traced at a price that does not grow with the model.

    Flax asks each count for its sharding. To say that a traced one has none, JAX goes through all
    that was traced before, which takes minutes in a model of many layers.
    """

    def __call__(self) -> Array:
        """The next key, as Flax's own class makes it."""
        count = self.count
        key = jax.random.fold_in(self.key[...], count[...])
        count.set_value(count[...] + 1)
        return key


def _with_own_streams(made: Any) -> Any:
    """The model that a factory has made with `_quick_rngs`, as it would be with Flax's."""
    if isinstance(made, nnx.Module):
        for _, node in nnx.iter_graph(made):
            if type(node) is _Stream:
                node.__class__ = nnx.RngStream  # type: ignore[reportAttributeAccessIssue]
    return made
