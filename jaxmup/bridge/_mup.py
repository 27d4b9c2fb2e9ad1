"""Models of microsoft/mup: every parameter by its base shapes.

Its layers apply a multiplier in `MuReadout` alone; the rest is in its optimizers, which no
checkpoint holds. So it takes the base shapes, a `.bsh` file, to know what a run was.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import TypeVar

from flax import nnx

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._spec import ParamSpec, Role
from jaxmup._tree import Specs, Tree
from jaxmup.bridge._base_shapes import BaseShape, BaseShapes, base_shapes_of
from jaxmup.bridge._convert import from_torch, plan_of
from jaxmup.bridge._flax_model import open_model
from jaxmup.bridge._layouts import Shape
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._plan import Entry, Place, Plan
from jaxmup.bridge._sources import StateDictOrFile, open_checkpoint

M = TypeVar("M", bound=nnx.Module | Tree)


@dataclasses.dataclass(frozen=True)
class MupParameter:
    """The way of microsoft/mup with one parameter; every factor is relative to the base model.

    Args:
      shape: Shape of the tensor.
      base_shape: Sizes in the base model of the axes that grow; `None` for those that don't.
      role: Role by the axes that grow, as of `jaxmup.ParamSpec`.
      multiplier: Multiplier on the effective weight, of a `MuReadout`; dimensionless.
      adam_lr: Factor on the learning rate in `MuAdam` and `MuAdamW`; dimensionless.
      adam_weight_decay: Factor on the weight decay there; dimensionless. In `MuAdam`, whose decay
        is an L2 term, it is one on that.
      sgd_lr: Factor on the learning rate in `MuSGD`; dimensionless.
      sgd_weight_decay: Factor on the weight decay there; dimensionless.
    """

    shape: Shape
    base_shape: BaseShape
    role: Role
    multiplier: float
    adam_lr: float
    adam_weight_decay: float
    sgd_lr: float
    sgd_weight_decay: float


def mup_parameters(
    state_dict_or_file: StateDictOrFile,
    base_shapes: BaseShapes,
    readouts: Collection[str],
    *,
    output_mult: float = 1.0,
) -> dict[str, MupParameter]:
    """The way of microsoft/mup with each parameter of a model.

    Args:
      state_dict_or_file: State dict, or the path of a file of one, of which only shapes are read.
      base_shapes: Path of a `.bsh` file, or base shapes by name.
      readouts: Names of the modules that are a `MuReadout`. A state dict doesn't say it: the weight
        of an embedding has the same axes.
      output_mult: Factor on the output of the readouts, which a state dict does not hold;
        dimensionless.

    Returns:
      The `MupParameter` of each tensor by name; what is no parameter, such as running averages, is
      left out.

    Raises:
      ValueError: if base shapes are missing, or of other ranks, or of more than two axes that grow;
        or if there is no such readout.

    Example:
      >>> import numpy as np
      >>> state = {"fc.weight": np.ones((256, 256)), "out.weight": np.ones((10, 256))}
      >>> base = {"fc.weight": (64, 64), "out.weight": (None, 64)}
      >>> found = mup_parameters(state, base, ["out"])
      >>> found["fc.weight"].role, found["fc.weight"].adam_lr, found["out.weight"].multiplier
      ('hidden', 0.25, 0.25)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 8; microsoft/mup 1.0.0.
    """
    _check.number("output_mult", output_mult, above=0)
    if isinstance(readouts, str):
        raise TypeError(
            f"`readouts` must be a list of names of modules. Got {readouts!r}. Use [{readouts!r}]."
        )
    checkpoint = open_checkpoint(state_dict_or_file)
    shapes = {source.name: source.shape for source in checkpoint.sources}
    bases = base_shapes_of(base_shapes, shapes)
    if unknown := [name for name in readouts if f"{name}.weight" not in bases]:
        raise ValueError(
            f"`readouts` must be modules with a weight. Got {unknown}. The parameters are"
            f"{listed(bases)}"
        )
    return {
        name: _parameter(name, shapes[name], base, readouts, output_mult)
        for name, base in bases.items()
    }


def from_mup(
    state_dict_or_file: StateDictOrFile,
    base_shapes: BaseShapes,
    model: M,
    pairs: Pairs | None = None,
    *,
    output_mult: float = 1.0,
    specs: Specs | None = None,
    allow_nan: bool = False,
) -> M:
    """A Flax model with the weights of a model of microsoft/mup, in the gauge of the Flax model.

    A linear layer from an axis that grows to one that doesn't is a `MuReadout`, as mup requires.

    Args:
      state_dict_or_file: State dict, or the path of a file of one; see `from_torch`.
      base_shapes: Path of a `.bsh` file, or base shapes by name.
      model: Model of jaxmup's layers with the same bases, in any gauge; see `from_torch`.
      pairs: Paths of Flax for names that don't say it themselves; see `from_torch`.
      output_mult: Factor on the output of the readouts, which a state dict does not hold;
        dimensionless.
      specs: For a tree, the `ParamSpec` of its parameters.
      allow_nan: Whether a tensor may hold NaN.

    Raises:
      As `from_torch`; and `ValueError` naming tensor and leaf, if their axes have grown by other
        ratios.
    """
    checkpoint = open_checkpoint(state_dict_or_file)
    opened = open_model(model, specs)
    made = plan_of(checkpoint, opened, pairs)
    shapes = {source.name: source.shape for source in checkpoint.sources}
    bases = base_shapes_of(base_shapes, shapes)
    readouts = _readouts(made, bases)
    found = mup_parameters(state_dict_or_file, bases, readouts, output_mult=output_mult)
    _require_ratios(made, found, opened.specs)
    return from_torch(
        state_dict_or_file,
        model,
        pairs,
        specs=specs,
        multipliers={name: parameter.multiplier for name, parameter in found.items()},
        allow_nan=allow_nan,
    )


def _parameter(
    name: str, shape: Shape, base: BaseShape, readouts: Collection[str], output_mult: float
) -> MupParameter:
    ratios = [size / b for size, b in zip(shape, base, strict=True) if b is not None]
    width = ratios[-1] if ratios else 1.0  # the growth of a matrix's inputs, its last axis
    module, _, local = name.rpartition(".")
    is_readout = module in readouts and local == "weight"
    multiplier = output_mult / width if is_readout else 1.0
    if len(ratios) == 2:
        role: Role = "hidden"
        # MuAdam divides by the growth of inputs, MuSGD multiplies by that of outputs over inputs.
        adam, sgd = 1 / width, _ratio(shape, base, 0) / _ratio(shape, base, 1)
    else:
        # Vector-like, in mup's word: its optimizers do the same to a readout as to an embedding.
        role = "output" if is_readout else "input" if ratios else "fixed"
        adam, sgd = 1.0, width
    return MupParameter(shape, base, role, multiplier, adam, 1 / adam, sgd, 1 / sgd)


def _ratio(shape: Shape, base: BaseShape, axis: int) -> float:
    size = base[axis] if axis < len(base) else None
    return 1.0 if size is None else shape[axis] / size


def _readouts(made: Plan, bases: Mapping[str, BaseShape]) -> list[str]:
    """The modules that are linear from an axis that grows to one that doesn't."""
    return [
        source.name.rpartition(".")[0]
        for entry in made.entries
        for source in entry.sources
        if _is_linear(entry)
        and source.name in bases
        and bases[source.name][0] is None
        and bases[source.name][1] is not None
    ]


def _is_linear(entry: Entry) -> bool:
    return entry.layout.key == "linear" and len(entry.sources[0].shape) == 2


def _require_ratios(
    made: Plan, found: Mapping[str, MupParameter], specs: Mapping[str, ParamSpec]
) -> None:
    """Raises a `ValueError` unless the axes of leaves have grown as those of the tensors."""
    wrong = [
        f"{source.name}: {ours} of inputs and outputs, {place}: {theirs}"
        for entry in made.entries
        for source in entry.sources
        for place in entry.targets
        if source.name in found and place.path in specs
        for ours in [_growth(entry, found[source.name])]
        for theirs in [_leaf_growth(place, specs)]
        if not all(map(math.isclose, ours, theirs))
    ]
    if wrong:
        raise ValueError(
            f"Tensors and leaves must have grown by the same ratios.{listed(wrong)}\n"
            "Build the model with the bases of the base shapes."
        )


def _growth(entry: Entry, parameter: MupParameter) -> tuple[float, float]:
    """Growth of the inputs and of the outputs of a tensor over the base model."""
    shape, base = parameter.shape, parameter.base_shape
    if len(shape) < 2:
        return 1.0, _ratio(shape, base, 0)
    first, second = _ratio(shape, base, 0), _ratio(shape, base, 1)
    outputs_first = entry.layout.key in ("linear", "conv")
    return (second, first) if outputs_first else (first, second)


def _leaf_growth(place: Place, specs: Mapping[str, ParamSpec]) -> tuple[float, float]:
    spec = specs[place.path]
    return spec.r_in, spec.r_out
