"""Wide residual nets for CIFAR."""

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.checks import fraction, whole
from limbeck.core.errors import UsageError
from limbeck.models.layers import Pool, convolution, he_initialise, image_channels
from limbeck.models.spec import Architecture, DataSpec


class PreactivationBlock(nn.Module):
    """conv(drop(relu(bn(conv(a))))) + shortcut, with a = relu(bn(x)).

    The shortcut is x itself, or a 1x1 convolution of the activated a where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride=stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.drop: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = convolution(outputs, outputs, 3)
        self.shortcut = None if stride == 1 and inputs == outputs else convolution(inputs, outputs, 1, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        active = F.relu(self.norm1(images))
        inner: Tensor = self.conv2(self.drop(F.relu(self.norm2(self.conv1(active)))))
        return inner + (images if self.shortcut is None else self.shortcut(active))


@final
class WideResNet(nn.Module):
    """Stem, three layers of pre-activation blocks, final normalisation and ReLU, pool, linear classifier."""

    def __init__(self, blocks: int, width: int, *, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        sizes = (16, 16 * width, 32 * width, 64 * width)
        self.stem = convolution(channels, sizes[0], 3)
        self.layer1 = _layer(sizes[0], sizes[1], blocks, stride=1, dropout=dropout)
        self.layer2 = _layer(sizes[1], sizes[2], blocks, stride=2, dropout=dropout)
        self.layer3 = _layer(sizes[2], sizes[3], blocks, stride=2, dropout=dropout)
        self.last = nn.Sequential(nn.BatchNorm2d(sizes[3]), nn.ReLU())
        self.pool = Pool()
        self.fc = nn.Linear(sizes[3], classes)
        he_initialise(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        features = self.layer3(self.layer2(self.layer1(self.stem(inputs))))
        logits: Tensor = self.fc(self.pool(self.last(features)))
        return logits


def _layer(inputs: int, outputs: int, blocks: int, *, stride: int, dropout: float) -> nn.Sequential:
    first = PreactivationBlock(inputs, outputs, stride=stride, dropout=dropout)
    return nn.Sequential(first, *(PreactivationBlock(outputs, outputs, stride=1, dropout=dropout) for _ in range(blocks - 1)))


@final
@dataclass(frozen=True, repr=False)
class WRN(Architecture):
    """Wide residual net WRN-depth-width.

    For 100 classes WRN(16, 2) has 0.70, WRN(40, 1) 0.57 and WRN(40, 2) 2.26 million parameters.

    Taps: `stem`, `layer1`, `layer2`, `layer3` (before the activation; and each block: `layer1.0`), `last` (the activated
    third layer), `pool`, `fc`.

    Args:
        depth: 6n + 4 with n blocks in each of three layers: 10, 16, 22, 28, 40, ...
        width: Factor of the channels 16, 32, 64.
        dropout: Probability in [0, 1) of dropping an activation between a block's convolutions.

    Shapes: images [B, C, H, W] of at least 8x8 -> logits [B, classes].

    Raises:
        UsageError: A value is out of its range.

    Reference: Zagoruyko, Komodakis, 2016, arXiv:1605.07146, table 1. Differs from the paper: no.
    """

    depth: int = 16
    width: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if whole(self.depth, "WRN: depth", least=10) % 6 != 4:
            raise UsageError(f"WRN: depth must be 6n + 4 (10, 16, 22, 28, 40), got {self.depth}.")
        whole(self.width, "WRN: width")
        if fraction(self.dropout, "WRN: dropout") == 1:
            raise UsageError("WRN: dropout must be below 1, since 1 drops everything.")

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        channels = image_channels(spec, "WRN")
        return WideResNet((self.depth - 4) // 6, self.width, channels=channels, classes=spec.classes, dropout=self.dropout)

    def __repr__(self) -> str:
        tail = f", dropout={self.dropout!r}" if self.dropout else ""
        return f"WRN(depth={self.depth}, width={self.width}{tail})"
