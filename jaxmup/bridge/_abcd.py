"""Layers of PyTorch with constant multipliers: `weight_unscaled`, and c = 0.

Their multipliers are arguments of the constructor, which no state dict holds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxmup import _scaling
from jaxmup._rules import Parametrization, parametrization
from jaxmup._spec import Axis, ParamSpec
from jaxmup._tree import leaves_by_path, listed, resolve
from jaxmup.bridge import _sources, _target
from jaxmup.bridge._convert import StateDict, plan_of, to_torch
from jaxmup.bridge._layouts import Array
from jaxmup.bridge._pairs import Pairs


@dataclasses.dataclass(frozen=True)
class AbcdLayer:
    """The arguments of the constructor of a c = 0 layer that say what it multiplies by.

    Args:
      layer: which axes grow: `"input"` the outputs, `"hidden"` both, `"output"` the inputs.
      optimizer: which table: `"sgd"`, or `"adam"`, `"adamw"`, `"amsgrad"`.
      width: the number of features that counts: of the outputs for `"input"`, else of the inputs.
      base_width: the same at base width.
      bias_width: number of outputs; `None` for `width`. The bias of an output layer doesn't grow.
      lr_scale: α, whose root is in the multiplier; dimensionless.
    """

    layer: Literal["input", "hidden", "output"]
    optimizer: Literal["sgd", "adam", "adamw", "amsgrad"]
    width: int
    base_width: int
    bias_width: int | None = None
    lr_scale: float = 1.0

    def multipliers(self) -> tuple[float, float]:
        """The multipliers of the weight and of the bias.

        Example:
          >>> AbcdLayer("hidden", "adam", width=256, base_width=64).multipliers()
          (0.25, 1.0)
        """
        cellarium = parametrization("cellarium", self.optimizer)
        grown = (
            Axis("output", self.width, self.base_width),
            Axis("input", self.width, self.base_width),
        )
        axes = {"input": grown[:1], "hidden": grown, "output": grown[1:]}[self.layer]
        outputs = self.width if self.bias_width is None else self.bias_width
        size = self.base_width if self.layer == "output" else outputs
        return tuple(  # type: ignore[return-value]
            _scaling.what_is_applied(ParamSpec(own, lr_scale=self.lr_scale), cellarium).multiplier
            for own in (axes, (Axis("output", size, self.base_width),))
        )


def abcd_multipliers(layers: Mapping[str, AbcdLayer]) -> dict[str, float]:
    """The multipliers of the tensors of c = 0 layers, for `from_torch` and `to_torch`.

    Args:
      layers: the arguments of each layer, by the name of the module.

    Example:
      >>> abcd_multipliers({"fc": AbcdLayer("output", "sgd", width=256, base_width=64)})
      {'fc.weight_unscaled': 0.5, 'fc.bias_unscaled': 1.0}

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 9; Yang and Littwin, "Tensor
      Programs IVb", arXiv:2308.01814, Definition 2.5.1.
    """
    found: dict[str, float] = {}
    for name, layer in layers.items():
        weight, bias = layer.multipliers()
        prefix = f"{name}." if name else ""
        found |= {f"{prefix}weight_unscaled": weight, f"{prefix}bias_unscaled": bias}
    return found


def to_abcd(
    model: Any,
    like: StateDict,
    parametrization: Parametrization,
    pairs: Pairs | None = None,
    *,
    specs: Any = None,
) -> tuple[dict[str, Array], dict[str, dict[str, float]]]:
    """The state dict of c = 0 layers, and for each tensor the arguments of its constructor.

    The layers take any numbers, so the weights stay in the gauge of the model.

    Args:
      model: a model of jaxmup's layers.
      like: a state dict of the layers, whose names and shapes the result has.
      parametrization: that of the model.
      pairs: see `from_torch`.
      specs: for a tree, the `ParamSpec` of its parameters.

    Returns:
      The tensors, and by the name of each `init_std`, `multiplier`, `grad` and `lr`; see
      `torch_ref.ParameterScale`. An `init_std` that no spec knows is left out.

    Raises:
      As `to_torch`.
    """
    checkpoint, opened = _sources.open_checkpoint(like), _target.read(model, specs)
    made = plan_of(checkpoint, opened, pairs)
    by_path = _target.specs_by_path(model, specs)
    scalings = leaves_by_path(resolve(by_path, parametrization))
    leaf_of = {
        source.name: entry.targets[0].path
        for entry in made.entries
        for source in entry.sources
        if entry.targets
    }
    if unknown := [f"{name}: {path}" for name, path in leaf_of.items() if path not in scalings]:
        raise ValueError(
            f"Every leaf must be of a layer of jaxmup. These are not:{listed(unknown)}"
        )
    numbers = {
        name: {
            field: value
            for field in ("init_std", "multiplier", "grad", "lr")
            if (value := getattr(scalings[path], field)) is not None
        }
        for name, path in leaf_of.items()
    }
    multipliers = {name: own["multiplier"] for name, own in numbers.items()}
    state = to_torch(model, like, pairs, specs=specs, multipliers=multipliers)
    return state, numbers
