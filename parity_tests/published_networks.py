"""Convolutional and recurrent networks under their published names, and plain ones here."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array

from parity_tests.published import TWINS, Twins

CLASSES, SIDE = 5, 8


class TorchVGG(torch.nn.Module):
    """Convolutions in stages, and dense layers on the flattened map: as torchvision names it."""

    def __init__(self, width: int):
        super().__init__()
        layers: list[torch.nn.Module] = []
        for inputs, features in ((3, width), (width, 2 * width)):
            for n in (inputs, features):
                layers += [torch.nn.Conv2d(n, features, 3, padding=1), torch.nn.ReLU()]
            layers.append(torch.nn.MaxPool2d(2, 2))
        self.features = torch.nn.Sequential(*layers)
        flat = 2 * width * (SIDE // 4) * (SIDE // 2)
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(flat, flat),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(flat, flat),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(flat, CLASSES),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class VGG(nnx.Module):
    """The same here."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        sizes = [(3, width), (width, width), (width, 2 * width), (2 * width, 2 * width)]
        self.features = nnx.List(nnx.Conv(*pair, (3, 3), rngs=rngs) for pair in sizes)
        flat = 2 * width * (SIDE // 4) * (SIDE // 2)
        outputs = (flat, flat, CLASSES)
        self.classifier = nnx.List(nnx.Linear(flat, n, rngs=rngs) for n in outputs)

    def __call__(self, x: Array) -> Array:
        for i, conv in enumerate(self.features):
            x = jax.nn.relu(conv(x))
            x = nnx.max_pool(x, (2, 2), (2, 2)) if i % 2 else x
        x = x.reshape(len(x), -1)
        for dense in self.classifier[:-1]:
            x = jax.nn.relu(dense(x))
        return self.classifier[-1](x)


def _twice(inputs: int, features: int) -> torch.nn.Sequential:
    """Two convolutions, each with a batch norm: the `DoubleConv` of most U-Nets."""
    layers: list[torch.nn.Module] = []
    for n in (inputs, features):
        layers += [
            torch.nn.Conv2d(n, features, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(features),
            torch.nn.ReLU(),
        ]
    return torch.nn.Sequential(*layers)


class TorchUNet(torch.nn.Module):
    """Down twice and up twice, each way up joined by what came before the way down."""

    def __init__(self, width: int):
        super().__init__()
        self.inc = _twice(3, width)
        self.down1 = torch.nn.Sequential(torch.nn.MaxPool2d(2), _twice(width, 2 * width))
        self.down2 = torch.nn.Sequential(torch.nn.MaxPool2d(2), _twice(2 * width, 4 * width))
        self.up1 = torch.nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.conv1 = _twice(4 * width, 2 * width)
        self.up2 = torch.nn.ConvTranspose2d(2 * width, width, 3, 2, padding=1, output_padding=1)
        self.conv2 = _twice(2 * width, width)
        self.outc = torch.nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.inc(x)
        middle = self.down1(top)
        x = self.conv1(torch.cat([middle, self.up1(self.down2(middle))], 1))
        x = self.outc(self.conv2(torch.cat([top, self.up2(x)], 1)))
        return x.movedim(1, -1)


class Twice(nnx.Module):
    """Two convolutions, each with a batch norm."""

    def __init__(self, inputs: int, features: int, rngs: nnx.Rngs):
        sizes = ((inputs, features), (features, features))
        self.convs = nnx.List(nnx.Conv(*n, (3, 3), use_bias=False, rngs=rngs) for n in sizes)
        self.norms = nnx.List(nnx.BatchNorm(features, momentum=0.9, rngs=rngs) for _ in sizes)

    def __call__(self, x: Array) -> Array:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        return x


class UNet(nnx.Module):
    """The same here."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.inc = Twice(3, width, rngs)
        self.down1 = Twice(width, 2 * width, rngs)
        self.down2 = Twice(2 * width, 4 * width, rngs)
        up: dict[str, Any] = {"strides": (2, 2), "rngs": rngs}
        self.up1 = nnx.ConvTranspose(4 * width, 2 * width, (2, 2), padding="VALID", **up)
        self.conv1 = Twice(4 * width, 2 * width, rngs)
        # Zeros around the spread-out input: 3 - 1 - padding before, output_padding more behind.
        zeros = ((1, 2), (1, 2))
        self.up2 = nnx.ConvTranspose(2 * width, width, (3, 3), padding=zeros, **up)
        self.conv2 = Twice(2 * width, width, rngs)
        self.outc = nnx.Conv(width, CLASSES, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        top = self.inc(x)
        middle = self.down1(_halved(top))
        x = self.conv1(jnp.concatenate([middle, self.up1(self.down2(_halved(middle)))], -1))
        return self.outc(self.conv2(jnp.concatenate([top, self.up2(x)], -1)))


def _halved(x: Array) -> Array:
    return nnx.max_pool(x, (2, 2), (2, 2))


NETWORKS: dict[str, Twins] = {
    "VGG": Twins(
        lambda: TorchVGG(2),
        lambda: VGG(2, nnx.Rngs(0)),
        lambda rng: rng.standard_normal((2, 3, SIDE, 2 * SIDE)),
        CLASSES,
        {"classifier.0": ("classifier/0", "flatten 4,2,4")},
        channels_last=True,
    ),
    "U-Net": Twins(
        lambda: TorchUNet(2),
        lambda: UNet(2, nnx.Rngs(0)),
        lambda rng: rng.standard_normal((2, 3, SIDE, SIDE)),
        CLASSES,
        channels_last=True,
    ),
    "ResNet": TWINS["ResNet"],
    "LSTM": TWINS["LSTM"],
}
