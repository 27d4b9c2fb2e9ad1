"""The numbers that a parametrization gives one parameter."""

import dataclasses
import math

from jaxmup._families import Family
from jaxmup._parametrization import Parametrization
from jaxmup._spec import Applied, ParamSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Scaling:
    """The numbers that a parametrization gives one parameter, relative to the base model.

    The layer, the optimizer and the gauge all take theirs from here. To give one parameter another
    rule, change its numbers with `dataclasses.replace`. A scaling is an unregistered dataclass of
    Python floats: `jax.tree.map` sees a leaf, and its numbers are constants of a program, not
    arrays on a device.

    Args:
      multiplier: Factor m in the effective weight `W = m · w` of the stored weight `w`;
        dimensionless.
      init_std: Standard deviation of the stored weight at initialization; `None` if an initializer
        defines it.
      init_gain: Factor from the initial values of the base model to those of the stored weight;
        dimensionless.
      lr: Factor on the learning rate; dimensionless.
      grad: Factor on the gradient before the optimizer sees it; dimensionless.
      eps: Factor on the optimizer's eps; dimensionless, 1.0 in families without eps.
      weight_decay: Factor on the coefficient of decoupled weight decay; dimensionless. It is
        `1 / lr`, so that a step takes the same share off a weight at every width; in residual
        blocks that are multiplied by `depth_ratio^-α` that share follows `depth_ratio^(α-1)`, as
        the step itself does.
      norm: Factor that gives the gradient of the stored weight, as the model returns it, the norm
        that it has in the gauge of Table 9, where the norm of every layer's gradient is the same at
        every width; under `standard` it is the norm in a model without multipliers. Dimensionless.
      family: Family of the optimizers that the numbers are for.
      shape: Shape of the parameter that the numbers are for; `None` for one of any shape, as where
        each device initializes its own part of a parameter.
      batch_axes: Positions in `shape` of axes without a width, which may have another size or be
        missing, as when a transform runs over the layers of a stack one by one.
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
    batch_axes: tuple[int, ...] = ()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """True if the numbers are for a parameter of this shape, whatever its batch axes.

        Axes in front of those of the parameter are of runs or members that train side by side.

        Example:
          >>> from jaxmup import Axis, parametrization
          >>> spec = ParamSpec((Axis("batch", 12), Axis("output", 256, base=64)))
          >>> scaling = resolve(spec, parametrization("mup"))
          >>> scaling.fits((12, 256)), scaling.fits((256,)), scaling.fits((4, 12, 256))
          (True, True, True)
          >>> scaling.fits((12, 512))
          False
        """
        if self.shape is None:
            return True
        widths = [n for i, n in enumerate(self.shape) if i not in self.batch_axes]
        own = shape[max(len(shape) - len(self.shape), 0) :]
        left = iter(own)  # each `in` goes on where the one before has stopped: the order counts
        return all(n in left for n in widths)


def resolve(spec: ParamSpec, parametrization: Parametrization) -> Scaling:
    r"""The numbers that `parametrization` gives the parameter described by `spec`.

    At base width and `lr_scale = 1` every factor is exactly 1.0 and `init_std` is `spec.init_std`
    (in the gauge `unit` the multiplier is the weight's standard deviation instead).

    Args:
      spec: Axes of the parameter and its constants.
      parametrization: Rule, gauge and optimizer to resolve it for.

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
        batch_axes=spec.batch_axes,
    )


def what_is_applied(spec: ParamSpec, parametrization: Parametrization) -> Applied:
    """The forward multiplier of a parameter and the factor on its initial values at base width."""
    varies = parametrization.row(spec.role).multiplier.varies(spec.role)
    return Applied(*_applied(spec, parametrization), varies, spec.r_out)


def _applied(spec: ParamSpec, parametrization: Parametrization) -> tuple[float, float]:
    row, at, root = parametrization.row(spec.role), _at(spec), _root(spec, parametrization)
    return row.multiplier.at(*at) * root, row.init_gain.at(*at) / root


def _at(spec: ParamSpec) -> tuple[float, float, float, float, float]:
    # Where an initializer defines σ, the gauge that divides by it takes the initializer's values as
    # they are.
    sigma = 1.0 if spec.init_std is None else spec.init_std
    return spec.r_in, spec.r_out, sigma, spec.depth_ratio, spec.forward_gain


def _root(spec: ParamSpec, parametrization: Parametrization) -> float:
    """The factor of α on the multiplier; 1 where α multiplies the learning rate."""
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
