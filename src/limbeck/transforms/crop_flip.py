"""Shifted and mirrored images, the usual augmentation of the CIFAR papers. Knows nothing of labels."""

from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import whole
from limbeck.core.errors import ShapeError


def crop_flip(images: Tensor, shifts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad each image with 0 on all sides, cut its own window of the old size, and mirror it left to right where said.

    After channel-wise normalisation 0 is the mean colour, so the border is grey; the papers pad before it, with black.

    Shapes: [B, C, H, W]; int64 [B, 2] in 0 to 2 * padding, the window's top and left (`padding` is the middle: no shift);
    bool [B] -> [B, C, H, W].
    """
    count, channels, height, width = images.shape
    device = images.device
    padded = F.pad(images, [padding] * 4)
    rows = shifts[:, :1] + torch.arange(height, device=device)
    columns = shifts[:, 1:] + torch.arange(width, device=device)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    sample, channel = torch.arange(count, device=device), torch.arange(channels, device=device)
    return padded[sample[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]


@final
@dataclass(frozen=True)
class CropFlip:
    """Every image of a batch shifted at random by at most `padding` pixels each way, and half of them mirrored.

    Args:
        padding: The largest shift, at least 0 and below half of the image's shorter side. 0: no shift.
        flip: Mirror half of the images; false for digits and letters.

    Raises:
        UsageError: padding is no whole number of at least 0.

    Reference: He et al., 2016, arXiv:1512.03385, sec. 4.2. Differs: pads with the mean colour, as said at `crop_flip`.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        whole(self.padding, "CropFlip: padding", least=0)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with other images.

        Raises:
            ShapeError: The batch holds no images [B, C, H, W], or such small ones that half of one can be cut away.
        """
        if batch.inputs.dim() != 4:
            raise ShapeError(
                f"CropFlip: images [B, C, H, W] are needed, got inputs {list(batch.inputs.shape)}; leave the transform out."
            )
        height, width = batch.inputs.shape[2:]
        if 2 * self.padding >= min(height, width):
            raise ShapeError(
                f"CropFlip: padding={self.padding} can cut away half of an image of {height} x {width}; "
                f"take at most padding={(min(height, width) - 1) // 2}."
            )
        shifts = torch.randint(0, 2 * self.padding + 1, (len(batch), 2), generator=generator)
        flips = (torch.rand(len(batch), generator=generator) < 0.5) & self.flip
        device = batch.inputs.device
        return replace(batch, inputs=crop_flip(batch.inputs, shifts.to(device), flips.to(device), self.padding))
