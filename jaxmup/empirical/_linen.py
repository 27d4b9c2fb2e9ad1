"""Linen: calls of chosen modules intercepted, and scales carried beside the parameters."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxmup import functional
from jaxmup._tree import leaves_by_path, path_name
from jaxmup.empirical._arguments import Split, split_arguments
from jaxmup.empirical._choose import choose, innermost, module_name
from jaxmup.empirical._record import Seen, blank, stacked_axes
from jaxmup.empirical._require import require_output, require_parameters
from jaxmup.empirical._use import Settings, measured, scale_gradient

Path = tuple[str, ...]
COLLECTION = "empirical"  # the collection of the scales
# Beside the parameters of a module for one pass: a scan over layers slices them alike.
_SLOT = "jaxmup.empirical"


def apply(
    module: nn.Module, variables: Mapping[str, Any], *args: Any, method: Any = None, **kwargs: Any
) -> Any:
    """`module.apply(variables, ...)` with the scales of the collection `"empirical"`.

    A pure function, differentiable in `variables["params"]`.

    Args:
      module: a Linen module.
      variables: as `calibrate` returns them.
      *args: of `module.apply`.
      method: the same.
      **kwargs: the same.

    Example:
      >>> module = nn.Dense(3)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> variables["empirical"] = {"scale_actv_y": jnp.array(2.0)}
      >>> plain = module.apply(variables, jnp.ones((1, 2)))
      >>> bool((apply(module, variables, jnp.ones((1, 2))) == 2 * plain).all())
      True
    """
    scales = scales_by_path(variables)
    others = {name: tree for name, tree in variables.items() if name != COLLECTION}
    others["params"] = _with_slots(others["params"], scales)

    def scaled(use: "_Call", args: Any, kwargs: Any) -> Any:
        found = use.slot
        if "scale_grad_x" in found:
            split, inputs, arrays = split_arguments(args, kwargs)
            inputs = [scale_gradient(x, found["scale_grad_x"]) for x in inputs]
            args, kwargs = split.joined(inputs, arrays)
        y = functional.scale(use.next(*args, **kwargs), found["scale_actv_y"])
        return scale_gradient(y, found["scale_grad_y"]) if "scale_grad_y" in found else y

    with nn.intercept_methods(_interceptor(scales, scaled)):
        return module.apply(others, *args, method=method, **kwargs)


@dataclasses.dataclass(frozen=True)
class _Call:
    """An intercepted call.

    Args:
      path: of the module.
      module: the module, bound.
      method: name of the method.
      next: the call itself.
    """

    path: Path
    module: nn.Module
    method: str
    next: Callable[..., Any]

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the module, as it sees them."""
        found = self.module.variables.get("params", {})
        return {name: value for name, value in found.items() if name != _SLOT}

    @property
    def slot(self) -> Any:
        """What stands beside them."""
        return self.module.variables["params"][_SLOT]

    @property
    def rest(self) -> Any:
        """The other collections of the module, and random keys."""
        names = self.module.scope.rngs  # type: ignore[union-attr]
        keys = {name: self.module.make_rng(name) for name in names if name != "params"}
        return {n: tree for n, tree in self.module.variables.items() if n != "params"}, keys

    def pure(self, split: Split) -> Callable[..., Array]:
        """The call as a function of parameters, other state and inputs."""
        function = _Pure(self.module.clone(parent=None, name=None), self.method, split)
        try:
            hash(function)
        except TypeError:  # a field of the module: then it equals itself alone
            return functools.partial(function)
        return function


@dataclasses.dataclass(frozen=True)
class _Pure:
    """The call of an unbound module; compared by its fields, so that equal ones compile once."""

    module: nn.Module
    method: str
    split: Split

    def __call__(self, params: Any, constants: Any, *inputs: Array) -> Array:
        (state, keys), arrays = constants
        args, kwargs = self.split.joined(inputs, arrays)
        return self.module.apply(
            {"params": params, **state},
            *args,
            rngs=keys,
            method=self.method,
            mutable=nn.DenyList(("params",)),
            **kwargs,
        )[0]


def _interceptor(paths: Collection[Path], handle: Callable[..., Any]) -> Callable[..., Any]:
    """For `nn.intercept_methods`: `handle(call, args, kwargs)` in the place of chosen calls."""
    inside = []  # a module that is called within a chosen one is a part of it

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        path, method = context.module.path, context.method_name
        if inside or path not in paths or method not in ("__call__", "attend"):
            return next_fun(*args, **kwargs)
        inside.append(path)
        try:
            return handle(_Call(path, context.module, method, next_fun), args, kwargs)
        finally:
            inside.pop()

    return intercept


@dataclasses.dataclass(frozen=True)
class _LinenSubject:
    """A Linen module, see `_solve.Subject`, its parameters and other collections without scales."""

    module: nn.Module
    params: Any
    state: Any
    names: Mapping[Path, str]
    inputs: tuple[Any, ...]
    arguments: Mapping[str, Any]
    loss_fn: Callable[..., Array]

    @property
    def arrays(self) -> Any:
        return self.params, self.state, self.inputs

    def with_arrays(self, arrays: Any) -> "_LinenSubject":
        params, state, inputs = arrays
        return dataclasses.replace(self, params=params, state=state, inputs=inputs)

    def observe(self) -> dict[str, Seen]:
        seen: dict[str, Seen] = {}

        def note(call: _Call, args: Any, kwargs: Any) -> Any:
            outputs = call.next(*args, **kwargs)
            name = self.names[call.path]
            require_output(name, outputs)
            params = nn.unbox(call.params)
            dtype = require_parameters(name, params)
            outer = _shapes(nn.unbox(_at(self.params, call.path)))
            gradient = bool(split_arguments(args, kwargs)[1])
            gradient = gradient or (name in seen and seen[name].gradient)
            seen[name] = Seen(stacked_axes(name, outer, _shapes(params)), gradient, dtype)
            return outputs

        def run(params: Any, state: Any, inputs: Any) -> Any:
            return self.with_arrays((params, state, inputs))._loss(params, note)

        for path, name in self.names.items():
            require_parameters(name, nn.unbox(_at(self.params, path)))
        jax.eval_shape(run, *self.arrays)
        return seen

    def modules(self) -> dict[str, nn.Module]:
        """The chosen modules, as an abstract run meets them."""
        found: dict[str, nn.Module] = {}

        def note(call: _Call, args: Any, kwargs: Any) -> Any:
            found[self.names[call.path]] = call.module
            return call.next(*args, **kwargs)

        def run(params: Any, state: Any, inputs: Any) -> Any:
            return self.with_arrays((params, state, inputs))._loss(params, note)

        jax.eval_shape(run, *self.arrays)
        return found

    def tied(self) -> frozenset[str]:
        return frozenset()  # Linen shares modules, not parameters

    def _loss(self, params: Any, handle: Callable[..., Any]) -> Array:
        with nn.intercept_methods(_interceptor(self.names, handle)):
            outputs, _ = self.module.apply(
                {"params": params, **self.state},
                *self.inputs,
                mutable=nn.DenyList(("params",)),
                **self.arguments,
            )
        return self.loss_fn(outputs)

    def run(
        self,
        settings: Settings,
        seen: Mapping[str, Seen],
        scales: Mapping[str, Array | np.ndarray],
        directions: Mapping[str, Any],
    ) -> tuple[Array, dict[str, Array], dict[str, Any]]:
        def handle(call: _Call, args: Any, kwargs: Any) -> Array:
            split, inputs, arrays = split_arguments(args, kwargs)
            slot = call.slot
            return measured(
                call.pure(split),
                settings.of(self.names[call.path]),
                call.params,
                (call.rest, arrays),
                slot["scales"],
                slot["record"],
                slot.get("direction"),
                *inputs,
            )

        def loss(records: Mapping[str, Array], params: Any) -> Array:
            slots = {}
            for path, name in self.names.items():
                slots[path] = {"scales": scales[name], "record": records[name]}
                if name in directions:
                    slots[path]["direction"] = directions[name]
            return self._loss(_with_slots(params, slots), handle)

        blanks = {name: blank(one) for name, one in seen.items()}
        value, (records, gradients) = jax.value_and_grad(loss, (0, 1))(blanks, self.params)
        return value, records, self.parts(gradients, directions)

    def parts(self, params: Any, names: Collection[str]) -> dict[str, Any]:
        """The parameters of the named modules."""
        return {name: _at(params, path) for path, name in self.names.items() if name in names}

    def zeros(self, names: Collection[str]) -> dict[str, Any]:
        return jax.tree.map(jnp.zeros_like, self.parts(self.params, names))

    def map_parameters(self, function: Callable[[str, str, Array], Array]) -> "_LinenSubject":
        params = self.params
        for path, name in self.names.items():
            part = jax.tree_util.tree_map_with_path(
                lambda key, leaf, name=name: function(name, path_name(key), leaf),
                _at(params, path),
            )
            params = _put(params, path, part)
        return dataclasses.replace(self, params=params)

    def scaled(self, scales: Mapping[str, Mapping[str, Array]]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path, name in self.names.items():
            if name in scales:
                tree = _put(tree, path, dict(scales[name]))
        return {"params": self.params, **self.state, COLLECTION: tree}


def linen_subject(
    module: nn.Module,
    variables: Mapping[str, Any],
    patterns: Sequence[str] | None,
    inputs: tuple[Any, ...],
    arguments: Mapping[str, Any],
    loss_fn: Callable[..., Array],
) -> tuple[_LinenSubject, dict[str, dict[str, Array]]]:
    """The subject of a module, and the scales that its variables have already.

    Args:
      module: a Linen module.
      variables: its variables.
      patterns: names of the modules to wrap; `None` for what has scales already, or every leaf.
      inputs: what it is called with.
      arguments: keyword arguments of that call.
      loss_fn: of its outputs.
    """
    params = variables["params"]
    existing = scales_by_path(variables)
    paths = _module_paths(params)
    if patterns is None and existing:
        chosen = list(existing)
    else:
        by_name = {module_name(path): path for path in paths}
        chosen = [by_name[n] for n in choose(by_name, map(module_name, innermost(paths)), patterns)]
    names = {path: module_name(path) for path in chosen}
    state = {n: tree for n, tree in variables.items() if n not in ("params", COLLECTION)}
    subject = _LinenSubject(module, params, state, names, inputs, arguments, loss_fn)
    return subject, {names[path]: found for path, found in existing.items() if path in names}


def scales_by_path(variables: Mapping[str, Any]) -> dict[Path, dict[str, Array]]:
    """The scales of each module that has some, by its path."""
    found: dict[Path, dict[str, Array]] = {}
    for name, leaf in leaves_by_path(variables.get(COLLECTION, {})).items():
        *path, scale = name.split("/")
        found.setdefault(tuple(path), {})[scale] = leaf
    return found


def _module_paths(params: Any) -> list[Path]:
    """The paths of all modules that have parameters, the outermost first."""
    found: dict[Path, None] = {}

    def visit(path: Path, tree: Any) -> None:
        if isinstance(tree, Mapping):
            found[path] = None
            for name, child in tree.items():
                visit((*path, name), child)

    visit((), params)
    return list(found)


def _at(tree: Any, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: Mapping[str, Any], path: Path, value: Any) -> Any:
    """The tree with `value` at the path."""
    if not path:
        return value
    name, *rest = path
    return {**tree, name: _put(tree.get(name, {}), tuple(rest), value)}


def _with_slots(params: Any, slots: Mapping[Path, Any]) -> Any:
    for path, slot in slots.items():
        params = _put(params, (*path, _SLOT), slot)
    return params


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in leaves_by_path(params).items()}
