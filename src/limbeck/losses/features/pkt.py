"""Probabilistic knowledge transfer (Passalis, Tefas, 2018)."""

from typing import final

import torch
from torch import Tensor

from limbeck.align.taps import PENULTIMATE
from limbeck.core.outputs import Views
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm

EPS = 1e-7
"""Added to every similarity, so that opposite vectors keep a probability above 0."""


@final
class PKT(FeatureTerm):
    """KL(p_i || q_i): whom sample i lies near, by the teacher's features and by the student's, in nats.

    p_i is the distribution over the other samples of the batch in proportion to (1 + cos(t_i, t_j)) / 2, and q_i the student's.

    Args:
        student: Tap of the student.
        teacher: Tap of the teacher; its width may differ.

    Shapes: features [B, D], [B, C, H, W] or [B, L, D] (pooled) on each side -> [B]. A sample alone in its batch has 0.

    Raises:
        ShapeError: The features are of another kind, or a tap stands for several.
        UsageError: There is no teacher, or no such feature.

    Reference: Passalis, Tefas, 2018, arXiv:1803.10837, sec. 3. Differs from the paper: a mean over the anchors, not a sum. The
    usual code averages over all B^2 pairs, the sample with itself too: its coefficient of 30,000 is about 30,000 / B here.

    >>> PKT()
    PKT()
    """

    coupled = True

    def __init__(self, *, student: str = PENULTIMATE, teacher: str = PENULTIMATE) -> None:
        super().__init__(student, teacher)

    def forward(self, views: Views) -> Tensor:
        """Each anchor's share, [B]."""
        student, teacher = self.vectors(views)
        others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
        log_p, log_q = log_neighbours(teacher, others), log_neighbours(student, others)
        return (others * log_p.exp() * (log_p - log_q)).sum(1)


def log_neighbours(vectors: Tensor, others: Tensor) -> Tensor:
    """Log-probabilities [B, B] of every sample's neighbours; what stands on the diagonal has no meaning."""
    directions = unit(vectors)
    near = (1 + products(directions, directions)) / 2 + EPS
    return near.clamp(min=EPS).log() - (near * others).sum(1, keepdim=True).clamp(min=EPS).log()
