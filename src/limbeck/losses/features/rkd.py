"""Relational knowledge distillation (Park et al., 2019)."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.align.taps import PENULTIMATE
from limbeck.core.checks import not_negative
from limbeck.core.outputs import Views
from limbeck.functional.similarity import differences, inverse_root, products, root
from limbeck.losses.features.term import FeatureTerm


@final
class RKD(FeatureTerm):
    """Sample i's share of distance D + angle A: smooth L1 between the batch's distances, and between its angles.

    D compares |x_i - x_j|, divided by their mean over the pairs that lie apart; A compares the cosine of the angle at x_i
    between x_j and x_k. Share i is the mean over j (and k) with sample i as the first end (the vertex).

    Args:
        distance: Weight of D, >= 0.
        angle: Weight of A, >= 0; 0 saves the B^3 angles.
        student: Tap of the student.
        teacher: Tap of the teacher; its width may differ.

    Shapes: features [B, D], [B, C, H, W] or [B, L, D] (pooled) on each side -> [B]. With fewer than 3 samples A is 0.

    Raises:
        ShapeError: The features are of another kind, or a tap stands for several.
        UsageError: An argument is out of range, there is no teacher, or no such feature.

    Reference: Park, Kim, Lu, Cho, 2019, arXiv:1904.05068, sec. 3.2; weights as in Tian et al., 2020, arXiv:1910.10699. Differs
    from the paper: means run over all B^2 pairs and B^3 triplets, those of a sample with itself too, as in the usual code.

    >>> RKD()
    RKD(distance=25, angle=50)
    """

    coupled = True
    says = ("distance", "angle")

    def __init__(
        self, distance: float = 25.0, angle: float = 50.0, *, student: str = PENULTIMATE, teacher: str = PENULTIMATE
    ) -> None:
        super().__init__(student, teacher)
        self.distance = not_negative(distance, "RKD: distance")
        self.angle = not_negative(angle, "RKD: angle")

    def forward(self, views: Views) -> Tensor:
        """Each anchor's share, [B]."""
        own, other = (differences(part) for part in self.vectors(views))
        squared, other_squared = own.square().sum(2), other.square().sum(2)
        value = self.distance * F.smooth_l1_loss(distances(squared), distances(other_squared), reduction="none").mean(1)
        if self.angle:
            gaps = F.smooth_l1_loss(angles(own, squared), angles(other, other_squared), reduction="none")
            value = value + self.angle * gaps.mean((1, 2))
        return value


def distances(squared: Tensor) -> Tensor:
    """|x_j - x_i| divided by its mean over the pairs that lie apart, of squares [B, B]."""
    found = root(squared)
    apart = (found > 0).sum()
    mean = found.sum() / apart.clamp(min=1)
    return found / torch.where(apart > 0, mean, 1)


def angles(gaps: Tensor, squared: Tensor) -> Tensor:
    """Cosine at x_i between x_j and x_k, of differences [B, B, D] and their squares -> [B, B, B]; 0 where j or k lies at i."""
    directions = gaps * inverse_root(squared).unsqueeze(2)
    return products(directions, directions)
