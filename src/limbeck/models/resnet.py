"""The CIFAR ResNets of the benchmark papers."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.models.layers import Norm, Pool, convolution, he_initialise, image_channels, norm_name, normalisation
from limbeck.models.spec import Architecture, DataSpec

NARROW = (16, 16, 32, 64)
TIMES_FOUR = (32, 64, 128, 256)


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), both convolutions 3x3, the first with the stride.

    The shortcut is the identity, or a 1x1 convolution with normalisation where the shape changes (option B of the paper).
    No operation is in place, so that hooks and forward-mode differentiation see every value.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride=stride)
        self.norm1 = normalisation(norm, outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.norm2 = normalisation(norm, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(convolution(inputs, outputs, 1, stride=stride), normalisation(norm, outputs))
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        inner = F.relu(self.norm1(self.conv1(images)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(images))


@final
class ResNet(nn.Module):
    """Stem, three layers of basic blocks (the second and third halve the image), pool, linear classifier."""

    def __init__(self, blocks: int, widths: tuple[int, int, int, int], *, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        stem, first, second, third = widths
        self.stem = nn.Sequential(convolution(channels, stem, 3), normalisation(norm, stem), nn.ReLU())
        self.layer1 = _layer(stem, first, blocks, stride=1, norm=norm)
        self.layer2 = _layer(first, second, blocks, stride=2, norm=norm)
        self.layer3 = _layer(second, third, blocks, stride=2, norm=norm)
        self.pool = Pool()
        self.fc = nn.Linear(third, classes)
        he_initialise(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        features = self.layer3(self.layer2(self.layer1(self.stem(inputs))))
        logits: Tensor = self.fc(self.pool(features))
        return logits


def _layer(inputs: int, outputs: int, blocks: int, *, stride: int, norm: Norm) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride=stride, norm=norm)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, stride=1, norm=norm) for _ in range(blocks - 1)))


@dataclass(frozen=True, repr=False)
class CifarResNet(Architecture):
    """What the CIFAR ResNets share: depth 6n + 2 with n blocks in each of three layers.

    Taps: `stem`, `layer1`, `layer2`, `layer3` (and each block: `layer1.0`), `pool`, `fc`.

    Args:
        norm: "batch" normalisation as in the paper, or "group" normalisation, which keeps the samples of a batch apart.

    Shapes: images [B, C, H, W] of at least 8x8 -> logits [B, classes].

    Reference: He, Zhang, Ren, Sun, 2016, arXiv:1512.03385, sec. 4.2. Differs from the paper: 1x1 convolutions as shortcuts
    (option B), as in the tables of Tian et al., 2020, arXiv:1910.10699 (RepDistiller), whose parameter counts these nets have.
    """

    blocks: ClassVar[int]
    widths: ClassVar[tuple[int, int, int, int]] = NARROW

    norm: str = "batch"

    def __post_init__(self) -> None:
        norm_name(self.norm, type(self).__name__)

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        name = type(self).__name__
        channels, norm = image_channels(spec, name), norm_name(self.norm, name)
        return ResNet(self.blocks, self.widths, channels=channels, classes=spec.classes, norm=norm)


@final
@dataclass(frozen=True, repr=False)
class ResNet8(CifarResNet):
    """ResNet-8: 0.08 million parameters for 100 classes, small enough to try things on a CPU. See `CifarResNet`."""

    blocks = 1


@final
@dataclass(frozen=True, repr=False)
class ResNet20(CifarResNet):
    """ResNet-20: 0.28 million parameters for 100 classes. See `CifarResNet`."""

    blocks = 3


@final
@dataclass(frozen=True, repr=False)
class ResNet32(CifarResNet):
    """ResNet-32: 0.47 million parameters for 100 classes. See `CifarResNet`."""

    blocks = 5


@final
@dataclass(frozen=True, repr=False)
class ResNet56(CifarResNet):
    """ResNet-56: 0.86 million parameters for 100 classes. See `CifarResNet`."""

    blocks = 9


@final
@dataclass(frozen=True, repr=False)
class ResNet110(CifarResNet):
    """ResNet-110: 1.74 million parameters for 100 classes. See `CifarResNet`."""

    blocks = 18


@final
@dataclass(frozen=True, repr=False)
class ResNet8x4(CifarResNet):
    """ResNet-8 with four times the channels: 1.23 million parameters for 100 classes. See `CifarResNet`."""

    blocks = 1
    widths = TIMES_FOUR


@final
@dataclass(frozen=True, repr=False)
class ResNet32x4(CifarResNet):
    """ResNet-32 with four times the channels: 7.43 million parameters for 100 classes. See `CifarResNet`."""

    blocks = 5
    widths = TIMES_FOUR
