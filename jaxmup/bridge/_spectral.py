"""Weights under spectral norm, W / σ: the singular vectors of PyTorch, and the one of Flax.

PyTorch keeps both vectors of its power iteration and computes σ = u · W v. Flax keeps that of the
outputs, `u`, and the last σ, which it writes and does not read. So σ is computed on the way to
Flax, and the vector that Flax lacks on the way back, as PyTorch does it.

References:
  Miyato et al., "Spectral Normalization for GANs", arXiv:1802.05957, Algorithm 1.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from jaxmup.bridge._layouts import COPY, Layout, last_axis
from jaxmup.bridge._plan import Entry, Place, Source

Vectors: TypeAlias = tuple[Source, Source]
"""PyTorch's left and right singular vectors, `u` and `v`."""
_SIGMA = Layout("σ = u · W v")
_SMALLEST = 1e-12  # norm that a vector is divided by, in PyTorch


@dataclasses.dataclass(frozen=True)
class SigmaEntry(Entry):
    """The vector that Flax lacks, which becomes σ: each is computed from the weight and the other.

    Args:
      weight: Entry of the weight.
      vector: Entry of the vector that both have.
      axis: Axis of PyTorch's weight that indexes the rows of its matrix.
      is_left: Whether the vector that both have is the left one, of the rows.
    """

    weight: Entry = dataclasses.field(kw_only=True)
    vector: Entry = dataclasses.field(kw_only=True)
    axis: int = dataclasses.field(kw_only=True)
    is_left: bool = dataclasses.field(kw_only=True)

    @property
    def reads(self) -> tuple[Source, ...]:
        """The vector, the weight and the other vector."""
        return (*self.sources, *self.weight.sources, *self.vector.sources)

    @property
    def reads_back(self) -> tuple[Place, ...]:
        """The places of σ, of the weight and of the vector."""
        return (*self.targets, *self.weight.targets, *self.vector.targets)

    def forward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """σ of the weight as it is in PyTorch."""
        lacking, weight, held = arrays
        sigma = np.vdot(_wide(lacking), self._image(weight, held))
        return [np.asarray(sigma, lacking.dtype)]

    def backward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The vector that is lacking, as half a step of the iteration makes it."""
        _, kernel, held = arrays
        (weight,), (vector,) = self.weight.backward([kernel]), self.vector.backward([held])
        image = self._image(weight, vector)
        return [(image / max(np.linalg.norm(image), _SMALLEST)).astype(vector.dtype)]

    def _image(self, weight: np.ndarray, vector: np.ndarray) -> np.ndarray:
        matrix = np.moveaxis(_wide(weight), self.axis, 0)
        matrix = matrix.reshape(matrix.shape[0], -1)
        return (matrix.conj().T if self.is_left else matrix) @ _wide(vector)


def _wide(array: np.ndarray) -> np.ndarray:
    return array if np.iscomplexobj(array) else array.astype(np.float64)


def entries(weight: Entry, vectors: Vectors, u: Place, sigma: Place) -> tuple[Entry, ...]:
    """The entries of the vectors of one weight; none if the matrices of both sides are not one.

    Flax makes a matrix of a weight by its last axis, PyTorch by the first, or in a transposed
    convolution by the second.

    Args:
      weight: Entry of the weight.
      vectors: The vectors of PyTorch.
      u: Place of Flax's vector, (1, outputs).
      sigma: Place of its σ, ().
    """
    (source,), (place,) = weight.sources, weight.targets
    axis = 1 if weight.layout.key == "conv_transpose" else 0
    rows = source.shape[axis]
    columns = math.prod(source.shape) // max(rows, 1)
    if [vector.shape for vector in vectors] != [(rows,), (columns,)]:
        return ()
    last = last_axis(weight.layout, len(source.shape))
    if last != axis and len(source.shape) > 2:
        return ()
    held, lacking = vectors if last == axis else vectors[::-1]
    if held.shape != (place.shape[-1],) or u.shape != (1, place.shape[-1]):
        return ()
    vector = Entry((held,), (u,), COPY)
    computed = SigmaEntry(
        (lacking,), (sigma,), _SIGMA, weight=weight, vector=vector, axis=axis, is_left=last == axis
    )
    return vector, computed
