"""Patches of one image pasted into another, with labels by area (Yun et al., 2019)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import fraction, positive
from limbeck.core.errors import ShapeError
from limbeck.transforms.mixup import draw_pairs, labelled


def boxes(share: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Where each image gets its patch: a box of about (1 - share) of the area, cut off at the borders.

    Shapes: [B] in [0, 1]; [B, 2] in [0, 1], the middle as fractions of height and width -> bool [B, height, width].
    """
    half = (1 - share).clamp(min=0).sqrt() / 2
    inside = []
    for size, middle in ((height, centres[:, 0]), (width, centres[:, 1])):
        low, high = ((middle - half) * size).round(), ((middle + half) * size).round()
        places = torch.arange(size, device=share.device)
        inside.append((places >= low[:, None]) & (places < high[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


@final
@dataclass(frozen=True)
class CutMix:
    """A box of image j is pasted into image i; the labels' shares are those of the areas, exactly.

    Args:
        alpha: Of the beta distribution of the area that stays, > 0.
        mixed: Share of the batch that is mixed, exactly, in [0, 1].

    Raises:
        UsageError: An argument is out of its range.

    Reference: Yun et al., 2019, arXiv:1905.04899. Differs from the paper: area and place are drawn per image, not per batch.

    >>> CutMix()
    CutMix(alpha=1.0, mixed=1.0)
    """

    alpha: float = 1.0
    mixed: float = 1.0

    def __post_init__(self) -> None:
        positive(self.alpha, "CutMix: alpha")
        fraction(self.mixed, "CutMix: mixed")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with other images.

        Raises:
            ShapeError: The batch holds no images [B, C, H, W].
        """
        if batch.inputs.dim() != 4:
            raise ShapeError(f"CutMix: images [B, C, H, W] are needed, got inputs {list(batch.inputs.shape)}; use MixUp.")
        partners, share = draw_pairs(len(batch), self.alpha, self.mixed, generator)
        pasted = boxes(share, torch.rand(len(batch), 2, generator=generator), *batch.inputs.shape[2:])
        stays = 1 - pasted.flatten(1).float().mean(1)
        device = batch.index.device
        partners, pasted, stays = partners.to(device), pasted.to(device), stays.to(device)
        images = torch.where(pasted.unsqueeze(1), batch.inputs[partners], batch.inputs)
        return labelled(batch, images, partners, stays)
