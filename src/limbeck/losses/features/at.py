"""Attention transfer (Zagoruyko, Komodakis, 2017)."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.checks import whole
from limbeck.core.outputs import Views
from limbeck.functional.pooling import maps_only, same_size
from limbeck.functional.similarity import unit
from limbeck.losses.features.term import FeatureTerm


@final
class AT(FeatureTerm):
    """Mean squared difference of the attention maps, summed over the stages, per sample.

    A map's attention is mean_c |f_c|^p over its channels, flattened and brought to length 1. The larger map of a pair is
    average-pooled to the smaller.

    Args:
        p: Power, a whole number of at least 1.
        student: Taps of the student, one map per stage.
        teacher: Taps of the teacher, as many; channels may differ.

    Shapes: maps [B, C, H, W] on each side -> [B].

    Raises:
        ShapeError: The features are no maps, or the two sides have different numbers of them.
        UsageError: p is no whole number above 0, there is no teacher, or no such feature.

    Reference: Zagoruyko, Komodakis, 2017, arXiv:1612.03928, sec. 3.1. Differs from the paper: as in the authors' code, the mean
    over the places of squared differences stands for the norm of the difference.

    >>> AT()
    AT(p=2)
    """

    says = ("p",)

    def __init__(self, p: int = 2, *, student: str = "layer?", teacher: str = "layer?") -> None:
        super().__init__(student, teacher)
        self.p = whole(p, "AT: p")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        found = []
        for pair in self.stages(views):
            student, teacher = (self.attention(part) for part in same_size(*(maps_only(side, "AT") for side in pair)))
            found.append((student - teacher).square().mean(1))
        return torch.stack(found).sum(0)

    def attention(self, features: Tensor) -> Tensor:
        """Where a map is large: [B, C, H, W] -> [B, H W], of length 1."""
        return unit(features.abs().pow(self.p).mean(1).flatten(1))
