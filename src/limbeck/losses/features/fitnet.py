"""Hints from inside the teacher (Romero et al., 2015)."""

from typing import final

from torch import Tensor, nn

from limbeck.align.projectors import regressor
from limbeck.core.outputs import Views
from limbeck.core.term import Scene
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import element_mean
from limbeck.losses.features.term import FeatureTerm


@final
class FitNet(FeatureTerm):
    """Mean squared difference of the teacher's feature and the student's, brought to its shape by a trained adapter, per sample.

    The adapter is a linear layer between vectors or tokens; between maps a convolution, batch normalisation and ReLU: there the
    samples of a batch are coupled.

    Args:
        student: The student's tap, one module.
        teacher: The teacher's tap, one module: the hint.

    Shapes: features [B, D], [B, C, H, W], or [B, L, D] with batch.mask [B, L], of the same kind on both sides -> [B].

    Raises:
        ShapeError: The kinds differ, no adapter leads from one map's size to the other's, or a tap stands for several modules.
        UsageError: There is no teacher, or no such feature.

    Reference: Romero et al., 2015, arXiv:1412.6550, sec. 2.2. Differs from the paper: in one stage together with the other
    terms, as in the code of Tian et al., 2020, arXiv:1910.10699, whose adapters these are; the paper first trains the lower
    half of the student on the hint alone.

    >>> FitNet()
    FitNet()
    """

    builds = True
    coupled = True

    def __init__(self, *, student: str = "layer2", teacher: str = "layer2") -> None:
        super().__init__(student, teacher)
        self.adapter: nn.Module

    def build(self, scene: Scene) -> None:
        """Make the adapter for these shapes."""
        student, teacher = self.stage(scene.views)
        self.adapter = regressor(student, teacher, "FitNet")
        self.coupled = student.dim() == 4

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = self.stage(views)
        return element_mean((full_precision(self.adapter(student)) - teacher).square(), views.batch.mask)
