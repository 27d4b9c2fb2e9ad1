"""Calls of chosen Linen modules, intercepted."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from flax import linen as nn
from jax import Array

from jaxmup import functional
from jaxmup._tree import Params, Tree
from jaxmup.empirical._measurable import ModulePath
from jaxmup.empirical._split import Args, Kwargs, Split, split_call
from jaxmup.empirical._use import PureCall, scale_gradient
from jaxmup.empirical._variables import COLLECTION, SLOT, Variables, scales_by_path, with_slots


def apply(
    module: nn.Module,
    variables: Variables,
    *args: Any,
    method: Callable[..., Any] | str | None = None,
    **kwargs: Any,
) -> Any:
    """`module.apply(variables, ...)` with the scales of the collection `"empirical"`.

    A pure function, differentiable in `variables["params"]`.

    Args:
      module: Linen module.
      variables: Variables as `calibrate` returns them.
      *args: Positional arguments of the call.
      method: Method to call, as for `module.apply`.
      **kwargs: Keyword arguments of `module.apply` and of the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> module = nn.Dense(3)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> variables["empirical"] = {"scale_actv_y": jnp.array(2.0)}
      >>> plain = module.apply(variables, jnp.ones((1, 2)))
      >>> bool((apply(module, variables, jnp.ones((1, 2))) == 2 * plain).all())
      True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a Linen module. Got {module!r}.")
    scales = scales_by_path(variables)
    others = {name: tree for name, tree in variables.items() if name != COLLECTION}
    others["params"] = with_slots(others["params"], scales)
    with intercepted(scales, _scaled):
        return module.apply(others, *args, method=method, **kwargs)


@dataclasses.dataclass(frozen=True)
class Intercepted:
    """A call of a chosen module.

    Args:
      path: Path of the module.
      module: Module, bound.
      method: Name of the method.
      next: Function that goes on with the call.
    """

    path: ModulePath
    module: nn.Module
    method: str
    next: Callable[..., Any]

    @property
    def params(self) -> Params:
        """The parameters of the module, as it sees them."""
        found = self.module.variables.get("params", {})
        return {name: value for name, value in found.items() if name != SLOT}

    @property
    def slot(self) -> Any:
        """The arrays that stand beside the parameters."""
        return self.module.variables["params"][SLOT]

    @property
    def rest(self) -> Tree:
        """The other collections of the module, and random keys."""
        names = self.module.scope.rngs  # type: ignore[union-attr]
        keys = {name: self.module.make_rng(name) for name in names if name != "params"}
        return {n: tree for n, tree in self.module.variables.items() if n != "params"}, keys

    def pure(self, split: Split) -> PureCall:
        """The call as a function of parameters, other state and inputs."""
        function = _LinenCall(self.module.clone(parent=None, name=None), self.method, split)
        try:
            hash(function)
        except TypeError:  # a field of the module: then it equals itself alone
            return functools.partial(function)
        return function


Handle: TypeAlias = Callable[[Intercepted, Args, Kwargs], Any]
"""What is done in the place of a call; returns its outputs."""


@dataclasses.dataclass(frozen=True)
class _LinenCall:
    """The call of an unbound module; compared by its fields, so that equal ones compile once."""

    module: nn.Module
    method: str
    split: Split

    def __call__(self, params: Params, constants: Tree, *inputs: Array) -> Array:
        (state, keys), arrays = constants
        args, kwargs = self.split.joined(inputs, arrays)
        # The module may update its other collections: what it makes of them is dropped.
        return self.module.apply(
            {"params": params, **state},
            *args,
            rngs=keys,
            method=self.method,
            mutable=nn.DenyList(("params",)),
            **kwargs,
        )[0]


def intercepted(paths: Collection[ModulePath], handle: Handle) -> AbstractContextManager[None]:
    """A context with `handle(call, args, kwargs)` in the place of calls of chosen modules."""
    inside: list[ModulePath] = []  # a module that is called within a chosen one is a part of it

    def intercept(
        next_fun: Callable[..., Any],
        args: Args,
        kwargs: Kwargs,
        context: nn.module.InterceptorContext,
    ) -> Any:
        path, method = context.module.path, context.method_name
        if inside or path not in paths or method not in ("__call__", "attend"):
            return next_fun(*args, **kwargs)
        inside.append(path)
        try:
            return handle(Intercepted(path, context.module, method, next_fun), args, kwargs)
        finally:
            inside.pop()

    return nn.intercept_methods(intercept)


def _scaled(call: Intercepted, args: Args, kwargs: Kwargs) -> Any:
    """The call with the scales of its slot."""
    found = call.slot
    if "scale_grad_x" in found:
        split, inputs, arrays = split_call(args, kwargs)
        inputs = [scale_gradient(x, found["scale_grad_x"]) for x in inputs]
        args, kwargs = split.joined(inputs, arrays)
    y = functional.scale(call.next(*args, **kwargs), found["scale_actv_y"])
    return scale_gradient(y, found["scale_grad_y"]) if "scale_grad_y" in found else y
