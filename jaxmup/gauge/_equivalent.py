"""Whether two parametrizations are one physics."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxmup._families import FAMILIES, Family, OptimizerName, family_of
from jaxmup._parametrization import Parametrization, ParametrizationName, parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import leaves_by_path, listed, require_leaves, resolve
from jaxmup.gauge._scalings import reference

_RELATIVE = 1e-9  # factors are products of a few powers; what differs by a rule differs by percents


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One parameter in which two parametrizations are not the same physics.

    Args:
      path: name of the parameter.
      quantity: what differs, of the effective weight: `initial scale`, `learning rate`, `eps` (in
        units of its gradient) or `weight decay` (the decay per step).
      factor: by how much the second is larger than the first; dimensionless.
    """

    path: str
    quantity: str
    factor: float

    def __str__(self) -> str:
        return f"{self.path}: {self.quantity} × {self.factor:.6g}"


@dataclasses.dataclass(frozen=True, slots=True)
class Equivalence:
    """Whether two parametrizations train the same effective weights; true if so.

    Args:
      differences: every parameter and quantity in which they do not agree.
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
    specs: Any,
    optimizer: OptimizerName | Family = "adam",
) -> Equivalence:
    """Says whether `p` and `q` are one physics for these parameters, and if not, where.

    Compared are what the two ask of the effective weight: its standard deviation at
    initialization, its learning rate, the eps of the optimizer in units of its gradient, and the
    decay per step.

    Args:
      p: a parametrization, or its name (then for `optimizer`).
      q: another.
      specs: a tree of `ParamSpec`.
      optimizer: the optimizer, by name or as a `Family`.

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
    first, second = (_scalings(rule, specs, family, optimizer) for rule in (p, q))
    return Equivalence(differences(first, second, None if family.name in FAMILIES else family))


def _scalings(rule: Any, specs: Any, family: Family, optimizer: Any) -> dict[str, Scaling]:
    if not isinstance(rule, Parametrization):
        rule = parametrization(rule, optimizer)
    if rule.family != family:
        raise ValueError(
            f"Parametrizations must be for the family of the optimizer. Got {rule} and the "
            f"optimizer {optimizer!r} of the family {family.name!r}."
        )
    free = jax.tree.map(lambda spec: dataclasses.replace(spec, applied=None), specs)
    return leaves_by_path(resolve(free, rule))


def differences(
    first: Mapping[str, Scaling], second: Mapping[str, Scaling], family: Family | None
) -> tuple[Difference, ...]:
    """Every quantity of a parameter in which two scalings are not the same physics."""
    found = []
    for path in first:
        one, other = _physics(first[path], family), _physics(second[path], family)
        for quantity, value in one.items():
            if not math.isclose(value, other[quantity], rel_tol=_RELATIVE):
                found.append(Difference(path, quantity, other[quantity] / value))
    return tuple(found)


def _physics(scaling: Scaling, family: Family | None) -> dict[str, float]:
    """What a scaling asks of the effective weight, whatever the gauge."""
    effective = reference(scaling, family)
    return {
        "initial scale": effective.init_gain,
        "learning rate": effective.lr,
        "eps": effective.eps,
        "weight decay": effective.weight_decay * effective.lr,
    }
