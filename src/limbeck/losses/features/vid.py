"""Variational information distillation (Ahn et al., 2019)."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.align.projectors import channels, perceptron
from limbeck.core.checks import positive
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Scene
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import element_mean, same_size
from limbeck.losses.features.term import FeatureTerm, same_kind

EPS = 1e-5
"""The least variance."""


@final
class VID(FeatureTerm):
    """Mean of ((mu(f_s) - f_t)^2 / var + log var) / 2 over a feature's elements, summed over the stages, per sample.

    It is the negative log-likelihood, without its constant, of the teacher's feature under a Gaussian whose mean is read off the
    student's by three pointwise layers and whose variance, one per channel, is trained too: a lower bound on what the two share.
    It can be below 0.

    Args:
        variance: At the start, above 0.00001.
        student: Taps of the student, one per stage.
        teacher: Taps of the teacher, as many.

    Shapes: features [B, D], [B, C, H, W], or [B, L, D] with batch.mask [B, L], of the same kind on both sides -> [B]. The larger
    map of a pair is average-pooled to the smaller.

    Raises:
        ShapeError: The kinds or the numbers of stages differ.
        UsageError: The variance is out of range, there is no teacher, or no such feature.

    Reference: Ahn et al., 2019, arXiv:1904.05835, sec. 2. Differs from the paper: means over the elements instead of sums, and
    three layers without normalisation, as in the code of Tian et al., 2020, arXiv:1910.10699.

    >>> VID()
    VID(variance=5)
    """

    builds = True
    says = ("variance",)

    def __init__(self, variance: float = 5.0, *, student: str = "layer?", teacher: str = "layer?") -> None:
        super().__init__(student, teacher)
        self.variance = positive(variance, "VID: variance")
        if self.variance <= EPS:
            raise UsageError(f"VID: variance must be above {EPS:g}, the least that it can become, got {variance!r}.")
        self.means = nn.ModuleList()
        self.scales = nn.ParameterList()

    def build(self, scene: Scene) -> None:
        """Make a regression for every stage."""
        start = math.log(math.expm1(self.variance - EPS))  # softplus of it, plus EPS, is the variance
        for student, teacher in self.stages(scene.views):
            same_kind(student, teacher, "VID")
            self.means.append(perceptron(student, channels(teacher)))
            self.scales.append(nn.Parameter(student.new_full((channels(teacher),), start)))

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        found = []
        for mean, scale, (student, teacher) in zip(self.means, self.scales, self.stages(views), strict=True):
            made = full_precision(mean(student))
            if made.dim() == 4:
                made, teacher = same_size(made, teacher)
            variance = F.softplus(scale) + EPS
            squares = F.mse_loss(made, teacher, reduction="none")
            if made.dim() == 4:
                squares = squares.mean((2, 3))  # a channel has one variance, so that its places can be summed up first
            found.append(element_mean((squares / variance + variance.log()) / 2, views.batch.mask))
        return torch.stack(found).sum(0)
