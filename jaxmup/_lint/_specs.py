"""Checks of specs: axes that grow but do not say so, and bases that are not the base model's."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args

from jaxmup._finding import Finding
from jaxmup._spec import Axis, ParamSpec

Kind = Literal["input", "output"]
Specs = Mapping[str, ParamSpec]
Shapes = Mapping[str, tuple[int, ...]]


def check_specs(specs: Specs, shapes: Shapes | None, base: Shapes | None) -> Iterator[Finding]:
    """All checks of specs.

    Args:
      specs: Spec of each parameter by name.
      shapes: Shapes of the parameters by name, if known.
      base: Shapes of the base model's parameters by name, if known. Without them, axes that were
        forgotten are told by their sizes.
    """
    if shapes is not None:
        yield from _shapes_of_parameters(specs, shapes)
    yield from _no_growth(specs)
    yield from _kinds_of_siblings(specs)
    if base is not None:
        yield from _bases_of_model(specs, base)
    else:
        yield from _sizes_that_grow_elsewhere(specs)
        yield from _two_bases_of_one_size(specs)


def _shapes_of_parameters(specs: Specs, shapes: Shapes) -> Iterator[Finding]:
    if set(specs) != set(shapes):
        yield Finding(
            "shape-mismatch",
            "Some paths have a spec but no parameter, or a parameter but no spec.",
            tuple(sorted(set(specs) ^ set(shapes))),
            "Specs and scalings are matched to parameters by path.",
            "Make the specs from the model that is trained; pass `nnx.state(model, nnx.Param)`.",
        )
    for path, spec in specs.items():
        if path in shapes and shapes[path] != spec.shape:
            yield Finding(
                "shape-mismatch",
                f"The parameter has shape {shapes[path]}, its spec {spec.shape}.",
                (path,),
                "The spec is of another model, so its ratios and numbers are too.",
                "Make the specs from the model that is trained.",
            )


def _no_growth(specs: Specs) -> Iterator[Finding]:
    axes = [axis for spec in specs.values() for axis in spec.axes if axis.kind != "batch"]
    if any(axis.ratio != 1 for axis in axes) or any(
        spec.depth_ratio != 1 for spec in specs.values()
    ):
        return
    if any(axis.grows for axis in axes):
        yield Finding(
            "no-growth",
            "Every axis that grows has the size that it has in the base model.",
            (),
            "All factors are 1: at another width than the base's, this is standard "
            "parametrization. Right for the base model itself alone.",
            "Give the base sizes of the small model, on which the learning rate is tuned.",
        )
    else:
        yield Finding(
            "no-growth",
            "No axis grows: none has a base.",
            (),
            "This is standard parametrization; no learning rate will transfer.",
            "Give jaxmup layers the base sizes of the axes that grow, such as `base_in_features`, "
            "or use `jaxmup.infer`.",
        )


class _Side(NamedTuple):
    """The inputs of a parameter, or its outputs: all axes of that kind together.

    They are compared as a whole, since a head size that stays is often as large as the number of
    heads that grows.
    """

    path: str
    kind: Kind
    size: int
    base: int
    grows: bool

    @classmethod
    def of(cls, path: str, spec: ParamSpec, kind: Kind) -> "_Side | None":
        axes = [axis for axis in spec.axes if axis.kind == kind]
        if not axes:
            return None
        size, base = (
            math.prod(sizes) for sizes in zip(*((a.size, a.base_size) for a in axes), strict=True)
        )
        return cls(path, kind, size, base, any(axis.grows for axis in axes))


def _sides(specs: Specs) -> list[_Side]:
    sides = (_Side.of(path, s, kind) for path, s in specs.items() for kind in get_args(Kind))
    return [side for side in sides if side is not None]


def _kinds_of_siblings(specs: Specs) -> Iterator[Finding]:
    """Kernels whose inputs have the size of their bias: in Flax's layers their outputs have."""
    sizes = {(side.path, side.kind): side.size for side in _sides(specs)}
    for path in specs:
        bias = f"{path.removesuffix('kernel')}bias"
        inputs, outputs = sizes.get((path, "input")), sizes.get((path, "output"))
        of_bias = sizes.get((bias, "output"))
        if path.endswith("kernel") and of_bias is not None and of_bias == inputs != outputs:
            yield Finding(
                "axis-kinds",
                f"It has {inputs} inputs and {outputs} outputs, but its layer has {of_bias} "
                "outputs, by its bias.",
                (path,),
                "Input and output axes are exchanged, so it has the rule of another role.",
                "Exchange their kinds: the kernels of Flax are (inputs, outputs).",
            )


def _bases_of_model(specs: Specs, base: Shapes) -> Iterator[Finding]:
    for path, spec in specs.items():
        if path not in base or len(base[path]) != len(spec.axes):
            yield Finding(
                "base-mismatch",
                f"The base model has no such parameter of {len(spec.axes)} axes.",
                (path,),
                "Ratios are only defined between models of one structure.",
                "Build base and target with the same code, at two widths.",
            )
            continue
        for i, (axis, size) in enumerate(zip(spec.axes, base[path], strict=True)):
            if axis.base_size != size and axis.kind != "batch":
                yield _wrong_base(path, i, axis, size)


def _wrong_base(path: str, position: int, axis: Axis, size: int) -> Finding:
    if axis.grows:
        return Finding(
            "base-mismatch",
            f"Its {axis.kind} axis {position} has {size} elements in the base model, not "
            f"{axis.base} as its spec says.",
            (path,),
            f"Its ratio is {axis.size / size:g}, not {axis.ratio:g}, so all its factors are wrong.",
            f"Give it the base {size}.",
        )
    return Finding(
        "undeclared-axis",
        f"Its {axis.kind} axis {position} grows from {size} to {axis.size} but is declared as one "
        "that does not.",
        (path,),
        "Its initial scale and learning rate do not follow that axis.",
        f"Give it the base {size}; with `jaxmup.infer`, make it differ between base and delta.",
    )


def _sizes_that_grow_elsewhere(specs: Specs) -> Iterator[Finding]:
    """Parameters whose inputs (or outputs) do not grow, though as many do in others."""
    sides = _sides(specs)
    growing = {side.size: side.path for side in sides if side.size != side.base}
    still: dict[str, list[_Side]] = {}
    for side in sides:
        if not side.grows and side.size in growing:
            still.setdefault(side.path, []).append(side)
    for path, found in still.items():
        role = specs[path].role
        sizes = " and ".join(f"{side.size} {side.kind}s" for side in found)
        others = ", ".join(dict.fromkeys(growing[side.size] for side in found))
        readout = role == "fixed" and [side.kind for side in found] == ["input"]
        yield Finding(
            "readout" if readout else "undeclared-axis",
            f"Its {sizes} do not grow, though as many do in {others}.",
            (path,),
            "It is a readout without its rule: what it returns grows with the width."
            if readout
            else f"It is treated as {role!r}, so initial scale and learning rate do not follow "
            "that axis.",
            "Give the axis its base size. If it is as large by coincidence, pass the parameters of "
            "the base model as `base`, which decides it, or check at another width.",
        )


def _two_bases_of_one_size(specs: Specs) -> Iterator[Finding]:
    bases: dict[int, dict[int, list[str]]] = {}
    for side in _sides(specs):
        if side.grows:
            bases.setdefault(side.size, {}).setdefault(side.base, []).append(side.path)
    for size, by_base in bases.items():
        usual = max(by_base, key=lambda base: len(by_base[base]))
        for base, paths in by_base.items():
            if base != usual:
                yield Finding(
                    "base-mismatch",
                    f"A width of {size} has the base {base} here, {usual} elsewhere.",
                    tuple(dict.fromkeys(paths)),
                    f"Its ratio is {size / base:g} here and {size / usual:g} elsewhere; if it is "
                    "one width, one of them is wrong.",
                    "Give both the same base. If they are two widths that happen to meet, pass the "
                    "parameters of the base model as `base`, which decides it.",
                )
