"""Whole models, once in torch under names of its world, and once here."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax import Array
from torch.nn import functional as F

import torch_ref
from jaxmup.models import CNN, GPT, MLP


class Twins(NamedTuple):
    """A model in torch and here, with what the bridge has to be told.

    Args:
      torch: Function that makes the one in torch.
      flax: Function that makes the one here, without values.
      inputs: Function that draws a batch, in torch's layout.
      outputs: Number of features of a label's logits.
      pairs: Paths here of names in torch, for `jaxmup.bridge.plan`.
      channels_last: Whether inputs here have the channels last.
    """

    torch: Callable[[], torch.nn.Module]
    flax: Callable[[], nnx.Module]
    inputs: Callable[[np.random.Generator], np.ndarray]
    outputs: int
    pairs: Mapping[str, str] | None = None
    channels_last: bool = False

    def labels(self, rng: np.random.Generator, inputs: np.ndarray) -> np.ndarray:
        """One for each row of logits."""
        shape = inputs.shape if inputs.dtype.kind == "i" else inputs.shape[:1]
        return rng.integers(0, self.outputs, shape)

    def here(self, inputs: np.ndarray) -> Array:
        """Inputs in the layout that they have here."""
        return jnp.asarray(np.moveaxis(inputs, 1, -1) if self.channels_last else inputs)


class TorchMLP(torch.nn.Module):
    """Hidden layers with tanh between them, and a readout."""

    def __init__(self, *sizes: int):
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.hidden = torch.nn.ModuleList(torch.nn.Linear(*pair) for pair in pairs[:-1])
        self.readout = torch.nn.Linear(*pairs[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.readout(x)


class TorchCNN(torch.nn.Module):
    """Two convolutions, each with a group norm, and a readout of their mean."""

    def __init__(self, channels: int, width: int, outputs: int):
        super().__init__()
        self.convs = torch.nn.ModuleList(
            [
                torch.nn.Conv2d(channels, width, 3, padding=1),
                torch.nn.Conv2d(width, 2 * width, 3, stride=2),
            ]
        )
        self.norms = torch.nn.ModuleList(
            torch.nn.GroupNorm(2, n, eps=1e-6) for n in (width, 2 * width)
        )
        self.readout = torch.nn.Linear(2 * width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            # Flax pads an even image for a stride of 2 on one side.
            x = F.relu(norm(conv(F.pad(x, (0, 1, 0, 1)) if stage else x)))
        return self.readout(x.mean((-2, -1)))


class TorchLSTM(torch.nn.Module):
    """A language model of two LSTM layers."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.lstm = torch.nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.readout = torch.nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(self.lstm(self.embed(tokens))[0])


class LSTM(nnx.Module):
    """The same here."""

    def __init__(self, vocabulary: int, width: int, *, rngs: nnx.Rngs):
        arguments = {"param_dtype": jnp.float64, "rngs": rngs}
        self.embed = nnx.Embed(vocabulary, width, **arguments)
        cells = [nnx.OptimizedLSTMCell(width, width, **arguments) for _ in range(2)]
        self.lstm = nnx.List([nnx.RNN(cell, rngs=False) for cell in cells])
        self.readout = nnx.Linear(width, vocabulary, **arguments)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        start = jnp.zeros_like(x[:, 0])
        for layer in self.lstm:
            x = layer(x, initial_carry=(start, start))
        return self.readout(x)


class ResNet(nnx.Module):
    """`torch_ref.ResNet` here."""

    def __init__(self, outputs: int, widths: Sequence[int], blocks: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(3, widths[0], 7, 2, rngs)
        self.bn1 = _norm(widths[0], rngs)
        for i, (inputs, features) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = nnx.List(
                ResNetBlock(features if j else inputs, features, 1 if j or not i else 2, rngs=rngs)
                for j in range(blocks)
            )
            setattr(self, f"layer{i + 1}", stage)
        self.stages = len(widths)
        self.fc = nnx.Linear(widths[-1], outputs, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        x = jax.nn.relu(self.bn1(self.conv1(images)))
        x = nnx.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for i in range(self.stages):
            for block in getattr(self, f"layer{i + 1}"):
                x = block(x)
        return self.fc(x.mean((1, 2)))


class ResNetBlock(nnx.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, features: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, features, 3, stride, rngs)
        self.bn1 = _norm(features, rngs)
        self.conv2 = _conv(features, features, 3, 1, rngs)
        self.bn2 = _norm(features, rngs)
        self.downsample = (
            None
            if stride == 1 and inputs == features
            else nnx.List([_conv(inputs, features, 1, stride, rngs), _norm(features, rngs)])
        )

    def __call__(self, x: Array) -> Array:
        hidden = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
        for layer in self.downsample or ():
            x = layer(x)
        return jax.nn.relu(hidden + x)


def _conv(inputs: int, features: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        param_dtype=jnp.float64,
        rngs=rngs,
    )


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, param_dtype=jnp.float64, rngs=rngs)


def gpt2(vocabulary: int, width: int, num_layers: int, num_heads: int, context: int, dtype: Any):
    """Our GPT in the configuration of GPT-2, of base width: nothing is multiplied."""
    return GPT(
        vocabulary,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        base_width=width,
        positions="learned",
        context=context,
        norm="layer",
        feed_forward="plain",
        use_bias=True,
        tied=True,
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
    )


GPT2_PAIRS = {
    "transformer.wte": "embed",
    "lm_head": "embed",
    "transformer.h.*.ln_1": "blocks/*/attention_norm",
    "transformer.h.*.ln_2": "blocks/*/feed_forward_norm",
}
TOKENS, WIDTH = 11, 8


def double(model: nnx.Module) -> nnx.Module:
    """The model with the shapes of its parameters in float64."""
    graph, state = nnx.split(model)
    return nnx.merge(
        graph, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), state)
    )


TWINS = {
    "MLP": Twins(
        lambda: TorchMLP(3, 8, 8, 4),
        lambda: double(
            MLP(
                3,
                4,
                width=8,
                depth=2,
                base_width=8,
                activation=jnp.tanh,
                rngs=nnx.Rngs(0),
            )
        ),
        lambda rng: rng.standard_normal((6, 3)),
        4,
    ),
    "CNN": Twins(
        lambda: TorchCNN(2, 4, 3),
        lambda: double(
            CNN(2, 3, width=4, num_stages=2, base_width=4, num_groups=2, rngs=nnx.Rngs(0))
        ),
        lambda rng: rng.standard_normal((4, 2, 6, 6)),
        3,
        channels_last=True,
    ),
    "GPT": Twins(
        lambda: torch_ref.GPT2(TOKENS, context=6, width=WIDTH, num_layers=1, num_heads=2),
        lambda: gpt2(TOKENS, WIDTH, 1, 2, 6, jnp.float64),
        lambda rng: rng.integers(0, TOKENS, (3, 6)),
        TOKENS,
        GPT2_PAIRS,
    ),
    "ResNet": Twins(
        lambda: torch_ref.ResNet(5, widths=(4, 6), blocks=2),
        lambda: ResNet(5, (4, 6), 2, rngs=nnx.Rngs(0)),
        lambda rng: rng.standard_normal((4, 3, 16, 16)),
        5,
        channels_last=True,
    ),
    "LSTM": Twins(
        lambda: TorchLSTM(TOKENS, WIDTH),
        lambda: LSTM(TOKENS, WIDTH, rngs=nnx.Rngs(0)),
        lambda rng: rng.integers(0, TOKENS, (3, 5)),
        TOKENS,
    ),
}
