"""Real data that comes with installed packages, and the order in which a run sees it."""

import dataclasses
import functools
import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmup import _check, _extras


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Args:
      name: Name of the data set.
      inputs: Inputs of shape `(examples, features)`, float32; read-only.
      labels: Labels of shape `(examples,)`, int32, from 0 to `classes - 1`; read-only.
      classes: Number of classes.
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
    """Indices of the examples of each step: shuffled epochs, end to end, cut into batches.

    Every example comes once before any comes again. The order is a function of the arguments
    alone, and a longer run begins as a shorter one does.

    Args:
      examples: Number of examples in the data set, at least 1.
      batch_size: Examples per step, at least 1; it may exceed `examples`.
      steps: Number of steps, at least 0.
      seed: Seed of the order, at least 0.

    Returns:
      Indices of shape `(steps, batch_size)`, int32.

    Raises:
      TypeError: if a number is no integer.
      ValueError: if one is too small.

    Example:
      >>> order = batch_order(examples=6, batch_size=2, steps=3, seed=0)
      >>> sorted(order.ravel().tolist())
      [0, 1, 2, 3, 4, 5]
    """
    for name, value, least in (
        ("examples", examples, 1),
        ("batch_size", batch_size, 1),
        ("steps", steps, 0),
        ("seed", seed, 0),
    ):
        _check.size(name, value, at_least=least)
    generator = np.random.default_rng(seed)
    epochs = -(-steps * batch_size // examples)
    stream = np.concatenate([generator.permutation(examples) for _ in range(epochs)])
    return stream[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


# A block of text is trained on or held out as a whole, and a tenth of the blocks is held out.
_BLOCK = 4096
_HELD_OUT = 10


class Text(NamedTuple):
    """A text as bytes: a language model over them has a vocabulary of 256.

    Args:
      name: Name of the text.
      train: Bytes to train on, uint8; read-only.
      held_out: Bytes to measure the loss on, uint8; read-only.
    """

    name: str
    train: np.ndarray
    held_out: np.ndarray


@functools.cache
def text(path: str | os.PathLike[str] | None = None, limit: int = 4_000_000) -> Text:
    """A text for byte-level language models: Python's standard library, which everyone has.

    The library is its top-level modules, end to end by increasing name, so it is a function of the
    version of Python. Of the first `limit` bytes, every tenth block of 4096 is held out; of a
    shorter text than ten blocks, the last tenth.

    Args:
      path: Any file, whatever its encoding; `None` for the standard library.
      limit: Size in bytes from which on the text is cut.

    Raises:
      OSError: if the file, or the source of the standard library, cannot be read.
      ValueError: if there are fewer than 10 bytes.

    Example:
      >>> corpus = text()
      >>> corpus.train.dtype, len(corpus.train) > 8 * len(corpus.held_out) > 0
      (dtype('uint8'), True)
    """
    _check.size("limit", limit)
    content = _standard_library(limit) if path is None else _start_of(Path(path), limit)
    name = "standard library" if path is None else Path(path).name
    if len(content) < _HELD_OUT:
        raise ValueError(
            f"A text must have at least {_HELD_OUT} bytes. Got {len(content)} in {name}."
        )
    tokens = np.frombuffer(content, np.uint8)
    block = min(_BLOCK, len(tokens) // _HELD_OUT)
    held_out = np.arange(len(tokens)) // block % _HELD_OUT == _HELD_OUT - 1
    train, rest = tokens[~held_out], tokens[held_out]
    train.setflags(write=False)
    rest.setflags(write=False)
    return Text(name, train, rest)


def _standard_library(limit: int) -> bytes:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    if not files:
        raise FileNotFoundError("The standard library has no source here. Pass a text file.")
    content = bytearray()
    for file in files:
        if len(content) >= limit:
            break
        content += file.read_bytes()
    return bytes(content[:limit])


def _start_of(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def sequences(
    tokens: np.ndarray, context: int, batch_size: int, seed: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of pieces of a text, from random places, and what follows each of their tokens.

    Args:
      tokens: Text of shape `(length,)`.
      context: Length of a piece, in tokens.
      batch_size: Number of pieces.
      seed: Seed of the run, at least 0.
      step: Step of the run, at least 0. The places are a function of the sizes, `seed` and `step`.

    Returns:
      Inputs and targets of shape `(batch_size, context)`, int32.

    Raises:
      TypeError: if a number is no integer.
      ValueError: if one is too small, or the text is no longer than `context`.

    Example:
      >>> inputs, targets = sequences(np.arange(9), context=4, batch_size=1, seed=0, step=0)
      >>> (targets - inputs).tolist()
      [[1, 1, 1, 1]]
    """
    for name, value, least in (
        ("context", context, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("step", step, 0),
    ):
        _check.size(name, value, at_least=least)
    if len(tokens) <= context:
        raise ValueError(
            f"A text must be longer than a sequence of {context} tokens. Got {len(tokens)}. "
            "Pass a longer text, or a smaller context."
        )
    starts = np.random.default_rng((seed, step)).integers(0, len(tokens) - context, batch_size)
    pieces = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int32)
    return pieces[:, :-1], pieces[:, 1:]
