"""PyTorch's way to lay a parameter out, and Flax's: transforms as data, each with its inverse.

A `Layout` takes a few arrays of one framework to those of the other. It moves elements and never
computes with them, the sums of two biases excepted, so it serves a weight and the moments of its
optimizer alike.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]
Join: TypeAlias = Literal["one", "equal", "sum", "gru"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One transform between tensors of PyTorch and leaves of Flax.

    Forwards: `join` makes one array of the sources; it is cut along its first axis into one part
    per target, or each of several groups of rows is; the axes of each part are permuted, some
    reversed, and it takes the target's shape.

    Args:
      name: Words for it in a table.
      key: Word for it in a pair; empty if shapes always tell.
      permutation: Order of a part's axes, as of `numpy.transpose`; empty keeps them.
      reversed_axes: Axes of the permuted part along which the order of the elements turns around.
      join: Way from several sources to one array: `"one"` for one source, `"equal"` for tied
        copies, `"sum"` for the two biases of an LSTM, which Flax has as one, `"gru"` for those of
        a GRU.
      input_first: Whether the source is stored as (inputs, outputs), as `Conv1D` of GPT-2 does.
      groups: Number of groups of rows, each of which holds rows of every target one after another.
      flattened: Sizes `(channels, *window)` that the inputs of a weight have been flattened from.
    """

    name: str
    key: str = ""
    permutation: tuple[int, ...] = ()
    reversed_axes: tuple[int, ...] = ()
    join: Join = "one"
    input_first: bool = False
    groups: int = 1
    flattened: Shape = ()

    def forward(
        self, sources: Sequence[np.ndarray], target_shapes: Sequence[Shape]
    ) -> list[np.ndarray]:
        """The arrays of Flax; views of `sources` wherever numpy can make them.

        Raises:
          ValueError: if tied copies differ, or a GRU's second bias has no place in Flax.

        Example:
          >>> weight = np.arange(6.0).reshape(3, 2)  # (out_features, in_features)
          >>> LINEAR.forward([weight], [(2, 3)])[0].tolist()
          [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
        """
        if not target_shapes:
            return []
        whole = _JOINS[self.join].forward(sources, sum(map(math.prod, target_shapes)))
        if self.input_first:
            # What is cut into query, key and value must be the first axis, as in a Linear.
            whole = whole.swapaxes(-1, -2)
        rows = _rows(target_shapes, math.prod(whole.shape[1:]))
        parts = _cut(whole, rows, self.groups)
        return [
            self._permuted(part).reshape(shape)
            for part, shape in zip(parts, target_shapes, strict=True)
        ]

    def backward(
        self,
        targets: Sequence[np.ndarray],
        source_shapes: Sequence[Shape],
        dtype: np.dtype | None = None,
    ) -> list[np.ndarray]:
        """The tensors of PyTorch; what Flax has no place for is zero.

        Args:
          targets: Arrays of Flax.
          source_shapes: Shapes of the tensors.
          dtype: Dtype of tensors that Flax has no array for.

        Example:
          >>> LINEAR.backward([np.array([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])], [(3, 2)])[0].tolist()
          [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
        """
        if not targets:
            return [np.zeros(shape, dtype) for shape in source_shapes]
        shape = source_shapes[0]
        if self.input_first:
            shape = (*shape[:-2], shape[-1], shape[-2])
        rest = self.flattened or shape[1:]
        rows = _rows([target.shape for target in targets], math.prod(rest))
        parts = [self._unpermuted(target, n, rest) for target, n in zip(targets, rows, strict=True)]
        whole = _put_together(parts, self.groups)
        if self.join in ("one", "equal"):
            # A scalar was given one row to be cut along. Joined biases keep their shape: those of a
            # GRU may have a gate more than the first source.
            whole = whole.reshape(shape)
        if self.input_first:
            whole = whole.swapaxes(-1, -2)
        return _JOINS[self.join].backward(whole, source_shapes)

    def _permuted(self, part: np.ndarray) -> np.ndarray:
        if self.flattened:
            part = part.reshape(part.shape[0], *self.flattened)
        moved = part.transpose(self.permutation) if self.permutation else part
        return np.flip(moved, self.reversed_axes) if self.reversed_axes else moved

    def _unpermuted(self, target: np.ndarray, rows: int, rest: Shape) -> np.ndarray:
        shape = (rows, *rest)
        if not self.permutation:
            return target.reshape(shape)
        # Heads may have axes of their own in the leaf: first PyTorch's axes, permuted, come back.
        moved = target.reshape([shape[axis] for axis in self.permutation])
        moved = np.flip(moved, self.reversed_axes) if self.reversed_axes else moved
        return moved.transpose(np.argsort(self.permutation))


@dataclasses.dataclass(frozen=True)
class _Joined:
    """A way to make one array of several tensors of PyTorch, given its number of elements; back."""

    forward: Callable[[Sequence[np.ndarray], int], np.ndarray]
    backward: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]


def _rows(shapes: Sequence[Shape], row: int) -> list[int]:
    """Number of rows of `row` elements in each shape; none where rows are empty."""
    return [math.prod(shape) // max(row, 1) for shape in shapes]


def _cut(whole: np.ndarray, rows: Sequence[int], groups: int) -> list[np.ndarray]:
    """Parts of so many rows, of which each group of rows holds an equal share, one after another.

    Example:
      >>> [part.tolist() for part in _cut(np.arange(6), [4, 2], groups=2)]
      [[0, 1, 3, 4], [2, 5]]
    """
    if len(rows) == 1:
        return [whole]
    rest = whole.shape[1:]
    shares = np.cumsum([n // groups for n in rows])[:-1]
    parts = np.split(whole.reshape(groups, -1, *rest), shares, axis=1)
    return [part.reshape(-1, *rest) for part in parts]


def _put_together(parts: Sequence[np.ndarray], groups: int) -> np.ndarray:
    """The way back of `_cut`."""
    if len(parts) == 1:
        return parts[0]
    rest = parts[0].shape[1:]
    shares = [part.reshape(groups, -1, *rest) for part in parts]
    return np.concatenate(shares, axis=1).reshape(-1, *rest)


def _one(sources: Sequence[np.ndarray], size: int) -> np.ndarray:
    (source,) = sources
    return source if source.ndim else source.reshape(1)


def _equal(sources: Sequence[np.ndarray], size: int) -> np.ndarray:
    first, *others = sources
    if not all(np.array_equal(first, other, equal_nan=True) for other in others):
        raise ValueError("tied tensors must hold the same values, and these differ")
    return first


def _sum(sources: Sequence[np.ndarray], size: int) -> np.ndarray:
    return np.add(*sources)


def _sum_back(whole: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    return [whole, np.zeros_like(whole)]


def _gru(sources: Sequence[np.ndarray], size: int) -> np.ndarray:
    """The biases of r, z and n, and where there is room for it, that of n's recurrent product.

    PyTorch adds its second bias of n inside the product with r, `n = tanh(W x + b + r (U h + b'))`,
    so it cannot be summed with the first: it is another parameter.
    """
    inputs, state = sources
    n = inputs.shape[0] // 3
    gates = inputs[: 2 * n] + state[: 2 * n]
    if size == 4 * n:
        return np.concatenate([gates, inputs[2 * n :], state[2 * n :]])
    if np.any(state[2 * n :]):
        raise ValueError(
            "flax.nnx.GRUCell has no bias inside the product with r, torch's b_hn, and here it is "
            "not zero; flax.linen.GRUCell has one"
        )
    return np.concatenate([gates, inputs[2 * n :]])


def _gru_back(whole: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    inputs = whole[: shapes[0][0]]
    n = inputs.shape[0] // 3
    state = np.zeros_like(inputs)
    if whole.shape[0] == 4 * n:
        state[2 * n :] = whole[3 * n :]
    return [inputs, state]


_JOINS = MappingProxyType(
    {
        "one": _Joined(_one, lambda whole, shapes: [whole]),
        "equal": _Joined(_equal, lambda whole, shapes: [whole] * len(shapes)),
        "sum": _Joined(_sum, _sum_back),
        "gru": _Joined(_gru, _gru_back),
    }
)

COPY = Layout("as it is")
LINEAR = Layout("transposed", "linear", (1, 0))
# It is transposed twice: once to be cut like a Linear, and back.
INPUT_FIRST = Layout("as it is (Conv1D)", "conv1d", (1, 0), input_first=True)
DROPPED = Layout("left out")
TWO_BIASES = Layout("sum of both biases", join="sum")
GRU_BIASES = Layout("biases of a GRU", join="gru")


def convolution(rank: int) -> Layout:
    """(out, in, *window) to (*window, in, out) for a kernel of `rank` axes."""
    return Layout("window first", "conv", (*range(2, rank), 1, 0))


def transposed_convolution(rank: int, transpose_kernel: bool) -> Layout:
    """(in, out, *window) to Flax's `ConvTranspose`.

    With `transpose_kernel` Flax's is the gradient of a convolution too, as PyTorch's; without, it
    slides the kernel over the spread-out input, which turns the window around.
    """
    window = tuple(range(2, rank))
    if transpose_kernel:
        return Layout("window first, in and out swapped", "conv_transpose", (*window, 1, 0))
    return Layout(
        "window first and reversed", "conv_transpose", (*window, 0, 1), tuple(range(rank - 2))
    )


def flattened(sizes: Shape) -> Layout:
    """(out, channels · *window) to (*window · channels, out): inputs that both sides flattened.

    PyTorch flattens a feature map with the channels first, Flax with the channels last.
    """
    permutation = (*range(2, len(sizes) + 1), 1, 0)
    return Layout("channels of a flattened map last", "flatten", permutation, flattened=sizes)


def last_axis(layout: Layout, rank: int) -> int:
    """The axis of a tensor of PyTorch that Flax has last.

    Example:
      >>> last_axis(LINEAR, 2), last_axis(convolution(4), 4), last_axis(INPUT_FIRST, 2)
      (0, 0, 1)
    """
    if layout.input_first or not layout.permutation:
        return rank - 1
    return layout.permutation[-1]


def tied(layout: Layout) -> Layout:
    """The layout for several equal copies of one tensor."""
    return dataclasses.replace(layout, name=f"{layout.name}, tied", join="equal")


def shown(shape: Shape) -> str:
    """A shape in a message, such as `(3)`.

    Example:
      >>> shown((3,)), shown(())
      ('(3)', '()')
    """
    return f"({', '.join(map(str, shape))})"
