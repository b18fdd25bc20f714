"""An augmentation whose strength is learnt: differentiable in its parameters and in the images. Knows nothing of losses."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import ShapeError

BOUNDS = (math.pi / 4, math.log(1.4), 0.25, 0.25, 0.5, 0.5)
"""Largest turn to the left (45 degrees), log of the scale (1.4), shifts down and right (a quarter), log of the gain, bias."""


def moved(images: Tensor, amounts: Tensor) -> Tensor:
    """Each image turned, scaled, shifted, and its values scaled and shifted; 0 everywhere is the identity.

    Args:
        images: [B, C, H, W]; what comes in from beyond the border is 0.
        amounts: [B, 6] in the order and the units of `BOUNDS`; shifts as fractions of the image.

    Shapes: [B, C, H, W] -> the same.
    """
    turn, zoom, down, right, gain, bias = amounts.unbind(1)
    height, width = images.shape[2:]
    cos, sin = turn.cos() / zoom.exp(), turn.sin() / zoom.exp()
    # A sampled point is where the output pixel comes from, in units of half the image: shifts count twice, with a minus.
    rows = [
        torch.stack([cos, -sin * height / width, -2 * right], 1),
        torch.stack([sin * width / height, cos, -2 * down], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    sampled = F.grid_sample(images, grid, align_corners=False)
    return sampled * gain.exp().view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


class Augmentor(nn.Module):
    """Draws, per image, amounts (centre + spread u) bounds with u uniform in [-1, 1]; centre and spread are learnt.

    Both begin at 0, where it is the identity, and are kept in [-1, 1] by `project`; the amounts never leave their bounds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(len(BOUNDS)))
        self.spread = nn.Parameter(torch.zeros(len(BOUNDS)))

    def forward(self, images: Tensor, u: Tensor) -> Tensor:
        """Other images.

        Args:
            images: [B, C, H, W].
            u: [B, 6] in [-1, 1], drawn by the caller.

        Raises:
            ShapeError: These are no images.
        """
        if images.dim() != 4:
            raise ShapeError(f"HARD: images [B, C, H, W] are needed, got inputs {list(images.shape)}; use step: Student().")
        bounds = torch.tensor(BOUNDS, dtype=images.dtype, device=images.device)
        return moved(images, (self.centre + self.spread * u).clamp(-1, 1).to(images.dtype) * bounds)

    @torch.no_grad()
    def project(self) -> None:
        """Bring the parameters back to their box."""
        for part in self.parameters():
            part.clamp_(-1, 1)
