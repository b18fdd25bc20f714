"""Images in the colours of others (Tang et al., 2023)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import positive
from limbeck.core.errors import ShapeError
from limbeck.transforms.mixup import draw_pairs

EPS = 1e-6
"""Added to every variance, as in the authors' code."""


def mixed_distribution(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """(x - mu) / sigma * (share sigma + (1 - share) sigma') + share mu + (1 - share) mu', channel by channel.

    mu and sigma are mean and standard deviation of a channel over its pixels (divisor HW - 1), the primed ones those of the
    partner's.

    Shapes: [B, C, H, W]; int64 [B]; [B] in [0, 1] -> [B, C, H, W].
    """
    var, mean = torch.var_mean(images, (2, 3), keepdim=True)
    std, share = (var + EPS).sqrt(), share.to(images.dtype).view(-1, 1, 1, 1)
    return (images - mean) / std * torch.lerp(std[partners], std, share) + torch.lerp(mean[partners], mean, share)


@final
@dataclass(frozen=True)
class MixDistribution:
    """Each image with the channels' means and deviations moved towards those of another; what it shows, and its label, stay.

    Args:
        alpha: Of the beta distribution that the share of the image's own is drawn from, > 0; 0.1 mostly keeps or swaps.

    Raises:
        UsageError: alpha is not above 0.

    Reference: Tang et al., 2023, arXiv:2307.11469 (KD^3), and its code. Differs from the paper: it stands in the place of the
    images as they were, where the paper compares both by a contrastive loss.

    >>> MixDistribution()
    MixDistribution(alpha=0.1)
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        positive(self.alpha, "MixDistribution: alpha")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with other images.

        Raises:
            ShapeError: The batch holds no images [B, C, H, W] of two pixels or more.
        """
        if batch.inputs.dim() != 4 or batch.inputs[0, 0].numel() < 2:
            raise ShapeError(
                f"MixDistribution: images [B, C, H, W] are needed, got {list(batch.inputs.shape)}; leave the transform out."
            )
        partners, share = (part.to(batch.index.device) for part in draw_pairs(len(batch), self.alpha, 1.0, generator))
        return replace(batch, inputs=mixed_distribution(batch.inputs, partners, share))
