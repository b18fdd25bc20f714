"""Softmax regression representation learning (Yang et al., 2021)."""

from typing import final

from torch import Tensor, nn

from limbeck.align.projectors import fitting, normalised
from limbeck.align.taps import PENULTIMATE
from limbeck.core.outputs import Views
from limbeck.core.term import Scene, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import element_mean, pooled, same_size
from limbeck.losses.features.term import FeatureTerm


@final
class SRRL(FeatureTerm):
    """Mean squared difference of the last features, plus that of the logits which the teacher's classifier gives them.

    The student's feature passes a trained 1x1 convolution (a linear layer for vectors), batch normalisation and ReLU; the
    teacher's classifier, frozen, then reads it as it reads the teacher's own. The teacher's logits are its answer to the same
    sample.

    Args:
        student: The student's tap: its last feature.
        teacher: The teacher's tap: what goes into its classifier, before or after pooling.

    Shapes: features [B, D] or [B, C, H, W], of the same kind on both sides, teacher logits [B, K] -> [B].

    Raises:
        ShapeError: The features are of another kind, or the teacher's are not what its classifier takes.
        UsageError: There is no teacher, or no such feature.

    Reference: Yang et al., 2021, ICLR, "Knowledge distillation via softmax regression representation learning", sec. 3. Differs
    from the paper: squared error of the logits, as in its code and in that of SimKD (arXiv:2203.14001), where both parts
    have weight 1; the default tap is the pooled feature, the paper's the last map.

    >>> SRRL()
    SRRL()
    """

    builds = True
    coupled = True

    def __init__(self, *, student: str = PENULTIMATE, teacher: str = PENULTIMATE) -> None:
        super().__init__(student, teacher)
        self.adapter: nn.Module
        self.classifier: nn.Linear

    def build(self, scene: Scene) -> None:
        """Make the adapter and take over the teacher's classifier."""
        student, teacher = self.stage(scene.views)
        self.adapter = normalised(student, fitting(scene.classifier, teacher, "SRRL").in_features, "SRRL")
        self.classifier = fitting(scene.classifier, teacher, "SRRL")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = self.stage(views)
        made = full_precision(self.adapter(student))
        logits = full_precision(self.classifier(pooled(made, None, "SRRL")))
        if made.dim() == teacher.dim() == 4:
            made, teacher = same_size(made, teacher)
        wanted = full_precision(teacher_of(views, "SRRL").logits)
        return element_mean((made - teacher).square(), None) + (logits - wanted).square().mean(1)
