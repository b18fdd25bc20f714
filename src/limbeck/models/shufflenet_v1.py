"""The ShuffleNet (version 1) of the benchmark papers."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.models.layers import ChannelShuffle, Pool, conv_bn, image_channels
from limbeck.models.spec import Architecture, DataSpec

GROUPS = 3
STEM = 24
WIDTHS = (240, 480, 960)
BLOCKS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, channel shuffle, 3x3 depthwise convolution, grouped 1x1 convolution, around a shortcut.

    With stride 1 the input is added; with stride 2 its 3x3 mean is stacked onto the new channels.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        added = outputs - inputs if stride == 2 else outputs
        inner = added // 4
        groups = 1 if inputs == STEM else GROUPS  # the stem has too few channels to group
        self.reduce = conv_bn(inputs, inner, 1, groups=groups)
        self.shuffle = ChannelShuffle(groups)
        self.depthwise = conv_bn(inner, inner, 3, stride=stride, groups=inner)
        self.expand = conv_bn(inner, added, 1, groups=GROUPS, relu=False)
        self.halve = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        inner: Tensor = self.expand(self.depthwise(self.shuffle(self.reduce(images))))
        return F.relu(images + inner if self.halve is None else torch.cat([inner, self.halve(images)], 1))


@final
class ShuffleNet1(nn.Module):
    """1x1 stem, three layers of shuffle units (each starts by halving the image), pool, linear classifier."""

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = conv_bn(channels, STEM, 1)
        self.layer1 = _layer(STEM, WIDTHS[0], BLOCKS[0])
        self.layer2 = _layer(WIDTHS[0], WIDTHS[1], BLOCKS[1])
        self.layer3 = _layer(WIDTHS[1], WIDTHS[2], BLOCKS[2])
        self.pool = Pool()
        self.fc = nn.Linear(WIDTHS[2], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.fc(self.pool(self.layer3(self.layer2(self.layer1(self.stem(inputs))))))
        return logits


def _layer(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        ShuffleUnit(inputs, outputs, stride=2), *(ShuffleUnit(outputs, outputs, stride=1) for _ in range(blocks - 1))
    )


@final
@dataclass(frozen=True, repr=False)
class ShuffleNetV1(Architecture):
    """ShuffleNet with 3 groups: 0.95 million parameters for 100 classes.

    Taps: `stem`, `layer1`, `layer2`, `layer3` (and each unit: `layer1.0`), `pool`, `fc`.

    Shapes: images [B, C, H, W] of at least 8x8 -> logits [B, classes].

    Reference: Zhang, Zhou, Lin, Sun, 2018, arXiv:1707.01083, table 1 (g = 3). Differs from the paper: a 1x1 stem without
    stride or pooling for 32x32 images, a unit's inner channels are a quarter of those it adds, and a ReLU follows the
    depthwise convolution, as in the tables of Tian et al., 2020, arXiv:1910.10699 (RepDistiller).
    """

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        return ShuffleNet1(channels=image_channels(spec, "ShuffleNetV1"), classes=spec.classes)
