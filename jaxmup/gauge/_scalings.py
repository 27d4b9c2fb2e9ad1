"""Scalings moved to another gauge, and their numbers as arguments of a program."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmup._check import listed, same_tree
from jaxmup._scaling import Scaling
from jaxmup._tree import Scalings, Tree, map_named, require_leaves
from jaxmup.gauge._parameters import thetas_of
from jaxmup.optim._checks import require_dtype

_RESOLVE = "Use `jaxmup.resolve(specs, parametrization)`."
Arguments: TypeAlias = dict[str, Tree]
"""For each number of a `Scaling`, such as `"lr"`, a tree with its arrays."""

_NUMBERS = ("multiplier", "lr", "grad", "eps", "weight_decay", "norm")


def regauge_scalings(scalings: Scalings, theta: Tree) -> Scalings:
    r"""The scalings of the same physics with every multiplier multiplied by `theta`.

    With k and j the degrees of the optimizer's step in the gradient and in the weight,

    .. math::
      multiplier\,\theta, \quad init\_std\,/\,\theta, \quad lr\,\theta^{-1-k+j}, \quad eps\,\theta,
      \quad weight\_decay\,\theta^{1+k-j}, \quad norm\,/\,\theta.

    A chain of `jaxmup.optim` built from them runs as before on parameters divided by `theta`, and
    on a state moved by `regauge`.

    Args:
      scalings: Tree of `Scaling`.
      theta: Positive number, or a tree of them with the paths of `scalings`; dimensionless.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`, or a `theta` no number.
      ValueError: if a `theta` is not finite and positive, or has other paths.

    Example:
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> table8 = jaxmup.resolve(spec, jaxmup.parametrization("mup", "adam", gauge="table8"))
      >>> table3 = regauge_scalings(table8, 4.0)
      >>> table3 == jaxmup.resolve(spec, jaxmup.parametrization("mup", "adam", gauge="table3"))
      True

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Lemma J.1; Yang and Littwin, "Tensor
      Programs IVb", arXiv:2308.01814, Proposition 2.2.3.
    """
    by_name = require_leaves("scalings", scalings, Scaling, _RESOLVE)
    thetas = thetas_of(theta, by_name)
    same_tree("theta", thetas, by_name)
    return map_named(_moved, scalings, thetas)


def reference_scalings(scalings: Scalings) -> Scalings:
    """The scalings of the same physics without multipliers and without factors on gradients.

    They are the same for every gauge of one physics, and what a chain inside `in_reference_gauge`
    is built from.

    Args:
      scalings: Tree of `Scaling`.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`.

    Example:
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> scaling = jaxmup.resolve(spec, jaxmup.parametrization("mup", gauge="tp4b"))
      >>> scaling.multiplier, scaling.grad, scaling.lr
      (0.25, 4.0, 1.0)
      >>> reference_scalings(scaling) == jaxmup.resolve(
      ...     spec, jaxmup.parametrization("mup", gauge="table3")
      ... )
      True
    """
    require_leaves("scalings", scalings, Scaling, _RESOLVE)
    return jax.tree.map(reference, scalings)


def reference(scaling: Scaling) -> Scaling:
    """See `reference_scalings`."""
    family = scaling.family
    moved = _moved(scaling, 1.0 / scaling.multiplier)
    # A factor on the gradient is one on the step, and one on what eps stands beside.
    rate = scaling.grad**family.gradient_degree
    return dataclasses.replace(
        moved,
        multiplier=1.0,
        grad=1.0,
        lr=moved.lr * rate,
        eps=moved.eps if family.eps is None else moved.eps / scaling.grad,
        weight_decay=moved.weight_decay / rate,
    )


def _moved(scaling: Scaling, theta: float) -> Scaling:
    family = scaling.family
    # A step of size η g^k w^j has to shrink as the stored weight does, by 1/θ, while its gradient
    # grows by θ and its weight shrinks by it.
    rate = theta ** (-1 - family.gradient_degree + family.weight_degree)
    return dataclasses.replace(
        scaling,
        multiplier=scaling.multiplier * theta,
        init_std=None if scaling.init_std is None else scaling.init_std / theta,
        init_gain=scaling.init_gain / theta,
        lr=scaling.lr * rate,
        eps=scaling.eps if family.eps is None else scaling.eps * theta,
        weight_decay=scaling.weight_decay / rate,
        norm=scaling.norm / theta,
    )


def as_arguments(scalings: Scalings, dtype: DTypeLike | None = None) -> Arguments:
    """The numbers of scalings as arrays, to be passed to a compiled step.

    A number that is a constant of a program changes how it is compiled: a multiplier of 1 vanishes,
    and what stood beside it is fused, and rounded, differently. As arguments, they give two gauges
    one and the same program, and a move by powers of two the same bits.

    Args:
      scalings: Tree of `Scaling`.
      dtype: Dtype of the arrays; `None` for JAX's default float.

    Returns:
      For each number of a `Scaling` the tree of its values: `{"multiplier": ..., "lr": ...}`.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`, or `dtype` no dtype.
      ValueError: if `dtype` is not of floating-point numbers.

    Example:
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}
      >>> as_arguments(scalings)["multiplier"]
      {'w': Array(0.25, dtype=float32)}
    """
    require_leaves("scalings", scalings, Scaling, _RESOLVE)
    require_dtype("dtype", dtype, "The numbers are fractions.")
    dtype = jnp.result_type(float) if dtype is None else dtype
    return {
        field: jax.tree.map(lambda s, field=field: jnp.asarray(getattr(s, field), dtype), scalings)
        for field in _NUMBERS
    }


def from_arguments(scalings: Scalings, arguments: Arguments) -> Scalings:
    """`scalings` with the numbers of `as_arguments`, inside a compiled step.

    Args:
      scalings: Tree of `Scaling` that the arguments were made of, or one of the same paths.
      arguments: Result of `as_arguments`, as the step received it.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`.
      ValueError: if `arguments` lack a number.

    Example:
      >>> import jaxmup
      >>> import optax
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 10)))
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup"))}
      >>> @jax.jit
      ... def update(gradients, state, arguments):
      ...     tx = jaxmup.optim.sgd(0.5, from_arguments(scalings, arguments))
      ...     return tx.update(gradients, state)
    """
    require_leaves("scalings", scalings, Scaling, _RESOLVE)
    missing = [field for field in _NUMBERS if field not in arguments]
    if missing:
        raise ValueError(
            f"`arguments` must be those of `as_arguments`. Without{listed(missing)}\nPass them "
            "through the step as they are."
        )
    values = [arguments[field] for field in _NUMBERS]
    return jax.tree.map(
        lambda scaling, *numbers: dataclasses.replace(
            scaling, **dict(zip(_NUMBERS, numbers, strict=True))
        ),
        scalings,
        *values,
    )
