"""The numbers that a parametrization gives one parameter."""

import dataclasses
import math

from jaxmup._families import Family
from jaxmup._parametrization import Parametrization
from jaxmup._spec import Applied, ParamSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Scaling:
    """What a parametrization asks of one parameter; every factor is relative to the base model.

    An unregistered dataclass of Python floats: `jax.tree.map` sees a leaf, it never becomes a
    tracer, and it never travels to a device. To give one parameter another rule, use
    `dataclasses.replace`.

    Args:
      multiplier: `m` in the effective weight `W = m · w`; dimensionless.
      init_std: standard deviation of the stored `w` at initialization; `None` where an initializer
        defines it.
      init_gain: factor on the base model's initial values that gives those of the stored `w`;
        dimensionless.
      lr: factor on the learning rate; dimensionless.
      grad: factor on the gradient before the optimizer sees it; dimensionless.
      eps: factor on the optimizer's eps; dimensionless, 1.0 in families without eps.
      weight_decay: factor on the coefficient of decoupled weight decay. By default it is `1 / lr`,
        which keeps the decay per step, learning rate times coefficient, the same at every width. In
        residual blocks that are multiplied by `depth_ratio^-α` the decay per step is
        `depth_ratio^(α-1)`, as the step itself is; dimensionless.
      norm: factor that brings the gradient of the stored `w` to the gauge of Table 9, in which
        every layer's gradient norm is the same at every width; for the gradient as the model gives
        it, before any factor `grad`; dimensionless. Under `standard` it brings it to the plain
        model's.
      family: the optimizer family that the numbers are for.
      shape: shape of the parameter that the numbers are for, which `init` of an optimizer compares
        with that of the leaf; `None` if it is not to be compared, as where each device initializes
        its own part of the parameter.
    """

    multiplier: float
    init_std: float | None
    init_gain: float
    lr: float
    grad: float
    eps: float
    weight_decay: float
    norm: float
    family: Family
    shape: tuple[int, ...] | None = None


def resolve(spec: ParamSpec, parametrization: Parametrization) -> Scaling:
    r"""The numbers that `parametrization` gives the parameter described by `spec`.

    At base width and `lr_scale = 1` every factor is exactly 1.0 and `init_std` is `spec.init_std`
    (in the gauge `unit` the multiplier is the weight's standard deviation instead).

    Args:
      spec: the parameter's axes, its standard deviation at base width and its `lr_scale`.
      parametrization: the rule.

    Raises:
      ValueError: if the layer that owns the parameter applies another multiplier or initial scale
        than `parametrization` asks for, or depth has grown and `parametrization` says nothing of
        it.

    Example:
      >>> from jaxmup import Axis, parametrization
      >>> axes = (Axis("input", 256, base=64), Axis("output", 256, base=64))
      >>> rule = parametrization("mup", "adam", gauge="table3")
      >>> scaling = resolve(ParamSpec(axes, init_std=0.125), rule)
      >>> scaling.init_std, scaling.lr, scaling.eps, scaling.weight_decay
      (0.0625, 0.25, 0.25, 4.0)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9 and Appendix B.3 (eps,
      weight decay).
    """
    parametrization.require_depth_ratio(spec.depth_ratio)
    multiplier, init_gain = _applied(spec, parametrization)
    _require_applied(spec, parametrization)
    row, at, root = parametrization.row(spec.role), _at(spec), _root(spec, parametrization)
    lr = row.lr.at(*at)
    if parametrization.lr_scale_acts_on == "lr":
        lr *= spec.lr_scale
    return Scaling(
        multiplier=multiplier,
        init_std=None if spec.init_std is None else spec.init_std * init_gain,
        init_gain=init_gain,
        lr=lr,
        grad=row.grad.at(*at),
        eps=row.eps.at(*at),
        weight_decay=row.decay.at(*at) / lr,
        norm=row.norm.at(*at) / root,
        family=row.family,
        shape=spec.shape,
    )


def what_is_applied(spec: ParamSpec, parametrization: Parametrization) -> Applied:
    """The forward multiplier of a parameter and the factor on its initial values at base width."""
    return Applied(*_applied(spec, parametrization))


def _applied(spec: ParamSpec, parametrization: Parametrization) -> tuple[float, float]:
    row, at, root = parametrization.row(spec.role), _at(spec), _root(spec, parametrization)
    return row.multiplier.at(*at) * root, row.init_gain.at(*at) / root


def _at(spec: ParamSpec) -> tuple[float, float, float, float, float]:
    # Where an initializer defines σ, the gauge that divides by it takes the initializer's values as
    # they are.
    sigma = 1.0 if spec.init_std is None else spec.init_std
    return spec.r_in, spec.r_out, sigma, spec.depth_ratio, spec.forward_gain


def _root(spec: ParamSpec, parametrization: Parametrization) -> float:
    """The factor on the multiplier through which α acts, if it does so there."""
    return math.sqrt(spec.lr_scale) if parametrization.lr_scale_acts_on == "multiplier" else 1.0


def _require_applied(spec: ParamSpec, parametrization: Parametrization) -> None:
    """Raises a `ValueError` unless the layer does what `parametrization` asks for."""
    asked, applied = what_is_applied(spec, parametrization), spec.applied
    if applied is None or applied == asked:
        return
    if applied.init_gain is not None:
        raise ValueError(_OTHER_GAUGE.format(parametrization, asked, spec.shape, applied))
    if applied.multiplier != asked.multiplier:
        raise ValueError(_PLAIN.format(parametrization, asked.multiplier, spec.shape))


_OTHER_GAUGE = (
    "A parameter must be resolved under the parametrization that its layer applies. {} asks for "
    "{}; the layer of the parameter of shape {} was built with {}. Build the layer and call "
    "`resolve` with the same parametrization."
)

_PLAIN = (
    "A plain model applies no multiplier. {} asks for {:g} on the parameter of shape {}. Use "
    "gauge='table3', which asks for none."
)
