"""Models of microsoft/mup: what their base shapes say of every parameter.

Its layers apply a multiplier in `MuReadout` alone; the rest is in its optimizers, which no
checkpoint holds. So it takes the base shapes, a `.bsh` file, to know what a run was.
"""

import dataclasses
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmup._spec import Role
from jaxmup._tree import listed
from jaxmup.bridge import _sources, _target
from jaxmup.bridge._convert import StateDict, from_torch, plan_of
from jaxmup.bridge._layouts import Shape
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._plan import Entry, Place, Plan

BaseShape = tuple[int | None, ...]
BaseShapes = Mapping[str, BaseShape] | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class MupParameter:
    """What microsoft/mup does with one parameter; every factor is relative to the base model.

    Args:
      shape: of the tensor.
      base_shape: the sizes of the axes that grow in the base model; `None` for those that don't.
      role: by which axes grow, as of `jaxmup.ParamSpec`.
      multiplier: on the effective weight, of a `MuReadout`; dimensionless.
      adam_lr: factor on the learning rate in `MuAdam` and `MuAdamW`; dimensionless.
      adam_weight_decay: factor on the weight decay there; dimensionless. Of `MuAdam`, whose decay
        is an L2 term, it is one on that.
      sgd_lr: factor on the learning rate in `MuSGD`; dimensionless.
      sgd_weight_decay: factor on the weight decay there; dimensionless.
    """

    shape: Shape
    base_shape: BaseShape
    role: Role
    multiplier: float
    adam_lr: float
    adam_weight_decay: float
    sgd_lr: float
    sgd_weight_decay: float


def read_base_shapes(path: str | os.PathLike[str]) -> dict[str, BaseShape]:
    r"""Reads a `.bsh` file, as `mup.save_base_shapes` writes it: the base shape of each tensor.

    It is YAML; no more of it is understood than such files have.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming file and line, if it holds anything else.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "model.bsh")
      >>> _ = path.write_text("# a comment\nfc.weight:\n- 64\n- null\nscale: []\n")
      >>> read_base_shapes(path)
      {'fc.weight': (64, None), 'scale': ()}
    """
    shapes: dict[str, list[int | None]] = {}
    scalars: set[str] = set()
    for number, line in _lines(path):
        key, size = _KEY.fullmatch(line), _SIZE.fullmatch(line)
        last = next(reversed(shapes), None)
        if key and (name := key["quoted"] or key["name"]) not in shapes:
            shapes[name] = []
            scalars |= {name} if key["scalar"] else set()
        elif size and last is not None and last not in scalars:
            shapes[last].append(None if size[1] == "null" else int(size[1]))
        else:
            raise ValueError(
                f"{path}, line {number}: a file of base shapes has each name once, and below it "
                f"the sizes, such as '- 64' or '- null'. Got {line!r}."
            )
    if empty := [name for name, sizes in shapes.items() if not sizes and name not in scalars]:
        raise ValueError(f"{path}: a base shape must have sizes, or be []. None have {empty}.")
    return {name: tuple(sizes) for name, sizes in shapes.items()}


_KEY = re.compile(r"(?:'(?P<quoted>[^']+)'|(?P<name>(?!\d+:)[\w.\-]+)):(?P<scalar> \[\])?")
_SIZE = re.compile(r" *- (null|[1-9]\d{0,17})")


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    try:
        text = Path(path).read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a file of base shapes, which is text. {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.isprintable():
            raise ValueError(f"{path}, line {number}: base shapes are plain text. Got {line!r}.")
        if line.strip() and not line.startswith("#"):
            yield number, line


def mup_parameters(
    state_dict_or_file: StateDict,
    base_shapes: BaseShapes,
    readouts: Collection[str],
    *,
    output_mult: float = 1.0,
) -> dict[str, MupParameter]:
    """What microsoft/mup does with each parameter of a model.

    Args:
      state_dict_or_file: see `jaxmup.bridge.from_torch`; only shapes are read.
      base_shapes: a `.bsh` file, or base shapes by name.
      readouts: names of the modules that are a `MuReadout`. A state dict doesn't say it: the weight
        of an embedding has the same axes.
      output_mult: of the readouts, which a state dict does not hold; dimensionless.

    Returns:
      By name of the tensor; what is no parameter, such as running averages, is left out.

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
    checkpoint = _sources.open_checkpoint(state_dict_or_file)
    shapes = {source.name: source.shape for source in checkpoint.sources}
    bases = _bases(base_shapes, shapes)
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
    state_dict_or_file: StateDict,
    base_shapes: BaseShapes,
    target: Any,
    pairs: Pairs | None = None,
    *,
    output_mult: float = 1.0,
    specs: Any = None,
    allow_nan: bool = False,
) -> Any:
    """A Flax model with the weights of a model of microsoft/mup, in the gauge of the Flax model.

    A linear layer from an axis that grows to one that doesn't is a `MuReadout`, as mup requires.

    Args:
      state_dict_or_file: see `from_torch`.
      base_shapes: a `.bsh` file, or base shapes by name.
      target: a model of jaxmup's layers with the same bases, in any gauge; see `from_torch`.
      pairs: see `from_torch`.
      output_mult: of the readouts, which a state dict does not hold; dimensionless.
      specs: for a tree, the `ParamSpec` of its parameters.
      allow_nan: whether a tensor may hold NaN.

    Raises:
      As `from_torch`; and `ValueError` naming tensor and leaf, if their axes have grown by other
        ratios.
    """
    checkpoint = _sources.open_checkpoint(state_dict_or_file)
    opened = _target.read(target, specs)
    made = plan_of(checkpoint, opened, pairs)
    shapes = {source.name: source.shape for source in checkpoint.sources}
    bases = _bases(base_shapes, shapes)
    readouts = _readouts(made, bases)
    found = mup_parameters(state_dict_or_file, bases, readouts, output_mult=output_mult)
    _require_ratios(made, found, _target.specs_by_path(target, specs))
    return from_torch(
        state_dict_or_file,
        target,
        pairs,
        specs=specs,
        multipliers={name: parameter.multiplier for name, parameter in found.items()},
        allow_nan=allow_nan,
    )


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _bases(base_shapes: BaseShapes, shapes: Mapping[str, Shape]) -> dict[str, BaseShape]:
    """The base shape of each parameter, checked against its shape."""
    where = ""
    if not isinstance(base_shapes, Mapping):
        where, base_shapes = f"{base_shapes}: ", read_base_shapes(base_shapes)
    bases = _without_module(base_shapes, shapes)
    names = [name for name in shapes if name.rpartition(".")[2] not in _BUFFERS]
    wrong = [
        *(f"{name} {shapes[name]}: no base shape" for name in names if name not in bases),
        *(f"{name}: no tensor" for name in bases if name not in shapes),
        *(
            f"{name} {shapes[name]}: base shape {bases[name]}"
            for name in names
            if name in bases and len(bases[name]) != len(shapes[name])
        ),
    ]
    if wrong:
        raise ValueError(f"{where}Base shapes must be those of the tensors:{listed(wrong)}")
    if many := [n for n in names if sum(size is not None for size in bases[n]) > 2]:
        raise ValueError(f"{where}mup knows at most two axes that grow. More have{listed(many)}")
    return {name: tuple(bases[name]) for name in names}


def _without_module(bases: Mapping[str, BaseShape], shapes: Mapping[str, Shape]) -> Any:
    """Base shapes under the names of a model that was wrapped for data parallelism, or was not."""
    prefix = "module."
    if all(name.startswith(prefix) for name in shapes) and bases.keys() != shapes.keys():
        return {prefix + name: base for name, base in bases.items()}
    if all(name.startswith(prefix) for name in bases) and bases.keys() != shapes.keys():
        return {name.removeprefix(prefix): base for name, base in bases.items()}
    return bases


def _parameter(
    name: str, shape: Shape, base: BaseShape, readouts: Collection[str], output_mult: float
) -> MupParameter:
    ratios = [size / b for size, b in zip(shape, base, strict=True) if b is not None]
    width = ratios[-1] if ratios else 1.0  # of the last axis that grows, a matrix's inputs
    module, _, local = name.rpartition(".")
    multiplier = output_mult / width if module in readouts and local == "weight" else 1.0
    if len(ratios) == 2:
        role: Role = "hidden"
        adam, sgd = 1 / width, _ratio(shape, base, 0) / _ratio(shape, base, 1)
    else:
        is_readout = module in readouts and local == "weight"
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
    made: Plan, found: Mapping[str, MupParameter], specs: Mapping[str, Any]
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
    """By how much the inputs and the outputs of a tensor have grown."""
    shape, base = parameter.shape, parameter.base_shape
    if len(shape) < 2:
        return 1.0, _ratio(shape, base, 0)
    first, second = _ratio(shape, base, 0), _ratio(shape, base, 1)
    outputs_first = entry.layout.key in ("linear", "conv")
    return (second, first) if outputs_first else (first, second)


def _leaf_growth(place: Place, specs: Mapping[str, Any]) -> tuple[float, float]:
    spec = specs[place.path]
    return spec.r_in, spec.r_out
