"""The VGG nets of the benchmark papers, with batch normalisation."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.models.layers import Pool, he_initialise, image_channels
from limbeck.models.spec import Architecture, DataSpec

WIDTHS = (64, 128, 256, 512, 512)


@final
class VGGNet(nn.Module):
    """Five layers of 3x3 convolutions with batch normalisation; the first three end by halving the image; pool, classifier."""

    def __init__(self, convolutions: int, *, channels: int, classes: int) -> None:
        super().__init__()
        self.layer1 = _layer(channels, WIDTHS[0], convolutions)
        self.layer2 = _layer(WIDTHS[0], WIDTHS[1], convolutions)
        self.layer3 = _layer(WIDTHS[1], WIDTHS[2], convolutions)
        self.layer4 = _layer(WIDTHS[2], WIDTHS[3], convolutions)
        self.layer5 = _layer(WIDTHS[3], WIDTHS[4], convolutions)
        self.halve = nn.MaxPool2d(2)
        self.pool = Pool()
        self.fc = nn.Linear(WIDTHS[4], classes)
        he_initialise(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        features = self.halve(self.layer1(inputs))
        features = self.halve(self.layer2(features))
        features = self.halve(self.layer3(features))
        logits: Tensor = self.fc(self.pool(self.layer5(self.layer4(features))))
        return logits


def _layer(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(convolutions):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*parts)


@dataclass(frozen=True, repr=False)
class CifarVGG(Architecture):
    """What the VGG nets for small images share.

    Taps: `layer1` ... `layer5` (before the image is halved), `pool`, `fc`.

    Shapes: images [B, C, H, W] of at least 8x8 -> logits [B, classes].

    Reference: Simonyan, Zisserman, 2015, arXiv:1409.1556, table 1. Differs from the paper: batch normalisation, one linear
    classifier on the pooled features, and three halvings of the 32x32 image, as in the tables of Tian et al., 2020,
    arXiv:1910.10699 (RepDistiller), whose parameter counts these nets have.
    """

    convolutions: ClassVar[int]

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        channels = image_channels(spec, type(self).__name__)
        return VGGNet(self.convolutions, channels=channels, classes=spec.classes)


@final
@dataclass(frozen=True, repr=False)
class VGG8(CifarVGG):
    """VGG-8, one convolution a layer: 3.97 million parameters for 100 classes. See `CifarVGG`."""

    convolutions = 1


@final
@dataclass(frozen=True, repr=False)
class VGG13(CifarVGG):
    """VGG-13, two convolutions a layer: 9.46 million parameters for 100 classes. See `CifarVGG`."""

    convolutions = 2
