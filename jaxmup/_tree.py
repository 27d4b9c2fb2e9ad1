"""Trees of specs and scalings, matched to trees of parameters by path.

Matching goes by path and not by tree structure, so that a tree made for an NNX `State` serves its
plain arrays, a `State` restored from a checkpoint and a plain dict alike.

The types of trees name what stands at the leaves. They are open to every container that JAX knows,
registered or not yet, which Python's types cannot say; so a type checker takes them for `Any`.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmup import _scaling
from jaxmup._check import listed
from jaxmup._parametrization import Parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec

T = TypeVar("T")

Tree: TypeAlias = Any
"""A tree of anything."""
Params: TypeAlias = Any
"""A tree with a floating-point array at each leaf."""
Gradients: TypeAlias = Any
"""A tree like the parameters, with the derivative of the loss at each leaf."""
Updates: TypeAlias = Any
"""A tree like the parameters, with what is added to the parameter at each leaf."""
OptState: TypeAlias = Any
"""The state of an `optax.GradientTransformation`."""
Specs: TypeAlias = Any
"""A tree like the parameters, with a `ParamSpec` at each leaf."""
Scalings: TypeAlias = Any
"""A tree like the parameters, with a `Scaling` at each leaf."""
Size: TypeAlias = Any
"""The size of a model: one positional argument of its factory, or a mapping of keywords."""
PathName: TypeAlias = str
"""The name of a leaf, the keys on the way to it joined by slashes, such as `"layers/0/kernel"`."""


def path_name(path: tuple[Any, ...]) -> PathName:
    """The name of a leaf, such as `"layers/0/kernel"`."""
    # An NNX variable is a node with one child, and must have the name of the array in its place.
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree) -> list[tuple[PathName, Any]]:
    """The leaves of `tree` with their names, in the order of `jax.tree.leaves`.

    Orbax restores an NNX state without a target as dicts `{"value": array}` in place of variables;
    such a leaf has the name of its variable.

    Raises:
      ValueError: if two leaves have one name, as in `{"a": {"b": 1}, "a/b": 2}`.

    Example:
      >>> named_leaves({"kernel": {"value": 1}, "bias": {"value": 2}})
      [('bias', 2), ('kernel', 1)]
    """
    paths = jax.tree_util.tree_leaves_with_path(tree)
    if paths and all(_is_orbax_value(path) for path, _ in paths):
        paths = [(path[:-1], leaf) for path, leaf in paths]
    names = [path_name(path) for path, _ in paths]
    if len(set(names)) < len(names):
        raise ValueError(_ONE_NAME.format(listed(_namesakes(names, [path for path, _ in paths]))))
    return [(name, leaf) for name, (_, leaf) in zip(names, paths, strict=True)]


def leaves_by_path(tree: Tree) -> dict[PathName, Any]:
    """The leaves of `tree` by name.

    Raises:
      ValueError: if two leaves have one name.

    Example:
      >>> leaves_by_path({"dense": {"kernel": 1, "bias": 2}})
      {'dense/bias': 2, 'dense/kernel': 1}
    """
    return dict(named_leaves(tree))


def _is_orbax_value(path: tuple[Any, ...]) -> bool:
    # A dict of parameters may well hold one that is called "value", beside "query" and "key"; only
    # where every leaf is called so is it Orbax that did it.
    return len(path) > 1 and path[-1] == jax.tree_util.DictKey("value")


def _namesakes(names: list[PathName], paths: list[tuple[Any, ...]]) -> list[str]:
    """The paths of leaves that share their name, as Python would index them."""
    return [
        f"{name}: tree{jax.tree_util.keystr(path)}"
        for name, path in zip(names, paths, strict=True)
        if names.count(name) > 1
    ]


_ONE_NAME = (
    "Every leaf must have a name of its own, its keys joined by slashes. These share one:{}\n"
    "Rename one of the keys, without a slash in it."
)


def is_floating(leaf: object) -> bool:
    """Says if a leaf is an array of floating-point numbers, real or complex, abstract or not.

    Example:
      >>> import jax.numpy as jnp
      >>> is_floating(jnp.ones(2)), is_floating(jnp.arange(2)), is_floating(jnp.tanh)
      (True, False, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def wide(dtype: DTypeLike) -> jnp.dtype:
    """The dtype to compute in: `dtype`, or float32 if it has fewer bits.

    Example:
      >>> wide(jnp.bfloat16), wide(jnp.float8_e4m3fn), wide(jnp.complex128)
      (dtype('float32'), dtype('float32'), dtype('complex128'))
    """
    held = jnp.dtype(dtype)
    # JAX promotes floats of eight bits to nothing.
    return jnp.dtype(jnp.float32) if held.itemsize < 2 else jnp.promote_types(held, jnp.float32)


def require_floating(what: str, leaves: Mapping[PathName, object], remedy: str) -> None:
    """Refuses leaves that are no floating-point numbers, as arrays of integers and flags are none.

    A multiplier or a step would round them away. Leaves without a dtype pass otherwise, such as the
    placeholders of `optax.tree.map_params`.

    Raises:
      TypeError: naming each of them with its dtype and shape.

    Example:
      >>> require_floating("params", {"w": 3}, "Leave it out of the specs.")
      Traceback (most recent call last):
      ...
      TypeError: `params` must be arrays of floating-point numbers. Got
        w: int
      Leave it out of the specs.
    """
    wrong = [
        f"{name or '(the tree itself)'}: {_kind(x)}" for name, x in leaves.items() if _whole(x)
    ]
    if wrong:
        raise TypeError(
            f"`{what}` must be arrays of floating-point numbers. Got{listed(wrong)}\n{remedy}"
        )


def _whole(leaf: object) -> bool:
    return isinstance(leaf, int | str | bytes) or (hasattr(leaf, "dtype") and not is_floating(leaf))


def _kind(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{'float0' if leaf.dtype == jax.dtypes.float0 else leaf.dtype} {np.shape(leaf)}"


def require_leaves(what: str, tree: Any, kind: type[T], remedy: str) -> dict[str, T]:
    """The leaves of `tree` by name, all of type `kind`.

    Raises:
      TypeError: naming the leaves that are of another type.
    """
    # An empty tree is `{}`: JAX takes `None` for one too, which a user has passed by mistake.
    leaves: dict[str, Any] = leaves_by_path(tree) if tree is not None else {"": None}
    wrong = [
        f"{name or '(the tree itself)'}: {type(leaf).__name__}"
        for name, leaf in leaves.items()
        if not isinstance(leaf, kind)
    ]
    if wrong:
        raise TypeError(
            f"`{what}` must be a tree with a `{kind.__name__}` at each leaf. Got{listed(wrong)}\n"
            f"{remedy}"
        )
    return leaves


def resolve(specs: Any, parametrization: Parametrization) -> Any:
    """The tree of `Scaling` that a parametrization gives a tree of `ParamSpec`.

    Args:
      specs: a `ParamSpec`, or a tree with one at each leaf, such as `jaxmup.nnx.specs` returns.
      parametrization: the rule, for the family of the optimizer that will be used.

    Returns:
      A tree of the same structure with a `Scaling` at each leaf.

    Raises:
      TypeError: if a leaf is no `ParamSpec`, or `parametrization` is no `Parametrization`.
      ValueError: if a layer applies another multiplier or initial scale than `parametrization` asks
        for.

    Example:
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10))
      >>> specs = {"kernel": jaxmup.ParamSpec(axes)}
      >>> scaling = resolve(specs, jaxmup.parametrization("mup", "sgd"))["kernel"]
      >>> scaling.multiplier, scaling.lr
      (0.25, 4.0)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9.
    """
    if not isinstance(parametrization, Parametrization):
        raise TypeError(
            "`parametrization` must be a `Parametrization`, since the learning rates depend on the "
            f"optimizer family. Got {parametrization!r}. Use "
            "`jaxmup.parametrization(name, optimizer)`."
        )
    require_leaves("specs", specs, ParamSpec, "Use `jaxmup.nnx.specs` or `jaxmup.linen.specs`.")

    @functools.cache  # layers have equal specs
    def resolved(spec: ParamSpec) -> Scaling:
        return _scaling.resolve(spec, parametrization)

    def at_leaf(path: tuple[Any, ...], spec: ParamSpec) -> Scaling:
        try:
            return resolved(spec)
        except ValueError as error:
            raise ValueError(f"{path_name(path) or 'spec'}: {error}") from None

    return jax.tree_util.tree_map_with_path(at_leaf, specs)


def specs_of_leaves(
    shapes: Mapping[str, tuple[int, ...]],
    declared: Mapping[str, ParamSpec],
    given: Mapping[str, ParamSpec] | None,
) -> dict[str, ParamSpec]:
    """One spec for each parameter, declared by its layer or given by the user.

    The spec of a parameter that `scan` or `vmap` has stacked gains batch axes.

    Args:
      shapes: shape of each parameter by name.
      declared: the specs that layers declare, by name.
      given: specs for the other parameters, by name; they win over declared ones.

    Raises:
      ValueError: naming every parameter without a spec, every given name without a parameter, and
        every spec whose axes are not those of its parameter.
    """
    given = {} if given is None else given
    unknown = [name for name in given if name not in shapes]
    if unknown:
        raise ValueError(
            f"`given` must name parameters of the model. Got{listed(unknown)}\n"
            f"The parameters are{listed(shapes)}"
        )
    found = {**declared, **given}
    missing = [f"{name} {shape}" for name, shape in shapes.items() if name not in found]
    if missing:
        raise ValueError(
            f"Every parameter needs a ParamSpec. {len(missing)} have none:{listed(missing)}\n"
            "Build them with jaxmup layers, or pass `given={name: ParamSpec(...)}`; a parameter "
            "whose axes have no base trains as in standard parametrization."
        )
    return {name: _stacked(name, found[name], shape) for name, shape in shapes.items()}


def _stacked(name: str, spec: ParamSpec, shape: tuple[int, ...]) -> ParamSpec:
    """`spec` with batch axes where `scan` or `vmap` has added some to the parameter."""
    for position in added_axes(name, spec, shape):
        spec = spec.with_batch_axis(position, shape[position])
    return spec


def added_axes(name: str, spec: ParamSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The positions in `shape` of the axes that `scan` or `vmap` has added to the parameter.

    Raises:
      ValueError: if `shape` is not that of the spec with axes added to it.
    """
    extra = len(shape) - len(spec.axes)
    # Leading axes first: that is where scan and vmap stack by default.
    for added in itertools.combinations(range(len(shape)), max(extra, 0)):
        if tuple(size for i, size in enumerate(shape) if i not in added) == spec.shape:
            return added
    raise ValueError(
        f"A spec must have the axes of its parameter. {name} has shape {shape}, its spec "
        f"{spec.shape}. Was the parameter replaced after the layer was built?"
    )


def map_named(function: Callable[..., Any], tree: Tree, *rest: Mapping[str, Any]) -> Tree:
    """Maps `function(leaf, *values)` over `tree`, taking the values of a leaf by its name.

    Raises:
      ValueError: if two leaves of `tree` have one name.

    Example:
      >>> map_named(lambda leaf, factor: leaf * factor, {"w": 2}, {"w": 3, "b": 4})
      {'w': 6}
    """
    leaves = [
        function(leaf, *(values[name] for values in rest)) for name, leaf in named_leaves(tree)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
