"""NNX modules with measured scales, in the place of those that they scale."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jax import Array

from jaxmup import functional
from jaxmup.empirical._choose import module_name
from jaxmup.empirical._measurable import ModuleName, ModulePath
from jaxmup.empirical._split import Args, Kwargs, split_call
from jaxmup.empirical._use import scale_gradient

SCALES = ("scale_actv_y", "scale_grad_x", "scale_grad_y", "learning_rate")


class Scale(nnx.Variable[Array]):
    """A measured scale: a scalar array, dimensionless, or one for each module of a stack.

    It is saved with the model, and no optimizer trains it: it is no `nnx.Param`.
    """


class Wrapper(nnx.Module):
    """A module in the place of `module`, which it shows through."""

    module: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "module" not in vars(self):
            raise AttributeError(name)
        return getattr(self.module, name)

    def _apply(self, method: str, args: Args, kwargs: Kwargs) -> Any:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        return self._apply("__call__", args, kwargs)

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method `attend` of an embedding: another use of the same parameters."""
        return self._apply("attend", args, kwargs)


class Scaled(Wrapper):
    """A module with measured scales: `y = scale_actv_y · module(x)`.

    In the backward pass the gradient of `y` is multiplied by `scale_grad_y` as it comes in, and
    that of `x` by `scale_grad_x` as it goes out; where both are `None` it is left alone. What is
    not found on the wrapper is looked up on the module.

    Args:
      module: Module that takes any arguments and returns one array.
      scale_actv_y: Factor on the outputs, a scalar array.
      scale_grad_x: Factor on the gradient of the inputs; `None` if gradients are not scaled.
      scale_grad_y: Factor on the gradient of the outputs; `None` if gradients are not scaled.
      learning_rate: Factor on the learning rate of the parameters; nothing in the module applies
        it, see `learning_rates`.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = Scaled(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.array(3.0))
      >>> x = jnp.ones((1, 2))
      >>> bool((layer(x) == 3 * layer.module(x)).all())
      True
    """

    def __init__(
        self,
        module: nnx.Module,
        scale_actv_y: Array,
        scale_grad_x: Array | None = None,
        scale_grad_y: Array | None = None,
        learning_rate: Array | None = None,
    ):
        self.module = module
        self.scale_actv_y = Scale(scale_actv_y)
        self.scale_grad_x = None if scale_grad_x is None else Scale(scale_grad_x)
        self.scale_grad_y = None if scale_grad_y is None else Scale(scale_grad_y)
        self.learning_rate = None if learning_rate is None else Scale(learning_rate)

    def _apply(self, method: str, args: Args, kwargs: Kwargs) -> Any:
        if self.scale_grad_x is not None:
            split, inputs, arrays = split_call(args, kwargs)
            inputs = [scale_gradient(x, self.scale_grad_x[...]) for x in inputs]
            args, kwargs = split.joined(inputs, arrays)
        y = functional.scale(getattr(self.module, method)(*args, **kwargs), self.scale_actv_y[...])
        return y if self.scale_grad_y is None else scale_gradient(y, self.scale_grad_y[...])


def modules_by_path(model: nnx.Module) -> dict[ModulePath, nnx.Module]:
    """Every module of the model, at the path where `replaced` meets it first."""
    found: dict[ModulePath, nnx.Module] = {}

    def note(path: ModulePath, node: Any) -> Any:
        if isinstance(node, nnx.Module):
            found[path] = node
        return node

    nnx.recursive_map(note, model)
    return found


def scaled_modules(model: nnx.Module) -> dict[ModulePath, Scaled]:
    """The wrappers of a model by their paths."""
    return {p: m for p, m in modules_by_path(model).items() if isinstance(m, Scaled)}


def replaced(
    model: nnx.Module, wrapper: Callable[[ModulePath, nnx.Module], nnx.Module | None]
) -> Any:
    """The model with `wrapper(path, module)` in the place of each module that it is not `None` for.

    A module that stands at several paths is replaced by one and the same.
    """

    def place(path: ModulePath, node: Any) -> Any:
        other = wrapper(path, node) if isinstance(node, nnx.Module) else None
        return node if other is None else other

    return nnx.recursive_map(place, model)


def unwrapped(model: nnx.Module) -> tuple[Any, dict[ModuleName, dict[str, Array]]]:
    """A copy of the model without wrappers, and the scales that they had, by name."""
    scales: dict[ModuleName, dict[str, Array]] = {}

    def inner(path: ModulePath, module: nnx.Module) -> nnx.Module | None:
        if not isinstance(module, Scaled):
            return None
        found = {name: getattr(module, name) for name in SCALES}
        scales[module_name(path)] = {name: x[...] for name, x in found.items() if x is not None}
        return module.module

    return replaced(nnx.clone(model), inner), scales
