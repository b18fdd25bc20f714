"""Correlation congruence (Peng et al., 2019)."""

import math
from typing import final

import torch
from torch import Tensor

from limbeck.align.taps import PENULTIMATE
from limbeck.core.checks import positive, whole
from limbeck.core.outputs import Views
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm


@final
class CC(FeatureTerm):
    """Sample i's share of |K_s - K_t|^2 / B^2, with K the batch's Gaussian kernel cut after some powers of its Taylor series.

    k(x, y) = sum over p up to `order` of exp(-2 gamma) (2 gamma)^p / p! (x . y)^p for features of length 1, whose limit is
    exp(-gamma |x - y|^2). Share i is sum_j (K_s - K_t)_ij^2 / B.

    Args:
        gamma: Of the kernel, > 0.
        order: Highest power, at least 1.
        student: Tap of the student.
        teacher: Tap of the teacher; its width may differ.

    Shapes: features [B, D], [B, C, H, W] or [B, L, D] (pooled) on each side -> [B].

    Raises:
        ShapeError: The features are of another kind, or a tap stands for several.
        UsageError: An argument is out of range, there is no teacher, or no such feature.

    Reference: Peng et al., 2019, arXiv:1904.01802, sec. 3.2. Differs from the paper: no trained embedding on either side (its
    kernel needs no equal widths, and a trained embedding of the teacher can make the loss vanish by collapsing); batches are
    drawn uniformly, not by class or cluster. The usual code has another loss under this name: products of differences between
    neighbours in the batch.

    >>> CC()
    CC(gamma=0.4, order=2)
    """

    coupled = True
    says = ("gamma", "order")

    def __init__(self, gamma: float = 0.4, order: int = 2, *, student: str = PENULTIMATE, teacher: str = PENULTIMATE) -> None:
        super().__init__(student, teacher)
        self.gamma = positive(gamma, "CC: gamma")
        self.order = whole(order, "CC: order")

    def forward(self, views: Views) -> Tensor:
        """Each anchor's share, [B]."""
        student, teacher = (gaussian_kernel(part, self.gamma, self.order) for part in self.vectors(views))
        return (student - teacher).square().mean(1)


def gaussian_kernel(vectors: Tensor, gamma: float, order: int) -> Tensor:
    """exp(-gamma |x_i - x_j|^2) of directions, its Taylor series in x_i . x_j up to a power: [B, D] -> [B, B]."""
    directions = unit(vectors)
    cosines = products(directions, directions)
    value = torch.ones_like(cosines)
    for power in range(order, 0, -1):  # Horner
        value = 1 + value * cosines * (2 * gamma / power)
    return math.exp(-2 * gamma) * value
