"""Trees of specs and scalings, matched to trees of parameters by path.

Matching goes by path and not by tree structure, so that a tree made for an NNX `State` serves its
plain arrays, a `State` restored from a checkpoint and a plain dict alike.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax

from jaxmup import _scaling
from jaxmup._rules import Parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec

T = TypeVar("T")


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, such as `"layers/0/kernel"`."""
    # An NNX variable is a node with one child, and must have the name of the array in its place.
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of `tree` by name.

    Example:
      >>> leaves_by_path({"dense": {"kernel": 1, "bias": 2}})
      {'dense/bias': 2, 'dense/kernel': 1}
    """
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def listed(names: Iterable[str]) -> str:
    """Names as an indented list, one a line."""
    return "".join(f"\n  {name}" for name in names)


def require_leaves(what: str, tree: Any, kind: type[T], remedy: str) -> dict[str, T]:
    """The leaves of `tree` by name, all of type `kind`.

    Raises:
      TypeError: naming the leaves that are of another type.
    """
    leaves = leaves_by_path(tree)
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
            "`jaxmup.parametrization(name, family)`."
        )
    require_leaves("specs", specs, ParamSpec, "Use `jaxmup.nnx.specs` or `jaxmup.linen.specs`.")

    def at_leaf(path: tuple[Any, ...], spec: ParamSpec) -> Scaling:
        try:
            return _scaling.resolve(spec, parametrization)
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


def map_named(function: Callable[..., Any], tree: Any, *rest: Mapping[str, Any]) -> Any:
    """Maps `function(leaf, *values)` over `tree`, taking the values of a leaf by its name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(leaf, *(values[path_name(path)] for values in rest)), tree
    )
