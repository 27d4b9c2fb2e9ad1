"""One parameter at three sizes: which of its axes grow, and what is wrong with that."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from jaxmup import _check
from jaxmup._finding import Finding
from jaxmup._infer._affine import affine
from jaxmup._infer._findings import rule_contradicted
from jaxmup._infer._leaf import Leaf
from jaxmup._infer._reading import Reading
from jaxmup._infer._rules import KINDS
from jaxmup._infer._views import Use
from jaxmup._model import Instance
from jaxmup._spec import Applied, Axis, AxisKind, ParamSpec
from jaxmup._tree import PathName, Size, listed

_PLAIN = Applied(multiplier=1.0, init_gain=None)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A parameter of the target and the shapes of its counterparts.

    Args:
      leaf: Parameter in the target.
      base: Shape of the parameter in the base model.
      delta: Shape of the parameter in the model beside the base model.
    """

    leaf: Leaf
    base: tuple[int, ...]
    delta: tuple[int, ...]

    def __str__(self) -> str:
        return f"base {self.base}, delta {self.delta}, target {self.leaf.shape}"

    def axes(self) -> Iterator[tuple[AxisKind, int, int, int]]:
        """Kind and the sizes at base, delta and target, of each axis; they must be known."""
        assert self.leaf.kinds is not None
        return zip(self.leaf.kinds, self.base, self.delta, self.leaf.shape, strict=True)

    def with_read(self, read: Reading) -> "Sizes":
        """This parameter with what the program says of it."""
        return dataclasses.replace(self, leaf=self.leaf.with_read(read))

    def with_fixed_axes(self) -> "Sizes":
        """This parameter, with batch axes if it is the same at all sizes and nothing is known."""
        shape = self.leaf.shape
        if self.leaf.kinds is not None or not shape == self.base == self.delta:
            return self
        kinds: tuple[AxisKind, ...] = ("batch",) * len(shape)
        return dataclasses.replace(self, leaf=dataclasses.replace(self.leaf, known=kinds))

    def spec(self) -> ParamSpec:
        """The spec of the parameter, whose axes must be known."""
        leaf = self.leaf
        read = {"corrections": leaf.corrections, "findings": leaf.findings}
        if leaf.spec is not None:
            return dataclasses.replace(leaf.spec, **read)
        axes = tuple(
            Axis(kind, size, base=base if base != delta else None)
            for kind, base, delta, size in self.axes()
        )
        carried = {"forward_gain": leaf.gain, "reason": leaf.reason}
        return ParamSpec(axes, applied=_PLAIN, **carried, **read)


def require_growth(parameters: Mapping[str, Sizes]) -> None:
    """Raises a `ValueError` unless axes differ from base to delta, all in one direction."""
    grown = _those(parameters, lambda sizes: _exceeds(sizes.delta, sizes.base))
    shrunk = _those(parameters, lambda sizes: _exceeds(sizes.base, sizes.delta))
    if not grown and not shrunk:
        raise ValueError(
            "`delta` must differ from `base` in every axis that belongs to the width. All shapes "
            "are equal, so nothing would grow: that is the standard parametrization. Give `delta` "
            "another width."
        )
    if grown and shrunk:
        raise ValueError(
            "From `base` to `delta` all axes that differ must grow, or all shrink. Some grow:"
            f"{_described(grown)}\nand some shrink:{_described(shrunk)}\n"
            "Was one size of `delta` forgotten, such as the head size where only the heads grow?"
        )


def require_fixed_sizes(parameters: Mapping[str, Sizes]) -> None:
    """Raises a `ValueError` if the model sums over a fixed axis that differs at the target.

    The size of a vocabulary may differ, but whatever one layer puts out and the next one sums over
    is part of the width. That is how a size that was forgotten in `delta` shows.
    """
    forgotten = _those(parameters, _sums_over_other_size)
    if forgotten:
        raise ValueError(
            "An axis that is summed over must grow from `base` to `delta` if it is another one "
            f"at `target`. These do not:{_described(forgotten)}\n"
            "Was a size forgotten in `delta`, such as that of the feed-forward layers? If it is no "
            "part of the width, give all three models the same."
        )


def require_given(parameters: Mapping[str, Sizes], model: Instance) -> None:
    """Raises a `ValueError` naming what grows on unknown axes in a model without inputs."""
    unknown = _unknown(parameters)
    if unknown:
        name, sizes = next(iter(unknown.items()))
        also, such = "", 'inputs=jax.ShapeDtypeStruct(shape, "int32")'
        if model.kind == "tree" and model.apply is None:
            also, such = " and `apply`, how it is called", f"{such}, apply=lambda model, x: ..."
        rule = f'rules={{"{name}": ({("..., " * len(sizes.base)).strip()})}}'
        raise ValueError(
            f"Give `inputs`, what the model is called with{also}: its program then says what every "
            f"axis does. Such as `{such}`. Without, the axes of {len(unknown)} parameters that "
            f"grow are unknown:{_described(unknown)}\n"
            f"If the program cannot be traced, give rules, as `{rule}` with one of "
            f"{', '.join(map(repr, KINDS))} for each axis, or these words as axis names, by "
            "`mup_axes` of an `nnx.Param` or `nn.with_partitioning` in Linen."
        )


def require_read(parameters: Mapping[str, Sizes], model: Instance) -> None:
    """Raises a `ValueError` naming what grows on axes of which the program says nothing."""
    unknown = _unknown(parameters)
    if unknown:
        name = next(iter(unknown))
        raise ValueError(
            "What the model returns must depend on each parameter that grows, in a way that tells "
            f"what its axes do. {model.called_at} returns nothing that does so for"
            f"{_described(unknown)}\nReturn what depends on them, leave them out, as by "
            f'`wrt=lambda name, _: name != "{name}"`, or give a rule for them.'
        )


def warn_of_offsets(parameters: Mapping[str, Sizes], sizes: Sequence[Size]) -> None:
    """Warns of axes that grow by a line with an offset in a size of the model.

    Args:
      parameters: Parameters at the three sizes.
      sizes: Size of each of the three models.
    """
    wrong = []
    for name, at in parameters.items():
        for i, axis in enumerate(zip(at.base, at.delta, at.leaf.shape, strict=True)):
            line = affine(axis, sizes)
            if line is not None:
                wrong.append(f"{name}, axis {i}, {at}: {line}")
    if wrong:
        _check.warn(_OFFSET.format(listed(wrong)))


def contradictions(
    name: PathName, sizes: Sizes, shown: Sequence[AxisKind | None], uses: Sequence[Use]
) -> Iterator[Finding]:
    """Findings on axes that grow and of which a user says otherwise than the program.

    Args:
      name: Parameter that is meant.
      sizes: Sizes of the parameter, with what users say of it.
      shown: Kinds of its axes as the program shows them; `None` for one that it does not use.
      uses: Uses of the parameter in the program.
    """
    if sizes.leaf.spec is not None or sizes.leaf.known is None:
        return
    for axis, (given, seen, base, delta) in enumerate(
        zip(sizes.leaf.known, shown, sizes.base, sizes.delta, strict=True)
    ):
        if base != delta and seen not in (None, given):
            assert seen is not None
            use = next((use for use in uses if use.kinds.get(axis) == seen), uses[0])
            yield rule_contradicted(name, axis, str(sizes), given, seen, str(use))


def _exceeds(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return any(size > than for size, than in zip(shape, other, strict=True))


def _sums_over_other_size(sizes: Sizes) -> bool:
    return any(
        kind == "input" and base == delta != target for kind, base, delta, target in sizes.axes()
    )


def _unknown(parameters: Mapping[str, Sizes]) -> dict[str, Sizes]:
    return _those(parameters, lambda sizes: sizes.leaf.kinds is None)


def _those(parameters: Mapping[str, Sizes], has: Callable[[Sizes], bool]) -> dict[str, Sizes]:
    return {name: sizes for name, sizes in parameters.items() if has(sizes)}


def _described(parameters: Mapping[str, Sizes]) -> str:
    def names(leaf: Leaf) -> str:
        return "" if leaf.names is None else f", axis names {leaf.names}"

    return listed(f"{name}: {sizes}{names(sizes.leaf)}" for name, sizes in parameters.items())


_OFFSET = (
    "Sizes must be proportional to the model's, or the factors of one axis do not fit those of "
    "another. These have an offset:{}\n"
    "Make the part of a fixed size by a parameter of its own, or leave the offset out."
)
