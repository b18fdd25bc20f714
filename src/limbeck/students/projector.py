"""The projector of SimKD: from the student's features to the teacher's, kept at inference. Knows nothing of losses."""

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Three steps, each followed by batch normalisation and ReLU: down to `width / ratio`, across (3x3 on maps), up to `width`.

    Args:
        features: Some of the student's, vectors [B, D] or maps [B, C, H, W].
        width: Channels of the teacher's.
        ratio: How much narrower the middle is, >= 1.
        size: Height and width of the teacher's map; a larger one of the student is averaged down to it first.

    Shapes: [B, D] -> [B, width] or [B, C, H, W] -> [B, width, H', W'].

    Reference: Chen et al., 2022, arXiv:2203.14001, sec. 3.2. Differs: vectors have linear layers in the place of convolutions.
    """

    def __init__(self, features: Tensor, width: int, ratio: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        channels, middle, maps = features.shape[1], max(width // ratio, 1), features.dim() == 4
        self.size = size if size is not None and features[0, 0].numel() > size[0] * size[1] else None
        widths = [(channels, middle), (middle, middle), (middle, width)]
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(widths):
            if maps:
                kernel = 3 if number == 1 else 1
                layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
            else:
                layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)]
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Features like the teacher's."""
        if self.size is not None:
            features = F.adaptive_avg_pool2d(features, self.size)
        projected: Tensor = self.layers(features)
        return projected
