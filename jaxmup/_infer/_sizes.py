"""One parameter at three sizes: which of its axes grow, and what is wrong with that."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

from jaxmup._infer._leaf import Leaf
from jaxmup._spec import Applied, Axis, AxisKind, ParamSpec
from jaxmup._tree import listed

_PLAIN = Applied(multiplier=1.0, init_gain=None)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A parameter of the target and the shapes of its counterparts.

    Args:
      leaf: Parameter in the target, its axes known.
      base: Shape of the parameter in the base model.
      delta: Shape of the parameter in the model beside the base model.
    """

    leaf: Leaf
    base: tuple[int, ...]
    delta: tuple[int, ...]

    def __str__(self) -> str:
        return f"base {self.base}, delta {self.delta}, target {self.leaf.shape}"

    def axes(self) -> Iterator[tuple[AxisKind, int, int, int]]:
        """Kind and the sizes at base, delta and target, of each axis."""
        assert self.leaf.kinds is not None  # `require_kinds` has seen to it
        return zip(self.leaf.kinds, self.base, self.delta, self.leaf.shape, strict=True)

    def spec(self) -> ParamSpec:
        """The spec of the parameter."""
        if self.leaf.spec is not None:
            return dataclasses.replace(
                self.leaf.spec, corrections=self.leaf.corrections, findings=self.leaf.findings
            )
        axes = tuple(
            Axis(kind, size, base=base if base != delta else None)
            for kind, base, delta, size in self.axes()
        )
        gain = math.sqrt(1 / axes[-1].ratio) if "logits" in self.leaf.uses else self.leaf.gain
        return ParamSpec(
            axes,
            applied=_PLAIN,
            forward_gain=gain,
            corrections=self.leaf.corrections,
            findings=self.leaf.findings,
            reason=self.leaf.reason,
        )


def require_growth(parameters: Mapping[str, Sizes]) -> None:
    """Raises a `ValueError` unless axes differ from base to delta, all in one direction."""
    grown = [name for name, sizes in parameters.items() if _exceeds(sizes.delta, sizes.base)]
    shrunk = [name for name, sizes in parameters.items() if _exceeds(sizes.base, sizes.delta)]
    if not grown and not shrunk:
        raise ValueError(
            "`delta` must differ from `base` in every axis that belongs to the width. All shapes "
            "are equal, so nothing would grow: that is the standard parametrization. Give `delta` "
            "another width."
        )
    if grown and shrunk:
        raise ValueError(
            "From `base` to `delta` all axes that differ must grow, or all shrink. Some grow:"
            f"{_described(parameters, grown)}\nand some shrink:{_described(parameters, shrunk)}\n"
            "Was one size of `delta` forgotten, such as the head size where only the heads grow?"
        )
    added = [name for name, sizes in parameters.items() if _stack_differs(sizes)]
    if added:
        raise ValueError(
            "The number of layers that `scan` or `vmap` has stacked must be the same in `base` and "
            f"`delta`: it is no width. Got{_described(parameters, added)}"
        )


def require_fixed_sizes(parameters: Mapping[str, Sizes]) -> None:
    """Raises a `ValueError` if a layer sums over an axis that differs at the target, yet is fixed.

    The size of a vocabulary may differ, but whatever one layer puts out and the next one sums over
    is part of the width. That is how a size that was forgotten in `delta` shows.
    """
    forgotten = [name for name, sizes in parameters.items() if _sums_over_other_size(sizes)]
    if forgotten:
        raise ValueError(
            "An axis that a layer sums over must grow from `base` to `delta` if it is another one "
            f"at `target`. These do not:{_described(parameters, forgotten)}\n"
            "Was a size forgotten in `delta`, such as that of the feed-forward layers? If it is no "
            "part of the width, give all three models the same."
        )


def require_known_attention(parameters: Mapping[str, Sizes]) -> None:
    """Raises a `ValueError` if the head size grows in attention whose divisor is not known."""
    unknown = [
        name
        for name, sizes in parameters.items()
        if "unknown logits" in sizes.leaf.uses and sizes.base[-1] != sizes.delta[-1]
    ]
    if unknown:
        raise ValueError(
            "Where the head size grows, attention must be Flax's own, which divides its logits by "
            "its square root; muP needs another factor, which depends on that one. It is a subclass"
            f" or has an `attention_fn` of its own at{_described(parameters, unknown)}\n"
            "Grow the number of heads instead, or use jaxmup's MultiHeadAttention."
        )


def require_readout(leaves: Mapping[str, Leaf], specs: Mapping[str, ParamSpec]) -> None:
    """Raises a `ValueError` if an embedding is, or must be taken to be, tied to the readout."""
    lookups = {
        name: specs[name]
        for name, leaf in leaves.items()
        if "lookup" in leaf.uses and leaf.spec is None and specs[name].role == "input"
    }
    attended = [name for name in lookups if "attend" in leaves[name].uses]
    unread = [name for name, spec in lookups.items() if not _is_read_out(spec, specs.values())]
    tied = attended or unread
    if tied:
        raise ValueError(
            "A tied embedding must keep its standard deviation while its logits are divided by the "
            "width ratio, which one tensor in an unmodified model cannot do. "
            f"{'Tied is' if attended else 'The model has no readout, but'}{listed(tied)}\n"
            "Use jaxmup's Embed. If it is not tied, or you divide the logits yourself, say so by "
            f'`rules={{"{tied[0]}": ("batch", "output")}}`.'
        )


def _is_read_out(lookup: ParamSpec, specs: Iterable[ParamSpec]) -> bool:
    """True if another parameter maps the width to a fixed size, or to that of the vocabulary."""
    vocabularies = {axis.size for axis in lookup.axes if axis.kind == "batch" and axis.grows}
    return any(
        spec.role == "output"
        or any(axis.kind == "output" and axis.size in vocabularies for axis in spec.axes)
        for spec in specs
    )


def _exceeds(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return any(size > than for size, than in zip(shape, other, strict=True))


def _sums_over_other_size(sizes: Sizes) -> bool:
    return any(
        kind == "input" and base == delta != target for kind, base, delta, target in sizes.axes()
    )


def _stack_differs(sizes: Sizes) -> bool:
    return any(sizes.base[i] != sizes.delta[i] for i in sizes.leaf.stacked)


def _described(parameters: Mapping[str, Sizes], names: list[str]) -> str:
    return listed(f"{name}: {parameters[name]}" for name in names)
