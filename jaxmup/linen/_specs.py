"""The specs and the multipliers of a module."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from jaxmup._inputs import take_arrays
from jaxmup._parameter import Parameter
from jaxmup._spec import ParamSpec
from jaxmup._tree import Params, Specs, leaves_by_path, listed, map_named, specs_of_leaves
from jaxmup.linen._layer import MULTIPLIERS, Layer


def specs(
    module: nn.Module,
    *example_inputs: Any,
    given: Mapping[str, ParamSpec] | None = None,
    **kwargs: Any,
) -> Specs:
    """The `ParamSpec` of every parameter of a module, as a tree like `module.init(...)["params"]`.

    The module is initialized abstractly, so nothing is allocated. Axes that `nn.scan` or `nn.vmap`
    has added are batch axes.

    Args:
      module: A Linen module.
      *example_inputs: Inputs of a call. Arrays may be `jax.ShapeDtypeStruct`s; what is no array,
        such as a flag, stays as Python has it.
      given: Specs of parameters that no jaxmup layer made, by name (`"norm/scale"`).
      **kwargs: Keyword arguments of `module.init`.

    Raises:
      TypeError: if `module` is no Linen module.
      ValueError: naming every parameter without a spec, or given names that match nothing.

    Example:
      >>> import jaxmup
      >>> layer = jaxmup.linen.Dense(128, base_features=64)
      >>> specs(layer, jnp.ones((1, 3)))["kernel"].role
      'input'
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a Linen module. Got {module!r}.")
    declared, variables = _declared(module, example_inputs, kwargs)
    params = variables.get("params", {})
    specs = {name: parameter.spec for name, parameter in declared.items()}
    return map_named(lambda _, spec: spec, params, specs_of_leaves(_shapes(params), specs, given))


def multipliers(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> dict[str, Any]:
    """The multipliers of a module's jaxmup layers as the collection `"multipliers"`.

    Given to `apply` beside the parameters, they take the place of the layers' constants: they are
    arguments of a compiled step, which then serves every gauge, and XLA compiles the same program
    for each, so that two gauges whose multipliers differ by powers of two compute the same bits.

    A module that uses `nn.scan` or `nn.vmap` must hand the collection on:
    `variable_axes={"params": 0, "multipliers": 0}`.

    Args:
      module: A Linen module.
      *example_inputs: Inputs of a call, as in `specs`.
      **kwargs: Keyword arguments of `module.init`.

    Returns:
      A tree like the parameters of the jaxmup layers, with a scalar at each leaf, in float64 where
      that is enabled, else in float32; with the axes that `nn.scan` or `nn.vmap` has added.

    Raises:
      ValueError: naming the parameters whose layers do not get the collection.

    Example:
      >>> import jaxmup
      >>> layer = jaxmup.linen.Dense(10, base_in_features=64)
      >>> x = jnp.ones((1, 128))
      >>> variables = {**layer.init(jax.random.key(0), x), "multipliers": multipliers(layer, x)}
      >>> variables["multipliers"]["kernel"]
      Array(0.5, dtype=float32)
      >>> layer.apply(variables, x).shape
      (1, 10)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a Linen module. Got {module!r}.")
    declared, variables = _declared(module, example_inputs, kwargs)
    shapes = _shapes(variables.get(MULTIPLIERS, {}))
    without = [name for name in declared if name not in shapes]
    if without:
        raise ValueError(
            "Every layer must get its multipliers. The collection "
            f"'{MULTIPLIERS}' does not reach those of{listed(without)}\n"
            "Hand it on where the module uses `nn.scan` or `nn.vmap`: `variable_axes={'params': 0, "
            f"'{MULTIPLIERS}': 0}}`."
        )
    values = {
        name: jnp.full(shapes[name], parameter.applied.multiplier, jnp.result_type(float))
        for name, parameter in declared.items()
    }
    return traverse_util.unflatten_dict(values, sep="/")


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves_by_path(params).items()}


def _declared(
    module: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Parameter], Any]:
    """The parameters that the layers of a module declare, by name, and its abstract variables.

    The variables have the collection of multipliers, made by Flax like any other, so with the axes
    that lifted transformations add to it.
    """
    arrays, static = take_arrays((inputs, kwargs))

    def init(arrays: list[Any]) -> Any:
        args, keywords = static.joined(arrays)
        return nn.unbox(module.init(jax.random.key(0), *args, **keywords))

    with recorded(with_multipliers=True) as declared:
        variables = jax.eval_shape(init, arrays)
    return declared, variables


@contextlib.contextmanager
def recorded(*, with_multipliers: bool = False) -> Iterator[dict[str, Parameter]]:
    """The parameters that jaxmup layers declare while a module is initialized inside, by name.

    Args:
      with_multipliers: Whether the variables get the collection of multipliers.
    """
    declared: dict[str, Parameter] = {}

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        layer = context.module
        made = call(*args, **kwargs)
        if isinstance(layer, Layer) and context.method_name == "make_parameters":
            for name, parameter in args[0].items():
                declared["/".join([*layer.path, name])] = parameter
                if with_multipliers and layer.is_mutable_collection(MULTIPLIERS):
                    layer.variable(MULTIPLIERS, name, jnp.float32, parameter.applied.multiplier)
        return made

    with nn.intercept_methods(record):
        yield declared
