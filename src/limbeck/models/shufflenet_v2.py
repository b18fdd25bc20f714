"""The ShuffleNet (version 2) of the benchmark papers."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from limbeck.models.layers import ChannelShuffle, Pool, conv_bn, image_channels
from limbeck.models.spec import Architecture, DataSpec

STEM, LAST = 24, 1024
WIDTHS = (116, 232, 464)
BLOCKS = (4, 8, 4)


class SplitUnit(nn.Module):
    """Half of the channels pass, the other half goes through 1x1, 3x3 depthwise and 1x1; both are stacked and shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1), conv_bn(half, half, 3, groups=half, relu=False), conv_bn(half, half, 1)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        passing, inner = images.chunk(2, 1)
        mixed: Tensor = self.shuffle(torch.cat([passing, self.branch(inner)], 1))
        return mixed


class HalvingUnit(nn.Module):
    """Two branches with stride 2 over all channels, stacked and shuffled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(conv_bn(inputs, inputs, 3, stride=2, groups=inputs, relu=False), conv_bn(inputs, half, 1))
        self.right = nn.Sequential(
            conv_bn(inputs, half, 1), conv_bn(half, half, 3, stride=2, groups=half, relu=False), conv_bn(half, half, 1)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]."""
        mixed: Tensor = self.shuffle(torch.cat([self.left(images), self.right(images)], 1))
        return mixed


@final
class ShuffleNet2(nn.Module):
    """1x1 stem, three layers (each starts by halving the image), 1x1 convolution to 1024 channels, pool, linear classifier."""

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = conv_bn(channels, STEM, 1)
        self.layer1 = _layer(STEM, WIDTHS[0], BLOCKS[0])
        self.layer2 = _layer(WIDTHS[0], WIDTHS[1], BLOCKS[1])
        self.layer3 = _layer(WIDTHS[1], WIDTHS[2], BLOCKS[2])
        self.last = conv_bn(WIDTHS[2], LAST, 1)
        self.pool = Pool()
        self.fc = nn.Linear(LAST, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        features = self.layer3(self.layer2(self.layer1(self.stem(inputs))))
        logits: Tensor = self.fc(self.pool(self.last(features)))
        return logits


def _layer(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(HalvingUnit(inputs, outputs), *(SplitUnit(outputs) for _ in range(blocks - 1)))


@final
@dataclass(frozen=True, repr=False)
class ShuffleNetV2(Architecture):
    """ShuffleNetV2 at width 1: 1.36 million parameters for 100 classes.

    Taps: `stem`, `layer1`, `layer2`, `layer3` (and each unit: `layer1.0`), `last`, `pool`, `fc`.

    Shapes: images [B, C, H, W] of at least 8x8 -> logits [B, classes].

    Reference: Ma, Zhang, Zheng, Sun, 2018, arXiv:1807.11164, table 5 (1x). Differs from the paper: a 1x1 stem without stride
    or pooling for 32x32 images, as in the tables of Tian et al., 2020, arXiv:1910.10699 (RepDistiller).
    """

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        return ShuffleNet2(channels=image_channels(spec, "ShuffleNetV2"), classes=spec.classes)
