"""The tasks that have a name: the models of `jaxmup.models` on the data of `jaxmup.data`."""

from collections.abc import Callable, Iterator

import numpy as np
from flax import nnx

from jaxmup import _check, data
from jaxmup._parametrization import Parametrization
from jaxmup.models import CNN, GPT, MLP
from jaxmup.transfer._config import MODELS, Config
from jaxmup.transfer._task import Batch, Task


def task_of(config: Config) -> Task:
    """The task that a configuration names: its data, with the model that belongs to them.

    Raises:
      ModuleNotFoundError: if the digits are asked for and scikit-learn is not installed.
      OSError: if the text cannot be read.
      ValueError: if it names none, or the text is too short.
    """
    _check.made("config", config, "Config", "jaxmup.transfer.Config")
    match config.data or MODELS.get(config.model):
        case "digits":
            return classification(data.digits())
        case "images":
            return images(data.digits())
        case "text":
            return language_model(data.text(config.text), config.context)
    raise ValueError(
        f"A model other than {', '.join(MODELS)} must come with a task. Got {config.model!r}. Pass "
        "a `jaxmup.transfer.Task`."
    )


def classification(dataset: data.Dataset) -> Task:
    """`jaxmup.models.MLP` on a data set; the loss at the end is on all of it."""

    def make_model(
        width: int, depth: int, base_width: int, parametrization: Parametrization, rngs: nnx.Rngs
    ) -> MLP:
        return MLP(
            dataset.features,
            dataset.classes,
            width=width,
            depth=depth,
            base_width=base_width,
            parametrization=parametrization,
            rngs=rngs,
        )

    return Task(make_model, _shuffled(dataset, dataset.inputs), (dataset.inputs, dataset.labels))


def images(dataset: data.Dataset) -> Task:
    """`jaxmup.models.CNN` on the images of a data set, squares of one channel."""
    side = int(dataset.features**0.5)
    pixels = dataset.inputs.reshape(-1, side, side, 1)

    def make_model(
        width: int, depth: int, base_width: int, parametrization: Parametrization, rngs: nnx.Rngs
    ) -> CNN:
        return CNN(
            1,
            dataset.classes,
            width=width,
            num_stages=depth,
            base_width=base_width,
            parametrization=parametrization,
            rngs=rngs,
        )

    return Task(make_model, _shuffled(dataset, pixels), (pixels, dataset.labels))


def language_model(text: data.Text, context: int, sequences: int = 256) -> Task:
    """`jaxmup.models.GPT` on the bytes of a text: 4 heads, feed-forward layers of twice the width.

    Args:
      text: Bytes to train on, and bytes held out for the loss at the end.
      context: Length of a sequence, in bytes.
      sequences: Number of held-out sequences.
    """

    def make_model(
        width: int, depth: int, base_width: int, parametrization: Parametrization, rngs: nnx.Rngs
    ) -> GPT:
        return GPT(
            256,
            width=width,
            num_layers=depth,
            num_heads=4,
            base_width=base_width,
            hidden_features=2 * width,
            base_hidden_features=2 * base_width,
            parametrization=parametrization,
            rngs=rngs,
        )

    def batches(seed: int, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        return data.sequences(text.train, context, batch_size, seed, step)

    return Task(make_model, batches, data.sequences(text.held_out, context, sequences, 0, 0))


def _shuffled(dataset: data.Dataset, inputs: np.ndarray) -> Callable[..., Iterator[Batch]]:
    def batches(seed: int, steps: int, batch_size: int) -> Iterator[Batch]:
        for at in data.batch_order(len(inputs), batch_size, steps, seed):
            yield inputs[at], dataset.labels[at]

    return batches
