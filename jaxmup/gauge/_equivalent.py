"""A comparison of two parametrizations: one physics or not."""

import dataclasses
import math
from collections.abc import Mapping

import jax

from jaxmup._check import listed
from jaxmup._families import Family, OptimizerName, family_of
from jaxmup._parametrization import Parametrization, ParametrizationName, parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import PathName, Specs, leaves_by_path, require_leaves, resolve
from jaxmup.gauge._scalings import reference

_RELATIVE = 1e-9  # factors are products of a few powers; what differs by a rule differs by percents


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One parameter in which two parametrizations are not the same physics.

    Args:
      path: Name of the parameter.
      quantity: Quantity of the effective weight that differs: `initial scale`, `learning rate`,
        `eps` (in units of its gradient) or `weight decay` (the decay per step).
      factor: Ratio of the second to the first; dimensionless.
    """

    path: PathName
    quantity: str
    factor: float

    def __str__(self) -> str:
        return f"{self.path}: {self.quantity} × {self.factor:.6g}"


@dataclasses.dataclass(frozen=True, slots=True)
class Equivalence:
    """The answer of `equivalent`: true if both train the same effective weights.

    Args:
      differences: Each parameter and quantity in which they do not agree.
    """

    differences: tuple[Difference, ...]

    def __bool__(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        if not self.differences:
            return "one physics"
        return f"not one physics:{listed(map(str, self.differences))}"


def equivalent(
    p: Parametrization | ParametrizationName,
    q: Parametrization | ParametrizationName,
    specs: Specs,
    optimizer: OptimizerName | Family = "adam",
) -> Equivalence:
    """Says whether `p` and `q` are one physics for these parameters, and if not, where.

    Compared are what the two ask of the effective weight: its standard deviation at
    initialization, its learning rate, the eps of the optimizer in units of its gradient, and the
    decay per step.

    Args:
      p: Parametrization, or its name, which stands for that of `optimizer`.
      q: Parametrization that is compared with it, or its name.
      specs: Tree of `ParamSpec`.
      optimizer: Optimizer by name, or a `Family`.

    Raises:
      TypeError: if a leaf of `specs` is no `ParamSpec`.
      ValueError: if a parametrization is for another family than `optimizer`'s.

    Example:
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 256, base=64), jaxmup.Axis("output", 512, base=64))
      >>> specs = {"w": jaxmup.ParamSpec(axes)}
      >>> print(equivalent(jaxmup.parametrization("mup", gauge="table9"), "mup", specs))
      one physics
      >>> print(equivalent("mup", "standard", specs))
      not one physics:
        w: learning rate × 4
        w: eps × 8

    References:
      Yang and Littwin, "Tensor Programs IVb", arXiv:2308.01814, Proposition 2.2.3.
    """
    require_leaves("specs", specs, ParamSpec, "Use `jaxmup.nnx.specs` or `jaxmup.linen.specs`.")
    family = family_of(optimizer)
    first, second = (_scalings(compared, specs, family, optimizer) for compared in (p, q))
    return Equivalence(differences(first, second))


def _scalings(
    compared: Parametrization | ParametrizationName,
    specs: Specs,
    family: Family,
    optimizer: OptimizerName | Family,
) -> dict[PathName, Scaling]:
    if not isinstance(compared, Parametrization):
        compared = parametrization(compared, optimizer)
    if compared.family != family:
        raise ValueError(
            f"Parametrizations must be for the family of the optimizer. Got {compared} and the "
            f"optimizer {optimizer!r} of the family {family.name!r}."
        )
    # A layer applies one of the two at most; which one is no matter here.
    free = jax.tree.map(lambda spec: dataclasses.replace(spec, applied=None), specs)
    return leaves_by_path(resolve(free, compared))


def differences(
    first: Mapping[PathName, Scaling], second: Mapping[PathName, Scaling]
) -> tuple[Difference, ...]:
    """Every quantity of a parameter in which two scalings are not the same physics."""
    found = []
    for path in first:
        one, other = _physics(first[path]), _physics(second[path])
        for quantity, value in one.items():
            if not math.isclose(value, other[quantity], rel_tol=_RELATIVE):
                found.append(Difference(path, quantity, other[quantity] / value))
    return tuple(found)


def _physics(scaling: Scaling) -> dict[str, float]:
    """The numbers that a scaling asks of the effective weight, which no gauge changes."""
    effective = reference(scaling)
    return {
        "initial scale": effective.init_gain,
        "learning rate": effective.lr,
        "eps": effective.eps,
        "weight decay": effective.weight_decay * effective.lr,
    }
