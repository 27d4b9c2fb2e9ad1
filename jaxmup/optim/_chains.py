"""Ready optimizers: chains of transforms, without arithmetic of their own."""

from typing import NamedTuple

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from jaxmup import _check
from jaxmup._families import FAMILIES
from jaxmup._tree import Scalings
from jaxmup.optim._adam import Convention, scale_by_adam
from jaxmup.optim._checks import (
    CheckedScalings,
    Mask,
    require_decay_rate,
    require_dtype,
    require_learning_rate,
)
from jaxmup.optim._leaves import passing_over, standing_still
from jaxmup.optim._scale import ReadyChainState, ScaleUpdatesState, scale_by
from jaxmup.optim._weight_decay import WeightDecay, WeightDecayMode, decay_transform


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    weight_decay_mode: WeightDecayMode = "decoupled",
    mask: Mask | None = None,
    peak_learning_rate: ArrayLike | None = None,
) -> optax.GradientTransformation:
    """SGD under a parametrization, with the arguments of `optax.sgd` after `scalings`.

    A parameter whose gradient is `None` is left as it is; its trace decays.

    Args:
      learning_rate: Learning rate of the base model; a number or a schedule.
      scalings: Tree of `Scaling` for the family `sgd`.
      momentum: Decay of the trace of gradients, in [0, 1); `None` for no momentum.
      nesterov: Whether the momentum is Nesterov's; only with `momentum`.
      accumulator_dtype: Dtype of the trace; `None` for that of the gradient.
      weight_decay: Coefficient λ at base width, as in `adamw`; `None` for no decay.
      weight_decay_mode: Quantity that the coefficient is multiplied by; see `adamw`.
      mask: Leaves that decay; see `adamw`.
      peak_learning_rate: Largest value of a schedule, for `"independent"`; see `adamw`.

    Raises:
      TypeError: as `adamw`.
      ValueError: as `adamw`; also if `nesterov` is asked for without `momentum`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> spec = jaxmup.ParamSpec((jaxmup.Axis("output", 256, base=64),))
      >>> tx = sgd(0.5, {"bias": jaxmup.resolve(spec, jaxmup.parametrization("mup", "sgd"))})
      >>> tx.update({"bias": jnp.ones(1)}, tx.init({"bias": jnp.ones(1)}))[0]["bias"]
      Array([-2.], dtype=float32)
    """
    _check.flag("nesterov", nesterov)
    require_dtype("accumulator_dtype", accumulator_dtype)
    checked = CheckedScalings(scalings, FAMILIES["sgd"])
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    if momentum is None:
        if nesterov:
            raise ValueError("`nesterov` needs a `momentum`. Got None. Use 0.9, say.")
        return chain(checked, optax.identity(), decay, learning_rate)
    require_decay_rate("momentum", momentum)
    trace = optax.trace(decay=momentum, nesterov=nesterov, accumulator_dtype=accumulator_dtype)
    return standing_still(chain(checked, trace, decay, learning_rate), checked.by_name)


def adam(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    convention: Convention = "torch",
    weight_decay: optax.ScalarOrSchedule | None = None,
    weight_decay_mode: WeightDecayMode = "decoupled",
    mask: Mask | None = None,
    peak_learning_rate: ArrayLike | None = None,
) -> optax.GradientTransformation:
    """Adam under a parametrization, with the arguments of `optax.adam` after `scalings`.

    They are those of `adamw`, whose weight decay it has none of by default.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 256, base=64))
      >>> spec = jaxmup.ParamSpec(axes)
      >>> tx = adam(0.5, {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup", "adam"))})
      >>> tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))[0]["w"]
      Array([-0.125], dtype=float32)
    """
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    formula = _Formula(b1, b2, eps, eps_root, mu_dtype, convention, nesterov=nesterov)
    return _adam_chain(learning_rate, scalings, formula, decay)


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule | None = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
    convention: Convention = "torch",
    weight_decay_mode: WeightDecayMode = "decoupled",
    peak_learning_rate: ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""AdamW under a parametrization, with the arguments of `optax.adamw` after `scalings`.

    What one step takes off a parameter w, with λ = `weight_decay`, :math:`\eta_t` the learning rate
    and s the scaling:

    - `"decoupled"`: :math:`\eta_t\, s_{lr}\, s_{weight\_decay}\, \lambda\, w`, as torch's and
      optax's AdamW; with the default factors that is :math:`\eta_t \lambda w` at every width.
    - `"independent"`: :math:`(\eta_t / \eta_{peak})\, \lambda\, w`, which follows the schedule but
      not the learning rate.
    - `"absolute"`: :math:`\lambda w`, which follows neither.
    - `"coupled"`: L2; :math:`s_{weight\_decay}\, s_{eps}\, \lambda w` is added to the gradient, so
      that it keeps its ratio to the gradient. Its effect under Adam depends on the width whatever
      the factor.

    Args:
      learning_rate: Learning rate of the base model; a number or a schedule.
      scalings: Tree of `Scaling` for the family `adam`.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Constant beside the root of the second moment in the base model, in units of the
        gradient; each leaf gets `eps * Scaling.eps`.
      eps_root: Constant inside the root, in units of the squared gradient; each leaf gets
        `eps_root * Scaling.eps**2`.
      mu_dtype: Dtype of the first moment; `None` for that of the parameter.
      weight_decay: Coefficient λ at base width, a number or a schedule; `None` for no decay.
      mask: Leaves that decay, as a tree of booleans or a function of the parameters that returns
        one; `None` for all.
      nesterov: Whether the momentum is Nesterov's; see `scale_by_adam`.
      convention: Library whose formula to follow; see `scale_by_adam`.
      weight_decay_mode: Quantity that the coefficient is multiplied by; see above.
      peak_learning_rate: Largest value of a schedule, for `"independent"`; needed where
        `learning_rate` is not a plain number.

    Raises:
      TypeError: if a leaf of `scalings` is no `Scaling`, a number is none, or `nesterov` or a leaf
        of `mask` is no boolean; at `init` and `update`, if a leaf with a scaling is no array of
        floating-point numbers.
      ValueError: if a number is out of range, the mode is unknown, or the scalings are for another
        family; at `init` and `update`, if a leaf has no scaling or a scaling no leaf, naming them;
        at `init`, if their shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 256, base=64))
      >>> spec = jaxmup.ParamSpec(axes)
      >>> scalings = {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup", "adam"))}
      >>> tx = adamw(0.5, scalings, weight_decay=0.1)
      >>> params = {"w": jnp.ones(1)}
      >>> tx.update({"w": jnp.zeros(1)}, tx.init(params), params)[0]["w"]
      Array([-0.05], dtype=float32)

    References:
      Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
      Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities",
      arXiv:2309.14322.
    """
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    formula = _Formula(b1, b2, eps, eps_root, mu_dtype, convention, nesterov=nesterov)
    return _adam_chain(learning_rate, scalings, formula, decay)


def amsgrad(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    convention: Convention = "torch",
    weight_decay: optax.ScalarOrSchedule | None = None,
    weight_decay_mode: WeightDecayMode = "decoupled",
    mask: Mask | None = None,
    peak_learning_rate: ArrayLike | None = None,
) -> optax.GradientTransformation:
    """AMSGrad under a parametrization, with arguments of `adamw`.

    By default it is torch's, which `optax.amsgrad` is not: see `scale_by_adam`. Both moments are
    corrected for their bias; optax's two switches for that are left out.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 256, base=64))
      >>> spec = jaxmup.ParamSpec(axes)
      >>> tx = amsgrad(0.5, {"w": jaxmup.resolve(spec, jaxmup.parametrization("mup", "adam"))})
      >>> tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))[0]["w"]
      Array([-0.125], dtype=float32)

    References:
      Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", arXiv:1904.09237, Algorithm 2.
    """
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    formula = _Formula(b1, b2, eps, eps_root, mu_dtype, convention, amsgrad=True)
    return _adam_chain(learning_rate, scalings, formula, decay)


class _Formula(NamedTuple):
    """The arguments of Adam's direction in a chain."""

    b1: ArrayLike
    b2: ArrayLike
    eps: ArrayLike
    eps_root: ArrayLike
    mu_dtype: DTypeLike | None
    convention: Convention
    amsgrad: bool = False
    nesterov: bool = False


def _adam_chain(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    formula: _Formula,
    decay: WeightDecay,
) -> optax.GradientTransformation:
    checked = CheckedScalings(scalings, FAMILIES["adam"])
    _check.number("eps", formula.eps, at_least=0)
    _check.number("eps_root", formula.eps_root, at_least=0)
    eps = jax.tree.map(lambda scaling: formula.eps * scaling.eps, scalings)
    eps_root = jax.tree.map(lambda scaling: formula.eps_root * scaling.eps**2, scalings)
    direction = scale_by_adam(**formula._replace(eps=eps, eps_root=eps_root)._asdict())
    return chain(checked, direction, decay, learning_rate)


def chain(
    scalings: CheckedScalings,
    direction: optax.GradientTransformation,
    decay: WeightDecay,
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """The order that the docstring of `jaxmup.optim` explains."""
    require_learning_rate(learning_rate)
    transform = decay_transform(scalings, decay, learning_rate)
    steps = [
        scale_by(scalings, "grad", ReadyChainState()),
        transform if decay.mode == "coupled" else None,
        direction,
        transform if decay.mode == "decoupled" else None,
        scale_by(scalings, "lr", ScaleUpdatesState()),
        transform if decay.mode == "independent" else None,
        optax.scale_by_learning_rate(learning_rate),
        transform if decay.mode == "absolute" else None,
    ]
    tx = optax.chain(*(step for step in steps if step is not None))
    return passing_over(tx, scalings.trained)
