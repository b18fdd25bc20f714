"""Neuron selectivity transfer (Huang, Wang, 2017)."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.outputs import Views
from limbeck.functional.pooling import maps_only, same_size
from limbeck.functional.similarity import products, unit
from limbeck.losses.features.term import FeatureTerm


@final
class NST(FeatureTerm):
    """Squared maximum mean discrepancy between the channels of student and teacher, summed over the stages, per sample.

    A channel is a vector over the places of the map, brought to length 1; the kernel is k(x, y) = (x . y)^2. The larger map of
    a pair is average-pooled to the smaller.

    Args:
        student: Taps of the student, one map per stage.
        teacher: Taps of the teacher, as many; channels may differ.

    Shapes: maps [B, C, H, W] on each side -> [B].

    Raises:
        ShapeError: The features are no maps, or the two sides have different numbers of them.
        UsageError: There is no teacher, or no such feature.

    Reference: Huang, Wang, 2017, arXiv:1707.01219, sec. 3.2. Differs from the paper: only its polynomial kernel (d = 2, c = 0),
    the one with which it does best.

    >>> NST()
    NST()
    """

    def __init__(self, *, student: str = "layer?", teacher: str = "layer?") -> None:
        super().__init__(student, teacher)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        found = []
        for pair in self.stages(views):
            student, teacher = (unit(part.flatten(2)) for part in same_size(*(maps_only(side, "NST") for side in pair)))
            few = student.shape[2] < min(student.shape[1], teacher.shape[1])
            found.append((by_places if few else by_channels)(student, teacher))
        return torch.stack(found).sum(0)


def by_channels(student: Tensor, teacher: Tensor) -> Tensor:
    """The discrepancy of unit vectors [B, C, N] and [B, D, N] -> [B], by the mean of (x . y)^2 over all pairs of channels."""
    own, other, across = (
        products(one, two).square().mean((1, 2)) for one, two in ((student, student), (teacher, teacher), (student, teacher))
    )
    return own + other - 2 * across


def by_places(student: Tensor, teacher: Tensor) -> Tensor:
    """The same by pairs of places, for maps that have few of them: |mean x x' - mean y y'|^2 over the channels x and y."""
    own, other = (part.transpose(1, 2) for part in (student, teacher))
    return (products(own, own) / own.shape[2] - products(other, other) / other.shape[2]).square().sum((1, 2))
