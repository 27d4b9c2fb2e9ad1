"""The axes of every layer's parameters, input, output or batch: one table for both APIs."""

from collections.abc import Sequence

from jaxmup import _check
from jaxmup._spec import Axis, AxisKind

Axes = tuple[Axis, ...]
LayerAxes = tuple[tuple[str, Axes], ...]
"""The axes of each parameter of a layer, by its name, in the order in which Flax makes them."""
Sizes = int | Sequence[int]
Bases = int | Sequence[int | None] | None


def axes_of(kind: AxisKind, sizes: Sizes, bases: Bases, name: str = "base") -> Axes:
    """One axis of this `kind` for each of `sizes`.

    Args:
      kind: Kind of all the axes.
      sizes: Sizes of the axes in this model.
      bases: Sizes of the axes in the base model; `None` for axes that do not grow.
      name: Name of the caller's argument for `bases`, for errors.

    Raises:
      ValueError: if there is not one base for each size.

    Example:
      >>> axes_of("output", (8, 16), (2, None))[0].ratio
      4.0
    """
    sizes = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
    if bases is None:
        bases = (None,) * len(sizes)
    bases = tuple(bases) if isinstance(bases, Sequence) else (bases,)
    if len(bases) != len(sizes):
        raise ValueError(
            f"`{name}` must have one size for each axis of {sizes}. Got {bases}. Use `None` for an "
            "axis that does not grow."
        )
    return tuple(Axis(kind, size, base) for size, base in zip(sizes, bases, strict=True))


def linear_axes(inputs: Axes, outputs: Axes, batch: Axes = (), *, use_bias: bool) -> LayerAxes:
    """Kernel `(batch, inputs, outputs)` and bias `(batch, outputs)`."""
    return _with_bias(use_bias, kernel=batch + inputs + outputs, bias=batch + outputs)


def embedding_axes(num_embeddings: int, features: int, base_features: int | None) -> LayerAxes:
    """Embedding `(num_embeddings, features)`; a vocabulary is no width."""
    axes = Axis("input", num_embeddings), Axis("output", features, base_features)
    return (("embedding", axes),)


def norm_axes(features: Axes, *, use_scale: bool, use_bias: bool) -> LayerAxes:
    """Gain and bias of the features: weights of an input that is always 1."""
    used = {"scale": use_scale, "bias": use_bias}
    return tuple((name, features) for name, is_used in used.items() if is_used)


def conv_axes(
    kernel_size: Sizes,
    in_features: tuple[int, int | None],
    out_features: tuple[int, int | None],
    groups: tuple[int, int | None] = (1, None),
    *,
    use_bias: bool,
    transpose_kernel: bool = False,
) -> LayerAxes:
    """Kernel `(*kernel_size, in_features / groups, out_features)` and bias `(out_features,)`.

    The channels grow, the window does not. What a channel of the output sums over is a group, whose
    size grows only where the channels outgrow the number of groups: a depthwise kernel, one channel
    to a group, is like a vector.

    Args:
      kernel_size: Spatial sizes of the kernel.
      in_features: Channels of the inputs, now and in the base model; `None` if they do not grow.
      out_features: Channels of the outputs, now and in the base model.
      groups: Number of groups, now and in the base model.
      use_bias: Whether there is a bias.
      transpose_kernel: Whether the kernel has the outputs before the inputs.

    Raises:
      ValueError: if the groups do not divide the channels of the inputs, now or in the base model.

    Example:
      >>> ((_, kernel),) = conv_axes((3,), (256, 64), (256, 64), (256, 64), use_bias=False)
      >>> [(axis.size, axis.base) for axis in kernel]
      [(3, None), (1, None), (256, 64)]
    """
    window = axes_of("batch", kernel_size, None)
    size = _group_size(in_features[0], groups[0])
    base = None
    if in_features[1] is not None:
        base = _group_size(in_features[1], groups[0] if groups[1] is None else groups[1])
        if groups[1] is not None and base == size:  # the groups grow in number, not in size
            base = None
    inputs, outputs = (Axis("input", size, base),), (Axis("output", *out_features),)
    if transpose_kernel:
        inputs, outputs = outputs, inputs
    return _with_bias(
        use_bias, kernel=window + inputs + outputs, bias=(Axis("output", *out_features),)
    )


def _group_size(features: int, groups: int) -> int:
    _check.size("base", features, remedy="`None` is for an axis that does not grow.")
    if features % groups:
        raise ValueError(
            "Groups must divide the channels of the inputs, also in the base model. Got "
            f"{features} channels in {groups} groups. Give `base_feature_group_count` if the "
            "number of groups grows, as in a depthwise convolution."
        )
    return features // groups


def einsum_axes(
    equation: str, kernel_shape: Sequence[int], base_kernel_shape: Bases, *, use_bias: bool
) -> LayerAxes:
    """Kernel and bias of `einsum(equation, inputs, kernel)`.

    An axis of the kernel that only it and the output have is an output axis, one that the output
    lacks an input axis, and one that all three have a batch axis. The bias has the kernel's axes
    that the output has, in the output's order.

    Raises:
      ValueError: if `equation` is not of the form `"inputs,kernel->output"`, or does not name one
        axis for each of `kernel_shape`.

    Example:
      >>> axes = einsum_axes("btd,dhk->bthk", (64, 4, 16), (32, 2, None), use_bias=True)
      >>> axes = dict(axes)
      >>> [axis.kind for axis in axes["kernel"]], [axis.size for axis in axes["bias"]]
      (['input', 'output', 'output'], [4, 16])
    """
    operands, arrow, output = equation.replace(" ", "").partition("->")
    inputs, comma, kernel = operands.partition(",")
    if not (arrow and comma and kernel.isalpha() and len(kernel) == len(kernel_shape)):
        raise ValueError(
            "`einsum_str` must be explicit and name one axis for each of the kernel's shape "
            f"{tuple(kernel_shape)}, such as 'btd,dhk->bthk'. Got {equation!r}."
        )
    kinds = kinds_of_letters(inputs, kernel, output)
    bases = axes_of("batch", tuple(kernel_shape), base_kernel_shape, "base_kernel_shape")
    axes = {
        letter: Axis(kinds[letter], axis.size, axis.base)
        for letter, axis in zip(kernel, bases, strict=True)
    }
    bias = tuple(axes[letter] for letter in output if letter in axes)
    return _with_bias(use_bias, kernel=tuple(axes.values()), bias=bias)


def kinds_of_letters(inputs: str, kernel: str, output: str) -> dict[str, AxisKind]:
    """The kind of each axis of an einsum's kernel, by its letter in `"inputs,kernel->output"`."""

    def kind(letter: str) -> AxisKind:
        if letter not in output:
            return "input"
        return "batch" if letter in inputs else "output"

    return {letter: kind(letter) for letter in kernel}


def _with_bias(use_bias: bool, *, kernel: Axes, bias: Axes) -> LayerAxes:
    return (("kernel", kernel), ("bias", bias)) if use_bias else (("kernel", kernel),)
