"""Checks of values: are they numbers, and as large as the parametrization asks for?"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmup._lint._finding import Finding
from jaxmup._scaling import Scaling
from jaxmup._tree import PathName, is_floating, wide

# On top of the statistical error: draws in bfloat16 are off by up to a percent.
_ROUNDING = 0.02
_STANDARD_ERRORS = 5


def check_initial(
    scalings: Mapping[str, Scaling], params: Mapping[str, Any], base: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """Compares the root mean square of each parameter with what it should be.

    What it should be is `init_std`, or where an initializer defines it, `init_gain` times that of
    the base model's parameter. Abstract parameters are passed over.
    """
    for path, scaling in scalings.items():
        asked = _asked(path, scaling, base)
        if asked is None or not _is_concrete(params.get(path)):
            continue
        expected, elements = asked
        measured = float(_root_mean_square(params[path]))
        if not math.isfinite(measured):
            continue  # `check_values` says so
        allowed = _STANDARD_ERRORS / math.sqrt(2 * min(elements, params[path].size)) + _ROUNDING
        if not abs(measured - expected) <= allowed * expected:
            yield Finding(
                "initial-std",
                f"Its initial values have the root mean square {measured:.4g}. {expected:.4g} is "
                f"asked for, give or take {allowed:.1%}.",
                (path,),
                "Activations or outputs grow or vanish with the width from the first step on.",
                "Set the scale by `init_std` or `kernel_init` of the layer, which are for the base "
                "width, and overwrite nothing afterwards; rescale a plain model exactly once.",
            )


def check_values(what: str, leaves: Mapping[PathName, Any]) -> Iterator[Finding]:
    """Finds arrays that hold NaN or infinities.

    Args:
      what: What the arrays are, to begin a sentence with.
      leaves: Leaves by name; abstract ones, and what is no array of floats, are passed over.
    """
    for path, leaf in leaves.items():
        if _is_concrete(leaf) and (number := int(_number_not_finite(leaf))):
            yield Finding(
                "not-finite",
                f"{what} holds {number} values of {leaf.size} that are NaN or infinite.",
                (path,),
                "The loss is NaN from the next step on, and every other parameter follows.",
                "Look at the initializer, or go back to a checkpoint from before it happened.",
            )


def check_kinds(specs: Iterable[PathName], params: Mapping[PathName, Any]) -> Iterator[Finding]:
    """Finds parameters that have a spec and are no floating-point numbers."""
    for path in specs:
        if path in params and not trains(params[path]):
            yield Finding(
                "not-floating",
                f"It has a spec, and is of {getattr(params[path], 'dtype', type(params[path]))}.",
                (path,),
                "No optimizer trains integers and flags, and a multiplier would round them away.",
                "Give it no spec, or make it an array of floating-point numbers.",
            )


def trains(leaf: object) -> bool:
    """Says if a leaf may be a parameter."""
    # The base model may be given as specs, which have a shape and no dtype.
    return is_floating(leaf) or (hasattr(leaf, "shape") and not hasattr(leaf, "dtype"))


def _asked(
    path: str, scaling: Scaling, base: Mapping[str, Any] | None
) -> tuple[float, float] | None:
    """The root mean square that is asked for, and of how many elements it was measured."""
    if scaling.init_std is not None:
        return scaling.init_std, math.inf
    if base is None or not _is_concrete(base.get(path)):
        return None
    return float(_root_mean_square(base[path])) * scaling.init_gain, base[path].size


def _is_concrete(leaf: Any) -> bool:
    return is_floating(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct) and leaf.size > 0


@jax.jit
def _root_mean_square(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(jnp.abs(x.astype(wide(x.dtype))))))


@jax.jit
def _number_not_finite(x: jax.Array) -> jax.Array:
    return jnp.sum(~jnp.isfinite(x.astype(wide(x.dtype))))
