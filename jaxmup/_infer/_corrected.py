"""A user's function with the factors that its program lacks and that no parameter can carry."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import nnx

from jaxmup._check import listed
from jaxmup._correction import Correction
from jaxmup._infer._sites import Sites
from jaxmup._inputs import Static, is_array, take_arrays
from jaxmup._model import Apply
from jaxmup._program import ClosedJaxpr, Node, evaluate_with_factors, flatten, is_open
from jaxmup._spec import ParamSpec
from jaxmup._tree import (
    PathName,
    Specs,
    Tree,
    is_floating,
    leaves_by_path,
    named_leaves,
    require_leaves,
)


def corrected(apply: Apply, specs: Specs) -> Apply:
    r"""The same function, with the factors that muP asks for and that no parameter can carry.

    A published model need not be edited: `infer(..., corrected=True)` says where in its program a
    factor is missing, and this inserts it there, such as :math:`n_0 / n` on the logits of a tied
    readout behind a norm whose gain is `1 + scale`. The function is traced each time that it is
    called, with the arguments of the call, and its program runs with the factors. So it works under
    `jax.jit`, `jax.grad`, `jax.vmap` and NNX's transforms, for values inside of scans and
    checkpoints, and with any batch size, dtype or flag. Call it under `jax.jit`, as the model
    itself, so that it is traced once.

    A place is known by the line of the code, what is done there, and the parameters that enter. A
    call that does not come by all of them is an error, never another function.

    At base width every factor is 1, and it is the function itself, bit for bit.

    Args:
      apply: Function `apply(model, *args, **kwargs)`. `model` holds the parameters that `specs` are
        of: an NNX module, whose state changes as in a plain call; a tree of arrays; the variables
        of a Linen module, for `apply=module.apply`; or a Linen module bound to them, as `apply` of
        a `jaxmup.Model` gets it.
      specs: Specs that `infer` returned for the size of the model.

    Returns:
      A function as `apply`.

    Raises:
      TypeError: if `apply` is no function, or a leaf of `specs` no `ParamSpec`.
      ValueError: when it is called: if the model is not of the specs' shapes; naming the places, if
        the call does not come by them; if an NNX module changes what is none of its variables.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> def make_params(width):
      ...     return {"embed": jnp.ones((50, width))}
      >>> def apply(params, tokens):
      ...     x = params["embed"][tokens]
      ...     return jax.nn.standardize(jnp.tanh(x)) @ params["embed"].T
      >>> tokens = jnp.zeros(8, jnp.int32)
      >>> sizes = {"base": 64, "delta": 128, "target": 256}
      >>> specs = jaxmup.infer(make_params, **sizes, inputs=tokens, apply=apply, corrected=True)
      >>> specs["embed"].corrections[0].factor
      0.25
      >>> params = make_params(256)
      >>> params["embed"] = jax.random.normal(jax.random.key(0), (50, 256))
      >>> ratio = jaxmup.corrected(apply, specs)(params, tokens) / apply(params, tokens)
      >>> float(ratio.min()), float(ratio.max())
      (0.25, 0.25)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 8 (the multiplier of a readout).
    """
    if not callable(apply):
        raise TypeError(
            f"`apply` must be a function `apply(model, *args, **kwargs)`. Got {apply!r}. Of an NNX "
            "module it is `type(model).__call__`."
        )
    by_name = require_leaves("specs", specs, ParamSpec, "They are what `jaxmup.infer` returns.")
    shapes = {name: spec.shape for name, spec in by_name.items()}
    every = dict.fromkeys(one for spec in by_name.values() for one in spec.corrections)
    corrections = [one for one in every if one.factor != 1.0]
    if not corrections:
        return apply

    @functools.wraps(apply)
    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        opened = _opened(apply, model, shapes)
        _require_shapes(shapes, opened.shapes)
        outputs, left = _run(opened, args, kwargs, corrections)
        opened.close(left)
        return outputs

    return call


class _Opened(NamedTuple):
    """A model as a tree of arrays.

    Args:
      tree: The tree.
      names: Name of each array of the tree, in their order; `None` for one that is no parameter.
      run: From the tree and the arguments of a call to what it returns, and the tree as it left it.
      close: Gives the model that the user holds what a call left.
    """

    tree: Tree
    names: list[PathName | None]
    run: Callable[..., tuple[Any, Tree]]
    close: Callable[[Tree], None]

    @property
    def shapes(self) -> dict[PathName, tuple[int, ...]]:
        """The shape of each parameter."""
        arrays, _ = take_arrays(self.tree)
        named = zip(self.names, arrays, strict=True)
        return {name: tuple(array.shape) for name, array in named if name is not None}


def _opened(apply: Apply, model: Any, expected: Collection[PathName]) -> _Opened:
    if isinstance(model, nnx.Module):
        return _opened_nnx(apply, model)
    if isinstance(model, nn.Module):
        return _opened_linen(apply, model)

    def run(tree: Tree, *args: Any, **kwargs: Any) -> tuple[Any, Tree]:
        return apply(tree, *args, **kwargs), None

    # The variables of a Linen module have its parameters in a collection.
    is_linen = isinstance(model, Mapping) and "params" in model
    is_linen = is_linen and not all(name.startswith(_PARAMS) for name in expected)
    return _Opened(model, _names(model, _PARAMS if is_linen else ""), run, lambda _: None)


def _opened_nnx(apply: Apply, model: nnx.Module) -> _Opened:
    graph, state = nnx.split(model)
    parameters = leaves_by_path(nnx.state(model, nnx.Param))

    def run(state: nnx.State, *args: Any, **kwargs: Any) -> tuple[Any, Tree]:
        made = nnx.merge(graph, state, copy=True)
        outputs = apply(made, *args, **kwargs)
        before, now = _attributes(model), _attributes(made)
        changed = [name for name in before if now.get(name) != before[name]]
        if changed:
            raise ValueError(_ATTRIBUTES.format(listed(changed)))
        return outputs, nnx.state(made)

    def close(left: nnx.State) -> None:
        # What has not changed may belong to an outer trace, in which nothing can be written.
        before = leaves_by_path(state)
        changed = [name for name, leaf in named_leaves(left) if leaf is not before.get(name)]
        flat = [
            (path, variable)
            for path, variable in nnx.to_flat_state(left)
            if any(f"{name}/".startswith("/".join(map(str, path)) + "/") for name in changed)
        ]
        nnx.update(model, nnx.from_flat_state(flat))

    names = [name if name in parameters else None for name in _names(state, "")]
    return _Opened(state, names, run, close)


def _opened_linen(apply: Apply, model: nn.Module) -> _Opened:
    module, variables = model.unbind()
    scope = model.scope
    assert scope is not None  # `unbind` has seen to it
    keys: Any = scope.rngs
    rngs = {name: key.as_jax_rng() for name, key in keys.items()}

    def run(tree: Tree, *args: Any, **kwargs: Any) -> tuple[Any, Tree]:
        variables, rngs = tree
        bound = nn.apply(apply, module, mutable=scope.mutable)
        if scope.mutable is False:
            return bound(variables, *args, rngs=rngs, **kwargs), {}
        return bound(variables, *args, rngs=rngs, **kwargs)

    def close(left: Mapping[str, Any]) -> None:
        for collection, values in left.items():
            for name, value in values.items():
                model.put_variable(collection, name, value)

    tree = (variables, rngs)
    return _Opened(tree, _names(tree, f"0/{_PARAMS}"), run, close)


def _attributes(model: nnx.Module) -> dict[PathName, Any]:
    """Python's own values that a module holds, by name."""
    return {
        "/".join(map(str, (*path, name))): value
        for path, module in nnx.iter_modules(model)
        for name, value in vars(module).items()
        if isinstance(value, int | float | str | None)
    }


def _names(tree: Tree, prefix: str) -> list[PathName | None]:
    """The name of each array of a tree, without a prefix; `None` for one that is no parameter."""
    return [
        name.removeprefix(prefix) if is_floating(leaf) and name.startswith(prefix) else None
        for name, leaf in named_leaves(tree)
        if is_array(leaf)
    ]


def _run(
    opened: _Opened,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    corrections: Sequence[Correction],
) -> tuple[Any, Tree]:
    """The result of a call, and the tree as it left it, with the corrections."""
    arrays, static = take_arrays((opened.tree, args, kwargs))
    results: list[Static] = []

    def run(arrays: list[Any]) -> list[Any]:
        tree, args, kwargs = static.joined(arrays)
        returned, rest = take_arrays(opened.run(tree, *args, **kwargs))
        results.append(rest)
        return returned

    program = jax.make_jaxpr(run)(arrays)
    factors = _factors(program, opened.names, corrections)
    return results[0].joined(evaluate_with_factors(program, arrays, factors))


def _factors(
    program: ClosedJaxpr, names: Sequence[PathName | None], corrections: Sequence[Correction]
) -> list[tuple[Node, float]]:
    """The values of a program that are multiplied, with the factor on each.

    Raises:
      ValueError: naming the sites that it does not have.
    """
    flat = flatten(program)
    named = {n: name for n, name in zip(flat.inputs, names, strict=False) if name is not None}
    sites = Sites(flat, named)
    factors: dict[Node, float] = {}
    missing = []
    for correction in corrections:
        nodes = sites.find(correction.site)
        if not nodes or not all(map(is_open, nodes)):
            missing.append(str(correction))
        for node in nodes:
            factors[node] = factors.get(node, 1.0) * correction.factor
    if missing:
        raise ValueError(_MISSING.format(listed(missing)))
    return list(factors.items())


def _require_shapes(
    shapes: Mapping[PathName, tuple[int, ...]], have: Mapping[PathName, tuple[int, ...]]
) -> None:
    """Raises a `ValueError` unless a model has the parameters that the specs are of."""
    wrong = [
        f"{name}: {shape} in the specs, {have.get(name, 'missing')} in the model"
        for name, shape in shapes.items()
        if have.get(name) != shape
    ]
    if wrong:
        raise ValueError(_OTHER_MODEL.format(listed(wrong)))


_PARAMS = "params/"
_MISSING = (
    "A corrected call must come by every place that the specs correct. This one does not come by:{}"
    "\nWas the code edited since `infer` read it, or is it a call of a part of the model? Run "
    "`infer` with the `inputs` and `apply` of such a call."
)
_ATTRIBUTES = (
    "A corrected call of an NNX module may change its variables, which are given back to the "
    "module, but no other attributes. This one changes{}\nMake each an `nnx.Variable`."
)
_OTHER_MODEL = (
    "The first argument of a corrected function must hold the parameters that its specs are of, "
    "since the factors depend on their sizes. They differ at{}\n"
    "Give `corrected` what `infer` returned for this size of the model."
)
