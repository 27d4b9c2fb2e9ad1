"""Layers of PyTorch with constant multipliers: `weight_unscaled`, and c = 0.

Their multipliers are arguments of the constructor, which no state dict holds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
from flax import nnx

from jaxmup import _check, _scaling
from jaxmup._check import listed
from jaxmup._parametrization import Parametrization, parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import Axis, ParamSpec
from jaxmup._tree import Specs, Tree, resolve
from jaxmup.bridge._convert import plan_of, to_torch
from jaxmup.bridge._flax_model import open_model
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._sources import StateDictOrFile, open_checkpoint

AbcdRole: TypeAlias = Literal["input", "hidden", "output"]
AbcdOptimizer: TypeAlias = Literal["sgd", "adam", "adamw", "amsgrad"]


@dataclasses.dataclass(frozen=True)
class AbcdLayer:
    """Arguments of the constructor of a c = 0 layer that say what it multiplies by.

    Args:
      role: Axes of the weight that grow: `"input"` for its outputs, `"hidden"` for both, `"output"`
        for its inputs.
      optimizer: Optimizer whose table holds.
      width: Number of features that counts: of outputs for `"input"`, else of inputs.
      base_width: That number in the base model.
      bias_width: Number of outputs; `None` for `width`. The bias of an output layer doesn't grow.
      lr_scale: Factor α on the learning rate, whose root is in the multiplier; dimensionless.
    """

    role: AbcdRole
    optimizer: AbcdOptimizer
    width: int
    base_width: int
    bias_width: int | None = None
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        _check.one_of("role", self.role, get_args(AbcdRole))
        _check.one_of("optimizer", self.optimizer, get_args(AbcdOptimizer))
        _check.size("width", self.width)
        _check.size("base_width", self.base_width)
        if self.bias_width is not None:
            _check.size("bias_width", self.bias_width)
        _check.number("lr_scale", self.lr_scale, above=0)

    def multipliers(self) -> tuple[float, float]:
        """The multipliers of the weight and of the bias.

        Example:
          >>> AbcdLayer("hidden", "adam", width=256, base_width=64).multipliers()
          (0.25, 1.0)
        """
        outputs, inputs = (Axis(kind, self.width, self.base_width) for kind in ("output", "input"))
        axes = {"input": (outputs,), "hidden": (outputs, inputs), "output": (inputs,)}
        features = self.width if self.bias_width is None else self.bias_width
        size = self.base_width if self.role == "output" else features
        bias = Axis("output", size, self.base_width)
        return self._multiplier(axes[self.role]), self._multiplier((bias,))

    def _multiplier(self, axes: tuple[Axis, ...]) -> float:
        cellarium = parametrization("cellarium", self.optimizer)
        return _scaling.what_is_applied(
            ParamSpec(axes, lr_scale=self.lr_scale), cellarium
        ).multiplier


def abcd_multipliers(layers: Mapping[str, AbcdLayer]) -> dict[str, float]:
    """The multipliers of the tensors of c = 0 layers, for `from_torch` and `to_torch`.

    Args:
      layers: Arguments of each layer, by the name of the module.

    Example:
      >>> abcd_multipliers({"fc": AbcdLayer("output", "sgd", width=256, base_width=64)})
      {'fc.weight_unscaled': 0.5, 'fc.bias_unscaled': 1.0}

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 9; Yang and Littwin, "Tensor
      Programs IVb", arXiv:2308.01814, Definition 2.5.1.
    """
    found: dict[str, float] = {}
    for name, layer in layers.items():
        if not isinstance(layer, AbcdLayer):
            raise TypeError(
                f"`layers` must map the names of modules to `jaxmup.bridge.AbcdLayer`. Got {name!r}"
                f": {layer!r}."
            )
        weight, bias = layer.multipliers()
        prefix = f"{name}." if name else ""
        found |= {f"{prefix}weight_unscaled": weight, f"{prefix}bias_unscaled": bias}
    return found


def to_abcd(
    model: nnx.Module | Tree,
    like: StateDictOrFile,
    parametrization: Parametrization,
    pairs: Pairs | None = None,
    *,
    specs: Specs | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """The state dict of c = 0 layers, and for each tensor the arguments of its constructor.

    The layers take any numbers, so the weights stay in the gauge of the model.

    Args:
      model: Model of jaxmup's layers.
      like: State dict of the layers, or the path of a file of one, whose names and shapes the
        result has.
      parametrization: Parametrization of the model.
      pairs: Paths of Flax for names that don't say it themselves; see `from_torch`.
      specs: For a tree, the `ParamSpec` of its parameters.

    Returns:
      The tensors, and by the name of each `init_std`, `multiplier`, `grad` and `lr`; see
      `torch_ref.ParameterScale`. An `init_std` that no spec knows is left out.

    Raises:
      As `to_torch`.
    """
    checkpoint, opened = open_checkpoint(like), open_model(model, specs)
    made = plan_of(checkpoint, opened, pairs)
    leaf_of = {
        source.name: entry.targets[0].path
        for entry in made.entries
        for source in entry.sources
        if entry.targets
    }
    scalings: dict[str, Scaling] = resolve(dict(opened.specs), parametrization)
    if unknown := [f"{name}: {path}" for name, path in leaf_of.items() if path not in scalings]:
        raise ValueError(
            f"Every leaf must be of a layer of jaxmup. These are not:{listed(unknown)}"
        )
    numbers = {name: _arguments(scalings[path]) for name, path in leaf_of.items()}
    multipliers = {name: own["multiplier"] for name, own in numbers.items()}
    state = to_torch(model, like, pairs, specs=specs, multipliers=multipliers)
    return state, numbers


def _arguments(scaling: Scaling) -> dict[str, float]:
    """The arguments of the constructor for one parameter."""
    numbers = {
        "init_std": scaling.init_std,
        "multiplier": scaling.multiplier,
        "grad": scaling.grad,
        "lr": scaling.lr,
    }
    return {name: number for name, number in numbers.items() if number is not None}
