"""Initial values for an unmodified model of any width."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._check import listed
from jaxmup._infer._depth import counterparts
from jaxmup._model import Instance, MakeModel, Model, Parts, as_model
from jaxmup._parameter import join_tiles
from jaxmup._parametrization import Parametrization
from jaxmup._spec import ParamSpec
from jaxmup._tree import Size, Specs, leaves_by_path, map_named, resolve
from jaxmup.functional import scale


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
) -> Any:
    r"""The model of size `target`, its parameters starting as `parametrization` asks.

    Initializers differ in how they depend on a layer's sizes: a default kernel shrinks as the
    fan-in grows, and so does a default embedding, which should not. So every parameter is laid out
    of independent draws of the *base model's own* initial values, times the factor that its spec
    has under the parametrization. Its standard deviation at base width is then right whatever the
    initializer, none has to be known or taken apart, and at `target == base` the values are those
    of `make_model`, bit for bit. Structure that spans a matrix, as of orthogonal matrices, is that
    of each draw.

    There are no parameters among the arguments, so nothing can be scaled twice: calling it again
    gives the same values again. What is no parameter, such as batch statistics and random streams,
    and the parameters of jaxmup layers, are as in `make_model` at `target`.

    Called under `jax.jit`, with `out_shardings` where wanted, only what is returned is ever made.

    Args:
      make_model: Function of a size that makes the model, or a `jaxmup.Model`, as for `infer`.
        Unless it returns a Linen module, it must have a parameter `rngs`, which is given an
        `nnx.Rngs`, or `key`, which is given a key, and draw its values with it.
      specs: Specs that `infer` returned for this `target`.
      parametrization: Parametrization that the optimizer's scalings are resolved with.
      base: Size of the base model, as for `infer`.
      target: Size of the model to make.
      key: Random key: for `make_model`, as `rngs=nnx.Rngs(key)` or `key=key`; for a Linen module,
        for `module.init`, which takes a dict of keys by name as well.
      inputs: Arguments of a call, as for `infer`.
      apply: Function that calls the model, as for `infer`.
      wrt: Parameters that train, as for `infer`; the others are as in `make_model` at `target`.

    Returns:
      What `make_model` returns: an NNX module or a tree of arrays; for a Linen module, what
      `module.init` returns.

    Raises:
      TypeError: if `specs` has a leaf that is no `ParamSpec`, `make_model` takes no key, or there
        are no `inputs` for a Linen module.
      ValueError: naming the parameters: if the specs are not those of the target, `resolve` refuses
        the parametrization, or values that are not constant are not drawn with `key`, so that there
        is only one draw of them.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> make_model = lambda width, rngs: nnx.Linear(width, 10, rngs=rngs)
      >>> rule = jaxmup.parametrization("mup", "adam", gauge="table3")
      >>> specs = jaxmup.infer(make_model, base=64, delta=128, target=1024)
      >>> model = jaxmup.rescale(
      ...     make_model, specs, rule, base=64, target=1024, key=jax.random.key(0)
      ... )
      >>> print(f"{model.kernel[...].std():.4f}")  # 1/16 of the base model's 1/8
      0.0078

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 3.
    """
    scalings = leaves_by_path(resolve(specs, parametrization))
    by_name = leaves_by_path(specs)
    model = as_model(make_model, inputs=inputs, apply=apply, wrt=wrt)
    small, large = model.at(base, "base"), model.at(target, "target")
    _require_key(large)
    _require_shapes(by_name, large.parameters)
    layouts = _layouts(
        {name: spec for name, spec in by_name.items() if _is_plain(spec)},
        counterparts(_sizes(small), large.parameters),
        small.parameters,
    )

    def draw(index: Any) -> dict[str, Any]:
        keys = jax.tree.map(lambda one: jax.random.fold_in(one, index), key)
        return leaves_by_path(small.draw(keys).params)

    if not all(layout.is_plain for layout in layouts.values()):
        _require_random(layouts, small, key)
    # Layers of jaxmup draw their own values. These, and the base model's own draw below, are made
    # outside of `jit`: XLA may round an initializer otherwise inside of a larger program, and at
    # base width the values must have the bits of `make_model`.
    others = by_name.keys() - layouts.keys()
    own = leaves_by_path(large.draw(key).params) if others else {}

    @jax.jit  # under which XLA drops all draws that are not used
    def arrays(plain: Mapping[str, Any]) -> Parts:
        tiles = _tiles(plain, draw, layouts)
        values = {
            name: scale(_laid_out(layout, tiles[name]), scalings[name].init_gain)
            for name, layout in layouts.items()
        }
        return _with_values(large.draw(key), values)

    parts = arrays(leaves_by_path(small.draw(key).params))
    return large.join(_with_values(parts, {name: own[name] for name in others}))


def _is_plain(spec: ParamSpec) -> bool:
    """True if the layer takes its initial values as they come."""
    return spec.applied is None or spec.applied.init_gain is None


def _sizes(instance: Instance) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in instance.parameters.items()}


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
      base_shape: Shape of the counterpart.
      shape: Shape of the parameter.
      tiles: Number of draws along each axis.
      start: Index of the first draw.
      is_plain: True if the parameter is its counterpart, which `make_model` has drawn.
    """

    source: str
    base_shape: tuple[int, ...]
    shape: tuple[int, ...]
    tiles: tuple[int, ...]
    start: int
    is_plain: bool

    @property
    def stop(self) -> int:
        """One more than the index of the last draw."""
        return self.start + math.prod(self.tiles)


def _layouts(
    specs: Mapping[str, ParamSpec], names: Mapping[str, str], small: Mapping[str, Any]
) -> dict[str, _Layout]:
    layouts: dict[str, _Layout] = {}
    stops: dict[str, int] = {}  # where layers beyond the base model's depth go on drawing
    for name, spec in specs.items():
        source = names[name]
        base_shape = tuple(small[source].shape)
        tiles = tuple(-(-size // base) for size, base in zip(spec.shape, base_shape, strict=True))
        # A layer beyond the base model's depth shares its counterpart, but must not share a draw.
        is_plain = source == name and math.prod(tiles) == 1
        start = stops.get(source, 0)
        layouts[name] = _Layout(source, base_shape, spec.shape, tiles, start, is_plain)
        stops[source] = layouts[name].stop
    return layouts


def _tiles(
    plain: Mapping[str, Any],
    draw: Callable[[Any], Mapping[str, Any]],
    layouts: Mapping[str, _Layout],
) -> dict[str, Any]:
    """The draws of each parameter, stacked; `plain` are those of `make_model` itself."""
    # A draw makes the whole base model: parameters that need the same draws share them, and XLA
    # drops what none of them uses.
    ranges = {(layout.start, layout.stop) for layout in layouts.values() if not layout.is_plain}
    drawn = {at: jax.vmap(draw)(jnp.arange(*at)) for at in sorted(ranges)}
    return {
        name: plain[name][None]
        if layout.is_plain
        else drawn[layout.start, layout.stop][layout.source]
        for name, layout in layouts.items()
    }


def _laid_out(layout: _Layout, tiles: Any) -> jax.Array:
    window = tuple(slice(size) for size in layout.shape)
    return join_tiles(tiles, layout.tiles, layout.base_shape)[window]


def _require_random(layouts: Mapping[str, _Layout], small: Instance, key: Any) -> None:
    """Raises a `ValueError` if several draws are needed of what has only one."""
    with jax.ensure_compile_time_eval():  # so that the draws can be compared under `jit`
        first, second = (
            leaves_by_path(
                small.draw(jax.tree.map(lambda _, seed=seed: jax.random.key(seed), key)).params
            )
            for seed in (0, 1)
        )
    fixed = [
        f"{name} {layout.shape}, in the base model {layout.base_shape}"
        for name, layout in layouts.items()
        if not layout.is_plain and _has_one_draw(first[layout.source], second[layout.source])
    ]
    if fixed:
        raise ValueError(
            "Initial values that are not constant must be drawn with `key`, so that they can be "
            f"drawn again for another size. These are not:{listed(fixed)}\n"
            "Draw them with `key`, or keep what is not random out of the parameters."
        )


def _has_one_draw(first: Any, second: Any) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    return bool((first == second).all() and (first != first.flat[0]).any())


def _require_shapes(specs: Mapping[str, ParamSpec], parameters: Mapping[str, Any]) -> None:
    wrong = [
        f"{name}: {specs[name].shape if name in specs else 'no spec'}, "
        f"{tuple(parameters[name].shape) if name in parameters else 'no parameter'}"
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
