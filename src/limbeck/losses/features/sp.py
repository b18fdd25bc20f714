"""Similarity-preserving distillation (Tung, Mori, 2019)."""

from typing import final

from torch import Tensor

from limbeck.align.taps import PENULTIMATE
from limbeck.core.outputs import Views
from limbeck.functional.pooling import pooled
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm


@final
class SP(FeatureTerm):
    """Sample i's share of |G_s - G_t|^2 / B^2, with G = F F^T over the batch and each row of G brought to length 1.

    Share i is sum_j (G_s - G_t)_ij^2 / B, so that the mean over the samples is the paper's loss. Maps are flattened, tokens
    averaged.

    Args:
        student: Tap of the student.
        teacher: Tap of the teacher; its width may differ.

    Shapes: features [B, D], [B, C, H, W], or [B, L, D] with batch.mask [B, L], on each side -> [B].

    Raises:
        ShapeError: The features are of another kind, or a tap stands for several.
        UsageError: There is no teacher, or no such feature.

    Reference: Tung, Mori, 2019, arXiv:1907.09682, sec. 3. Differs from the paper: the default tap is the pooled feature, which
    every net has; the paper's is the last map, `SP(student="layer3", teacher="layer3")` for a CIFAR ResNet.

    >>> SP()
    SP()
    """

    coupled = True

    def __init__(self, *, student: str = PENULTIMATE, teacher: str = PENULTIMATE) -> None:
        super().__init__(student, teacher)

    def forward(self, views: Views) -> Tensor:
        """Each anchor's share, [B]."""
        mask = views.batch.mask
        flat = [part.flatten(1) if part.dim() == 4 else pooled(part, mask, "SP") for part in self.stage(views)]
        student, teacher = (unit(products(part, part)) for part in flat)
        return (student - teacher).square().mean(1)
