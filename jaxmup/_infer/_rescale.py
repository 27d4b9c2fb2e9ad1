"""Initial values for an unmodified model of any width."""

import fnmatch
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._infer._depth import counterparts
from jaxmup._infer._draws import Draws, Grid, cut, in_turn, repeated
from jaxmup._infer._meshes import (
    Place,
    is_on_mesh,
    off_mesh,
    place_of,
    places_in,
    require_divisible,
    require_places,
)
from jaxmup._model import Instance, MakeModel, Model, Parts, as_model
from jaxmup._parametrization import Parametrization
from jaxmup._program import ClosedJaxpr
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import Size, Specs, leaves_by_path, map_named, path_name, resolve


def rescale(
    make_model: MakeModel | Model,
    specs: Specs,
    parametrization: Parametrization,
    *,
    base: Size,
    target: Size,
    key: Any,
    inputs: Any = None,
    apply: Callable[..., Any] | None = None,
    wrt: Any = None,
    from_target: str | Collection[str] | None = None,
) -> Any:
    r"""The model of size `target`, its parameters starting as `parametrization` asks.

    Initializers differ in how they depend on a layer's sizes: a default kernel shrinks as the
    fan-in grows, and so does a default embedding, which should not. So every parameter is laid out
    of independent draws of the *base model's own* initial values, times the factor that its spec
    has under the parametrization. Its standard deviation at base width is then right whatever the
    initializer, none has to be known or taken apart, and at `target == base` the values are those
    of `make_model`, bit for bit. Structure that spans a matrix, as of orthogonal matrices, is that
    of each draw.

    Values that are not random are repeated along the axes that grow, where they do not change along
    them, as zeros, ones and a state-space model's `A_log`. A table that changes along a growing
    axis, such as sines of positions, has only one meaning at each size: `from_target` names it.

    There are no parameters among the arguments, so nothing can be scaled twice: calling it again
    gives the same values again. What is no parameter, such as batch statistics and random streams,
    and the parameters of jaxmup layers, are as in `make_model` at `target`.

    Arrays are laid out over the devices of `jax.set_mesh` as `make_model` lays them out. Called
    under `jax.jit`, with `out_shardings` where wanted, only what is returned is ever made.

    Args:
      make_model: Function of a size that makes the model, or a `jaxmup.Model`, as for `infer`.
        Unless it returns a Linen module, it must have a parameter `rngs`, which is given an
        `nnx.Rngs`, or `key`, which is given a key, and draw its values with it.
      specs: Specs that `infer` returned for this `base` and `target`.
      parametrization: Parametrization that the optimizer's scalings are resolved with.
      base: Size of the base model, as for `infer`.
      target: Size of the model to make.
      key: Random key: for `make_model`, as `rngs=nnx.Rngs(key)` or `key=key`; for a Linen module,
        for `module.init`, which takes a dict of keys by name as well.
      inputs: Arguments of a call, as for `infer`.
      apply: Function that calls the model, as for `infer`.
      wrt: Parameters that train, as for `infer`; the others are as in `make_model` at `target`.
      from_target: Pattern of names, or several, of the parameters whose values are as in
        `make_model` at `target`, multiplied by nothing.

    Returns:
      What `make_model` returns: an NNX module or a tree of arrays; for a Linen module, what
      `module.init` returns.

    Raises:
      TypeError: if `specs` has a leaf that is no `ParamSpec`, `make_model` takes no key, or there
        are no `inputs` for a Linen module.
      ValueError: naming the parameters: if the specs are not those of the target or of the base,
        `resolve` refuses the parametrization, values that change along an axis of another size
        are not drawn with `key`, `from_target` names no parameter, or the mesh does not divide the
        target.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> make_model = lambda width, rngs: nnx.Linear(width, 10, rngs=rngs)
      >>> rule = jaxmup.parametrization("mup", "adam", gauge="table3")
      >>> inputs = lambda width: jax.ShapeDtypeStruct((1, width), "float32")
      >>> specs = jaxmup.infer(make_model, base=64, delta=128, target=1024, inputs=inputs)
      >>> model = jaxmup.rescale(
      ...     make_model, specs, rule, base=64, target=1024, key=jax.random.key(0)
      ... )
      >>> print(f"{model.kernel[...].std():.4f}")  # 1/16 of the base model's 1/8
      0.0078

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 3.
    """
    for name, one in key.items() if isinstance(key, Mapping) else (("", key),):
        _check.key(f"key[{name!r}]" if name else "key", one)
    scalings = leaves_by_path(resolve(specs, parametrization))
    by_name = leaves_by_path(specs)
    model = as_model(make_model, inputs=inputs, apply=apply, wrt=wrt)
    draws, small = off_mesh(lambda: _draws(model, base, key))
    if is_on_mesh():
        require_divisible(off_mesh(lambda: model.at(target, "target").params))
    large, drawing = model.drawn_at(target, "target", key)
    _require_key(large)
    _require_shapes(by_name, large.parameters)
    kept = _named(from_target, by_name)
    plain = {name: spec for name, spec in by_name.items() if _is_plain(spec) and name not in kept}
    sources = counterparts(small, large.parameters)
    _require_base(plain, sources, small)
    layouts = _layouts(plain, sources, small)
    _require_random(layouts, draws)
    places = _places(large, drawing)
    require_places(places, {name: tuple(leaf.shape) for name, leaf in large.parameters.items()})
    values = _values(layouts, draws, scalings, places, key)
    whole = _whole(large, drawing, by_name.keys() - layouts.keys(), key)
    return large.join(_with_values(whole, values))


def _draws(model: Model, base: Size, key: Any) -> tuple[Draws, dict[str, tuple[int, ...]]]:
    """The draws of the base model, and the shape of each parameter."""
    small, program = model.drawn_at(base, "base", key)
    shapes = {name: tuple(leaf.shape) for name, leaf in small.parameters.items()}
    return Draws.of(list(shapes), program), shapes


def _values(
    layouts: Mapping[str, "_Layout"],
    draws: Draws,
    scalings: Mapping[str, Scaling],
    places: Mapping[str, Place],
    key: Any,
) -> dict[str, jax.Array]:
    """The initial values of the parameters that are laid out of the base model's."""
    random = {name for name, layout in layouts.items() if layout.source in draws.random}
    again = {name for name in random if not layouts[name].is_plain}
    first = draws.values({layouts[name].source for name in layouts.keys() - again}, key)
    keys = draws.keys(key, max(layouts[name].stop for name in again)) if again else None
    values = {}
    for name, layout in layouts.items():
        gain, place = scalings[name].init_gain, places[name]
        if keys is not None and name in again:
            output = draws.names.index(layout.source)
            values[name] = keys.grown(output, layout.start, layout.grid, gain, place)
        else:
            fit = cut if name in random else repeated
            values[name] = fit(first[layout.source], layout.grid, gain, place)
    return values


def _whole(large: Instance, drawing: ClosedJaxpr, own: Collection[str], key: Any) -> Parts:
    """The arrays of the target, drawn where they are no parameters or belong to `own`."""
    names = list(large.parameters)
    filled, structure = jax.tree.flatten(large.parts)
    wanted = [i for i in range(len(filled)) if i >= len(names) or names[i] in own]
    made = in_turn(drawing, wanted, jax.tree.leaves(key))
    for i, value in zip(wanted, made, strict=True):
        filled[i] = jnp.asarray(value)
    return jax.tree.unflatten(structure, filled)


def _places(large: Instance, drawing: ClosedJaxpr) -> dict[str, Place]:
    """The layout over devices that the constructor gives each parameter."""
    if large.kind == "tree" and is_on_mesh() and not _is_explicit():
        return dict(zip(large.parameters, places_in(drawing), strict=False))
    with_paths, _ = jax.tree_util.tree_flatten_with_path(
        large.params, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    return {path_name(path): place_of(leaf) for path, leaf in with_paths}


def _is_explicit() -> bool:
    return jax.sharding.get_abstract_mesh().are_all_axes_explicit


def _named(patterns: str | Collection[str] | None, names: Collection[str]) -> set[str]:
    """The names that the patterns stand for."""
    if patterns is None:
        return set()
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found = {one: fnmatch.filter(names, one) for one in patterns}
    unused = [one for one in patterns if not found[one]]
    if unused:
        raise ValueError(
            f"`from_target` must name parameters of the model. Got{listed(unused)}\n"
            f"The parameters are{listed(names)}"
        )
    return {name for matched in found.values() for name in matched}


def _is_plain(spec: ParamSpec) -> bool:
    """True if the layer takes its initial values as they come."""
    return spec.applied is None or spec.applied.init_gain is None


def _with_values(parts: Parts, values: Mapping[str, Any]) -> Parts:
    """The same arrays with these values for the parameters that they name."""
    names = leaves_by_path(parts.params)
    return parts._replace(
        params=map_named(lambda _, value: value, parts.params, {**names, **values})
    )


def _require_key(instance: Instance) -> None:
    if instance.kind != "linen" and not instance.is_drawn:
        raise TypeError(
            "`make_model` must have a parameter `key` or `rngs`, with which it draws all its "
            "values: those of a larger model are laid out of many draws of the base model's. Write "
            "`def make_model(width, rngs): return Model(width, rngs=rngs)`."
        )


class _Layout(NamedTuple):
    """One parameter, laid out of draws of its counterpart in the base model.

    Args:
      source: Name of the counterpart.
      grid: Shapes of both.
      start: Index of the first draw.
      is_plain: True if the parameter is its counterpart, which `make_model` has drawn.
    """

    source: str
    grid: Grid
    start: int
    is_plain: bool

    @property
    def stop(self) -> int:
        """One more than the index of the last draw."""
        return self.start + self.grid.number


def _layouts(
    specs: Mapping[str, ParamSpec],
    sources: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, _Layout]:
    layouts: dict[str, _Layout] = {}
    stops: dict[str, int] = {}  # where layers beyond the base model's depth go on drawing
    for name, spec in specs.items():
        source = sources[name]
        grid = Grid(shapes[source], spec.shape)
        # A layer beyond the base model's depth shares its counterpart, but must not share a draw.
        is_plain = source == name and grid.number == 1
        layouts[name] = _Layout(source, grid, stops.get(source, 0), is_plain)
        stops[source] = layouts[name].stop
    return layouts


def _require_random(layouts: Mapping[str, _Layout], draws: Draws) -> None:
    """Raises a `ValueError` if values for another size are neither random nor constant along it."""
    fixed = [
        f"{name} {_both(layout.grid.shape, layout.grid.base_shape, ', in the base model ')}"
        for name, layout in layouts.items()
        if layout.source not in draws.random
        and layout.grid.changed
        and not draws.is_constant(layout.source, layout.grid.changed)
    ]
    if fixed:
        raise ValueError(
            "Initial values that change along an axis of another size must be drawn with `key`, so "
            f"that they can be drawn again for that size. These are not:{listed(fixed)}\n"
            "Draw them with `key`; or, for a table such as of positions, have the values that "
            f'`make_model` gives at `target`: `from_target="{_name_of_first(fixed)}"`.'
        )


def _name_of_first(lines: list[str]) -> str:
    return lines[0].split(" (")[0]


def _require_shapes(specs: Mapping[str, ParamSpec], parameters: Mapping[str, Any]) -> None:
    wrong = [
        f"{name}: "
        + _both(
            specs[name].shape if name in specs else "no spec",
            tuple(parameters[name].shape) if name in parameters else "no parameter",
        )
        for name in dict.fromkeys([*specs, *parameters])
        if name not in specs
        or name not in parameters
        or specs[name].shape != tuple(parameters[name].shape)
    ]
    if wrong:
        raise ValueError(
            f"`specs` must be those of `target`. Spec and parameter differ at{listed(wrong)}\n"
            "Give `infer` and `rescale` the same `make_model` and `target`."
        )


def _require_base(
    specs: Mapping[str, ParamSpec],
    sources: Mapping[str, str],
    small: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises a `ValueError` unless the base model has the sizes that the specs have for it."""
    shapes = {name: small[sources[name]] for name in specs}
    wrong = [
        f"{name}: {_both(_expected_base(spec), shapes[name])}"
        for name, spec in specs.items()
        if not _has_base(spec, shapes[name])
    ]
    if wrong:
        raise ValueError(
            "`specs` must be those of `base`, whose initial values are scaled from its sizes. Base "
            f"of the spec and parameter of the base model differ at{listed(wrong)}\n"
            "Give `infer` and `rescale` the same `make_model` and `base`."
        )


def _both(
    shape: tuple[int | None, ...] | str, other: tuple[int, ...] | str, between: str = ", "
) -> str:
    """Two shapes, and the axes on which they differ, if they are of one rank."""
    shown = f"{shape}{between}{other}"
    if isinstance(shape, str) or isinstance(other, str) or len(shape) != len(other):
        return shown
    pairs = enumerate(zip(shape, other, strict=True))
    axes = [str(axis) for axis, (one, two) in pairs if one is not None and one != two]
    return f"{shown}: axis {' and '.join(axes)}" if axes else shown


def _has_base(spec: ParamSpec, shape: tuple[int, ...]) -> bool:
    expected = _expected_base(spec)
    return len(expected) == len(shape) and all(
        size in (None, other) for size, other in zip(expected, shape, strict=True)
    )


def _expected_base(spec: ParamSpec) -> tuple[int | None, ...]:
    """The shape in the base model; `None` where the spec does not say, as of a vocabulary."""
    # An axis that does not grow may have any size in the base model, such as another vocabulary or
    # number of scanned layers, but for one that a layer sums over.
    return tuple(
        axis.base_size if axis.grows or axis.kind == "input" else None for axis in spec.axes
    )
