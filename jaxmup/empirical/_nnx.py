"""NNX: modules replaced on a copy of the model, by modules that measure or apply scales."""

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxmup import functional
from jaxmup.empirical._arguments import Split, split_arguments
from jaxmup.empirical._choose import choose, innermost, module_name
from jaxmup.empirical._record import Seen, blank, stacked_axes
from jaxmup.empirical._require import require_output, require_parameters
from jaxmup.empirical._use import Settings, measured, scale_gradient
from jaxmup.nnx._layer import name_of

Path = tuple[Any, ...]
SCALES = ("scale_actv_y", "scale_grad_x", "scale_grad_y", "learning_rate")


class Scale(nnx.Variable[Array]):
    """A measured scale: a scalar array, dimensionless, or one for each module of a stack.

    It is saved with the model, and no optimizer trains it: it is no `nnx.Param`.
    """


class _Wrapper(nnx.Module):
    """A module in the place of `module`, which it shows through."""

    module: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "module" not in vars(self):
            raise AttributeError(name)
        return getattr(self.module, name)

    def _apply(self, method: str, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        return self._apply("__call__", args, kwargs)

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method `attend` of an embedding: another use of the same parameters."""
        return self._apply("attend", args, kwargs)


class Scaled(_Wrapper):
    """A module with measured scales: `y = scale_actv_y · module(x)`.

    In the backward pass the gradient of `y` is multiplied by `scale_grad_y` as it comes in, and
    that of `x` by `scale_grad_x` as it goes out; where both are `None` it is left alone. What is
    not found on the wrapper is looked up on the module.

    Args:
      module: the module; any arguments in, one array out.
      scale_actv_y: factor on the outputs, a scalar array.
      scale_grad_x: factor on the gradient of the inputs; `None` if gradients are not scaled.
      scale_grad_y: factor on the gradient of the outputs; `None` if gradients are not scaled.
      learning_rate: factor on the learning rate of the parameters; nothing in the module applies
        it, see `learning_rates`.

    Example:
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

    def _apply(self, method: str, args: Any, kwargs: Any) -> Any:
        if self.scale_grad_x is not None:
            split, inputs, arrays = split_arguments(args, kwargs)
            inputs = [scale_gradient(x, self.scale_grad_x[...]) for x in inputs]
            args, kwargs = split.joined(inputs, arrays)
        y = functional.scale(getattr(self.module, method)(*args, **kwargs), self.scale_actv_y[...])
        return y if self.scale_grad_y is None else scale_gradient(y, self.scale_grad_y[...])


class _Observed(_Wrapper):
    """Tells `observe` with which shapes the module is called."""

    def __init__(self, module: nnx.Module, observe: Callable[..., None]):
        self.module = module
        self.observe = observe

    def _apply(self, method: str, args: Any, kwargs: Any) -> Any:
        outputs = getattr(self.module, method)(*args, **kwargs)
        inputs = split_arguments(args, kwargs)[1]
        self.observe(_shapes(self.module), bool(inputs), outputs)
        return outputs


class _Measured(_Wrapper):
    """Measures and scales what passes through the module."""

    def __init__(
        self,
        module: nnx.Module,
        settings: Settings,
        scales: Array | np.ndarray,
        record: Array,
        direction: nnx.Module | None,
    ):
        self.module = module
        self.settings = settings
        self.scales = Scale(jnp.asarray(scales))
        self.record = Scale(record)
        self.direction = direction

    def _apply(self, method: str, args: Any, kwargs: Any) -> Any:
        graph, params, rest = nnx.split(self.module, nnx.Param, ...)
        split, inputs, arrays = split_arguments(args, kwargs)
        use = _Call(graph, method, split)
        direction = None if self.direction is None else nnx.state(self.direction, nnx.Param)
        constants = (rest, arrays)
        scales, record = self.scales[...], self.record[...]
        return measured(use, self.settings, params, constants, scales, record, direction, *inputs)


@dataclasses.dataclass(frozen=True)
class _Call:
    """The call of a module as a pure function of its state."""

    graph: Any
    method: str
    split: Split

    def __call__(self, params: Any, constants: Any, *inputs: Array) -> Array:
        rest, arrays = constants
        rest = jax.tree.map(lambda leaf: leaf, rest)  # variables that this trace may write to
        args, kwargs = self.split.joined(inputs, arrays)
        return getattr(nnx.merge(self.graph, params, rest), self.method)(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class _NNXSubject:
    """An NNX model, see `_solve.Subject`: its graph without scales, parameters and other state."""

    graph: Any
    params: Any
    rest: Any
    names: Mapping[Path, str]
    inputs: tuple[Any, ...]
    arguments: Mapping[str, Any]
    loss_fn: Callable[..., Array]

    @property
    def arrays(self) -> Any:
        return self.params, self.rest, self.inputs

    def with_arrays(self, arrays: Any) -> "_NNXSubject":
        params, rest, inputs = arrays
        return dataclasses.replace(self, params=params, rest=rest, inputs=inputs)

    def observe(self) -> dict[str, Seen]:
        outer = {
            self.names[path]: _shapes(module)
            for path, module in _modules(nnx.merge(self.graph, self.params, self.rest)).items()
            if path in self.names
        }
        seen: dict[str, Seen] = {}

        def run(params: Any, rest: Any, inputs: Any) -> Any:
            def wrapped(path: Path, module: nnx.Module) -> nnx.Module:
                name = self.names[path]
                dtype = require_parameters(name, nnx.to_pure_dict(nnx.state(module, nnx.Param)))

                def note(inner: Mapping[str, Any], gradient: bool, outputs: Any) -> None:
                    require_output(name, outputs)
                    lead = stacked_axes(name, outer[name], inner)
                    before = seen.get(name)
                    gradient = gradient or (before is not None and before.gradient)
                    seen[name] = Seen(lead, gradient, dtype)

                return _Observed(module, note)

            model = replaced(nnx.merge(self.graph, params, rest), self.names, wrapped)
            return self.loss_fn(model(*inputs, **self.arguments))

        jax.eval_shape(run, *self.arrays)
        return seen

    def tied(self) -> frozenset[str]:
        modules = _modules(nnx.merge(self.graph, self.params, self.rest))
        owners = collections.defaultdict(set)
        for path, name in self.names.items():
            for _, variable in nnx.iter_graph(modules[path]):
                if isinstance(variable, nnx.Param):
                    owners[id(variable)].add(name)
        return frozenset(name for names in owners.values() if len(names) > 1 for name in names)

    def run(
        self,
        settings: Settings,
        seen: Mapping[str, Seen],
        scales: Mapping[str, Array | np.ndarray],
        directions: Mapping[str, Any],
    ) -> tuple[Array, dict[str, Array], dict[str, Any]]:
        def loss(records: Mapping[str, Array], params: Any) -> Array:
            def wrapped(path: Path, module: nnx.Module) -> nnx.Module:
                name = self.names[path]
                direction = directions.get(name)
                if direction is not None:
                    direction = _with_params(module, direction)
                return _Measured(module, settings.of(name), scales[name], records[name], direction)

            rest = jax.tree.map(lambda leaf: leaf, self.rest)  # variables of this trace
            model = replaced(nnx.merge(self.graph, params, rest), self.names, wrapped)
            return self.loss_fn(model(*self.inputs, **self.arguments))

        blanks = {name: blank(one) for name, one in seen.items()}
        value, (records, gradients) = jax.value_and_grad(loss, (0, 1))(blanks, self.params)
        return value, records, self.parts(gradients, directions)

    def parts(self, params: Any, names: Collection[str]) -> dict[str, Any]:
        """The parameters of the named modules."""
        modules = _modules(nnx.merge(self.graph, params, self.rest)) if names else {}
        by_name = {self.names[path]: m for path, m in modules.items() if path in self.names}
        return {name: nnx.state(by_name[name], nnx.Param) for name in names}

    def zeros(self, names: Collection[str]) -> dict[str, Any]:
        return self.parts(jax.tree.map(jnp.zeros_like, self.params), names)

    def map_parameters(self, function: Callable[[str, str, Array], Array]) -> "_NNXSubject":
        flat = [
            (path, variable.replace(self._mapped(function, path, variable[...])))
            for path, variable in nnx.to_flat_state(self.params)
        ]
        return dataclasses.replace(self, params=nnx.from_flat_state(flat))

    def _mapped(self, function: Callable[..., Array], path: Path, values: Array) -> Array:
        for end in range(len(path)):
            if path[:end] in self.names:
                return function(self.names[path[:end]], name_of(path[end:]), values)
        return values

    def scaled(self, scales: Mapping[str, Mapping[str, Array]]) -> nnx.Module:
        model = nnx.clone(nnx.merge(self.graph, self.params, self.rest))
        return replaced(
            model, self.names, lambda path, module: Scaled(module, **scales[self.names[path]])
        )


def nnx_subject(
    model: nnx.Module,
    patterns: Sequence[str] | None,
    inputs: tuple[Any, ...],
    arguments: Mapping[str, Any],
    loss_fn: Callable[..., Array],
) -> tuple[_NNXSubject, dict[str, dict[str, Array]]]:
    """The subject of a model, and the scales that it has already.

    Args:
      model: it may be wrapped.
      patterns: names of the modules to wrap; `None` for what is wrapped already, or every leaf.
      inputs: what it is called with.
      arguments: keyword arguments of that call.
      loss_fn: of its outputs.
    """
    bare, wrapped = unwrapped(model) if scaled_modules(model) else (model, {})
    modules = _modules(bare)
    with_parameters = {path: m for path, m in modules.items() if _shapes(m)}
    leaves = map(module_name, innermost(with_parameters))
    by_name = {module_name(path): path for path in with_parameters}
    if patterns is None and wrapped:
        chosen = [by_name[name] for name in wrapped]
    else:
        chosen = [by_name[name] for name in choose(by_name, leaves, patterns)]
    graph, params, rest = nnx.split(bare, nnx.Param, ...)
    names = {path: module_name(path) for path in chosen}
    return _NNXSubject(graph, params, rest, names, inputs, arguments, loss_fn), wrapped


def scaled_modules(model: nnx.Module) -> dict[Path, Scaled]:
    """The wrappers of a model by their paths."""
    return {p: m for p, m in _modules(model).items() if isinstance(m, Scaled)}


def unwrapped(model: nnx.Module) -> tuple[Any, dict[str, dict[str, Array]]]:
    """A copy of the model without wrappers, and the scales that they had, by name."""
    scales: dict[str, dict[str, Array]] = {}

    def inner(path: Path, node: Any) -> Any:
        if not isinstance(node, Scaled):
            return node
        found = {name: getattr(node, name) for name in SCALES}
        scales[module_name(path)] = {name: x[...] for name, x in found.items() if x is not None}
        return node.module

    return nnx.recursive_map(inner, nnx.clone(model)), scales


def _with_params(module: nnx.Module, params: Any) -> nnx.Module:
    copy = nnx.clone(module)
    nnx.update(copy, params)
    return copy


def replaced(
    model: nnx.Module,
    names: Mapping[Path, str],
    wrapper: Callable[[Path, nnx.Module], nnx.Module],
) -> Any:
    """The model with `wrapper(path, module)` in the place of each named module."""
    return nnx.recursive_map(
        lambda path, node: wrapper(path, node) if path in names else node, model
    )


def _modules(model: nnx.Module) -> dict[Path, nnx.Module]:
    """Every module of the model, at the path where `replaced` meets it first."""
    found: dict[Path, nnx.Module] = {}

    def note(path: Path, node: Any) -> Any:
        if isinstance(node, nnx.Module):
            found[path] = node
        return node

    nnx.recursive_map(note, model)
    return found


def _shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {"/".join(map(str, path)): variable.shape for path, variable in state}
