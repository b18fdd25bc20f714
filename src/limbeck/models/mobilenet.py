"""The half-width MobileNetV2 of the benchmark papers."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from limbeck.models.layers import Pool, conv_bn, he_initialise, image_channels
from limbeck.models.spec import Architecture, DataSpec

EXPANSION = 6
STEM, LAST = 16, 1280
LAYERS = (
    # expansion, channels, blocks, stride of the first block
    ((1, 8, 1, 1), (EXPANSION, 12, 2, 1)),
    ((EXPANSION, 16, 3, 2),),
    ((EXPANSION, 32, 4, 2), (EXPANSION, 48, 3, 1)),
    ((EXPANSION, 80, 3, 2), (EXPANSION, 160, 1, 1)),
)
"""Channels are half of the paper's table 2; one row of blocks with stride 2 starts each layer after the first."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection without activation; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = conv_bn(hidden, outputs, 1, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        inner: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + inner if self.residual else inner


@final
class MobileNet(nn.Module):
    """Stem with stride 2, four layers of inverted residuals, 1x1 convolution to 1280 channels, pool, linear classifier."""

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = conv_bn(channels, STEM, 3, stride=2)
        inputs, layers = STEM, []
        for rows in LAYERS:
            blocks = []
            for expansion, outputs, count, stride in rows:
                for number in range(count):
                    first = stride if number == 0 else 1
                    blocks.append(InvertedResidual(inputs, outputs, stride=first, expansion=expansion))
                    inputs = outputs
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.last = conv_bn(inputs, LAST, 1)
        self.pool = Pool()
        self.fc = nn.Linear(LAST, classes)
        he_initialise(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        features = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(inputs)))))
        logits: Tensor = self.fc(self.pool(self.last(features)))
        return logits


@final
@dataclass(frozen=True, repr=False)
class MobileNetV2(Architecture):
    """MobileNetV2 at half width with expansion 6: 0.81 million parameters for 100 classes.

    Taps: `stem`, `layer1` ... `layer4` (each ends before the image is halved again; and each block: `layer1.0`), `last`,
    `pool`, `fc`.

    Shapes: images [B, C, H, W] of at least 8x8 -> logits [B, classes].

    Reference: Sandler et al., 2018, arXiv:1801.04381, table 2. Differs from the paper: for 32x32 images the first 24-channel
    (here 12-channel) block keeps its stride at 1, and the first block has a 1x1 expansion too, as in the tables of Tian et
    al., 2020, arXiv:1910.10699 (RepDistiller's mobile_half), and ReLU stands for ReLU6 there.
    """

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        return MobileNet(channels=image_channels(spec, "MobileNetV2"), classes=spec.classes)
