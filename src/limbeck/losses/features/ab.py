"""Activation boundaries (Heo et al., 2019)."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.align.projectors import channels, normalised
from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Scene
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import same_size
from limbeck.losses.features.term import FeatureTerm, same_kind


@final
class AB(FeatureTerm):
    """Squared hinge on the side of 0 where each of the teacher's units lies, summed over units and stages, per sample.

    A student unit s costs (margin - s)^2 where the teacher's is active and s < margin, (margin + s)^2 where it is not and
    s > -margin. s comes out of a trained 1x1 convolution (a linear layer for vectors) with batch normalisation. Stage k of n,
    from 1, counts 2^(k - n).

    Args:
        margin: Above 0.
        student: Taps of the student, one per stage.
        teacher: Taps of the teacher, as many; before or after the ReLU is the same.

    Shapes: features [B, D] or [B, C, H, W], of the same kind on both sides -> [B]. The larger map of a pair is average-pooled to
    the smaller.

    Raises:
        ShapeError: The features are of another kind, or kinds or numbers of stages differ.
        UsageError: The margin is not above 0, there is no teacher, or no such feature.

    Reference: Heo, Lee, Yun, Choi, 2019, arXiv:1811.03233, sec. 3. Differs from the paper: together with the other terms, not
    as initialisation before them; the student's stages may be tapped after their ReLU. It is a sum over units, thousands for
    maps: the usual code multiplies it by 0.003.

    >>> AB()
    AB(margin=1)
    """

    builds = True
    coupled = True
    says = ("margin",)

    def __init__(self, margin: float = 1.0, *, student: str = "layer?", teacher: str = "layer?") -> None:
        super().__init__(student, teacher)
        self.margin = positive(margin, "AB: margin")
        self.connectors = nn.ModuleList()

    def build(self, scene: Scene) -> None:
        """Make a connector for every stage."""
        for student, teacher in self.stages(scene.views):
            same_kind(student, teacher, "AB")
            self.connectors.append(normalised(student, channels(teacher), "AB", relu=False))

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        found = []
        for connector, (student, teacher) in zip(self.connectors, self.stages(views), strict=True):
            made = full_precision(connector(student))
            if made.dim() == 4:
                made, teacher = same_size(made, teacher)
            found.append(boundary_loss(made, teacher, self.margin))
        return torch.stack([2.0 ** (k - len(found) + 1) * value for k, value in enumerate(found)]).sum(0)


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """The squared hinge of units towards the teacher's side of 0, summed: [B, ...], [B, ...] -> [B]."""
    away = (0.5 - teacher.sign()).sign()  # -1 where the teacher's unit is active, 1 where it is 0 or below
    return F.relu(away * student + margin).square().flatten(1).sum(1)
