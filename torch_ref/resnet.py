"""ResNets of two convolutions a block, with the names of the published checkpoints."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """A ResNet of basic blocks: ResNet-18 with `widths` (64, 128, 256, 512) and two blocks each.

    Its `state_dict` has the names of torchvision's `resnet18`.

    Args:
      out_features: number of classes.
      widths: features of the stages; each stage after the first halves the image.
      blocks: number of blocks of each stage.

    Examples:
      >>> import torch
      >>> ResNet(10, widths=(4, 8), blocks=1)(torch.ones(2, 3, 32, 32)).shape
      torch.Size([2, 10])

    References:
      He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, Table 1.
    """

    def __init__(
        self, out_features: int, *, widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 2
    ) -> None:
        """Allocate and draw the parameters."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = [
                _Block(inputs if j == 0 else outputs, outputs, stride=2 if i and not j else 1)
                for j in range(blocks)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(widths[-1], out_features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, out_features) of images (batch, 3, height, width)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(x.mean((-2, -1)))


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.downsample(x))
