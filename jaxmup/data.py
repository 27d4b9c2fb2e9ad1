"""Real data that comes with installed packages, and the order in which a run sees it."""

import dataclasses
import functools

import numpy as np

from jaxmup import _extras


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Args:
      name: what to call it.
      inputs: shape `(examples, features)`, float32; read-only.
      labels: shape `(examples,)`, int32, from 0 to `classes - 1`; read-only.
      classes: number of classes.
    """

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    classes: int

    @property
    def features(self) -> int:
        """Number of features of an example."""
        return self.inputs.shape[1]


@functools.cache
def digits() -> Dataset:
    """The 1797 handwritten digits of 8 x 8 pixels that scikit-learn ships.

    Shifted and scaled by two numbers, so that the mean over all pixels of all images is 0 and
    their variance 1.

    Raises:
      ModuleNotFoundError: if scikit-learn is not installed.

    Example:
      >>> digits().inputs.shape, digits().classes
      ((1797, 64), 10)

    References:
      Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
      Repository (1998).
    """
    datasets = _extras.require("sklearn.datasets", "The digits data set")
    images, labels = datasets.load_digits(return_X_y=True)
    inputs = np.asarray((images - images.mean()) / images.std(), np.float32)
    labels = np.asarray(labels, np.int32)
    inputs.setflags(write=False)
    labels.setflags(write=False)
    return Dataset("digits", inputs, labels, classes=10)


def batch_order(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Which examples each step of a run sees: shuffled epochs, end to end, cut into batches.

    Every example comes once before any comes again. The order is a function of the arguments
    alone, and a longer run begins as a shorter one does.

    Args:
      examples: number of examples in the data set, at least 1.
      batch_size: examples per step, at least 1; it may exceed `examples`.
      steps: number of steps.
      seed: chooses the order; at least 0.

    Returns:
      Indices of shape `(steps, batch_size)`, int32.

    Example:
      >>> order = batch_order(examples=6, batch_size=2, steps=3, seed=0)
      >>> sorted(order.ravel().tolist())
      [0, 1, 2, 3, 4, 5]
    """
    generator = np.random.default_rng(seed)
    epochs = -(-steps * batch_size // examples)
    stream = np.concatenate([generator.permutation(examples) for _ in range(epochs)])
    return stream[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)
