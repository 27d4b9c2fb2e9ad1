"""A model of one size under a parametrization: all that a training run needs of it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxmup._infer._corrected import corrected
from jaxmup._infer._infer import infer
from jaxmup._infer._rescale import rescale
from jaxmup._infer._rules import Rules
from jaxmup._model import Instance, Model, Parts
from jaxmup._parametrization import Parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import PathName, Scalings, Size, Specs, leaves_by_path, resolve


@dataclasses.dataclass(frozen=True)
class Parametrized:
    """A model of one size under a parametrization.

    Args:
      instance: The model.
      parametrization: The parametrization.
      specs: Specs of the parameters that train.
      draw: From a random key to the arrays of the model, with initial values as the
        parametrization asks for; may be compiled.
    """

    instance: Instance
    parametrization: Parametrization
    specs: Specs
    draw: Callable[[Any], Parts]

    @functools.cached_property
    def scalings(self) -> Scalings:
        """The numbers of each parameter, for the optimizer."""
        return resolve(self.specs, self.parametrization)

    @functools.cached_property
    def spec_of(self) -> dict[PathName, ParamSpec]:
        """The specs by name."""
        return leaves_by_path(self.specs)

    @functools.cached_property
    def scaling_of(self) -> dict[PathName, Scaling]:
        """The scalings by name."""
        return leaves_by_path(self.scalings)

    @property
    def shapes(self) -> dict[PathName, tuple[int, ...]]:
        """The shape of each parameter, by name."""
        return {name: spec.shape for name, spec in self.spec_of.items()}

    @property
    def num_parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(map(math.prod, self.shapes.values()))


def declared(instance: Instance, parametrization: Parametrization) -> Parametrized:
    """A model of jaxmup layers, which hold their specs and draw their own initial values.

    Raises:
      ValueError: naming the parameters, if some are of other layers.
    """
    return Parametrized(instance, parametrization, instance.declared(), instance.draw)


def inferred(
    model: Model,
    parametrization: Parametrization,
    *,
    base: Size,
    delta: Size,
    target: Size,
    rules: Rules | None = None,
    read: Model | None = None,
    gains: bool = True,
) -> Parametrized:
    """Any other model: its specs by `infer`, its initial values by `rescale`.

    Args:
      model: The model.
      parametrization: The parametrization.
      base: Size of the base model, as for `infer`.
      delta: Size beside it, as for `infer`.
      target: Size of the model to make.
      rules: Kinds of axes, as for `infer`.
      read: The same model as it is called where its program is read; `None` for `model`.
      gains: False if no parameter carries a factor that the forward pass lacks.

    Raises:
      TypeError, ValueError: as `infer`; as `rescale`, once it is drawn.
    """
    specs = infer(read or model, base=base, delta=delta, target=target, rules=rules)
    if not gains:
        specs = jax.tree.map(lambda spec: dataclasses.replace(spec, forward_gain=1.0), specs)
    instance = model.at(target)
    if any(spec.corrections for spec in leaves_by_path(specs).values()):
        call = instance.apply or _call_itself
        instance = dataclasses.replace(instance, apply=corrected(call, specs))

    def draw(key: Any) -> Parts:
        drawn = rescale(model, specs, parametrization, base=base, target=target, key=key)
        return instance.split(drawn, key)

    return Parametrized(instance, parametrization, specs, jax.jit(draw))


def _call_itself(model: Any, *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)
