"""Feature and classifier alignment of KD^3, for teachers of other data (Tang et al., 2023)."""

from typing import final

from torch import Tensor, nn

from limbeck.align.taps import PENULTIMATE
from limbeck.core.outputs import Views
from limbeck.core.term import Scene, Term, teacher_of
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import pooled
from limbeck.functional.similarity import length
from limbeck.losses.heads.simkd import SimKD

EPS = 1e-6
"""Added to every difference of logits, as in the authors' code."""


@final
class KD3(Term):
    """sigmoid(|s - t|) times SimKD's loss, per sample: the more the logits disagree, the more the features count.

    s is what the teacher's classifier says of the student's projected feature, t the teacher's own answer; the factor, in
    [1/2, 1), carries no gradient. As with SimKD, the net that is kept ends in the projector and the teacher's classifier.

    Args:
        tap: The student's feature, as in `SimKD`.
        teacher_tap: The same of the teacher; None for the same name.
        ratio: How much narrower than the teacher the projector is inside, >= 1.

    Shapes: vectors [B, D] or maps [B, C, H, W] on both sides -> [B].

    Raises:
        ShapeError: The features are neither, or the teacher has no linear classifier that takes them.
        UsageError: Something stands between the tap and the classifier.

    Reference: Tang et al., 2023, arXiv:2307.11469, sec. 3.3, and its code. Differs from the paper: only the alignment; its choice
    of web images and its contrastive loss between distributions are not here. `MixDistribution` is its transform.

    >>> KD3(tap="layer3")
    KD3(tap='layer3', teacher_tap='layer3', ratio=2)
    """

    needs = SimKD.needs
    coupled = True
    builds = True
    deploys = True

    def __init__(self, tap: str = PENULTIMATE, teacher_tap: str | None = None, *, ratio: int = 2) -> None:
        super().__init__()
        self.alignment = SimKD(tap, teacher_tap, ratio=ratio)

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The student's feature."""
        return self.alignment.student_taps

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's feature."""
        return self.alignment.teacher_taps

    def build(self, scene: Scene) -> None:
        """Make the projector and take over the teacher's classifier."""
        self.alignment.build(scene)

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        projected, other = self.alignment.aligned(views)
        logits = full_precision(self.alignment.classifier(pooled(projected, None, "KD3")))
        weight = disagreement(logits, full_precision(teacher_of(views, "KD3").logits)).detach()
        return weight * (projected - other).square().flatten(1).mean(1)

    def answer(self, views: Views) -> Tensor:
        """What the teacher's classifier says of the student's projected feature."""
        return self.alignment.answer(views)

    def deploy(self, student: nn.Module) -> nn.Module:
        """The student up to the tap, the projector, and the teacher's classifier."""
        return self.alignment.deploy(student)

    def extra_repr(self) -> str:
        """The arguments."""
        return self.alignment.extra_repr()


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Logistic function of the distance of logits [B, C] -> [B], in [1/2, 1]."""
    return length(student - teacher + EPS).sigmoid()
