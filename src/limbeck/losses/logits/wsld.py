"""Weighted soft labels (Zhou et al., 2021)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import cross_entropy, kd_divergence, token_mean
from limbeck.losses.sides import both_logits, fitting_labels

EPSILON = 1e-7
"""Keeps the ratio finite where the teacher is certain of the label."""


@final
class WSLD(Term):
    """(1 - exp(-CE_student / CE_teacher)) T^2 KL(teacher || student), the factor held fixed, per sample.

    Samples that the student knows better than the teacher count less. CE is that with the label at temperature 1.

    Args:
        T: Temperature, > 0. The authors take 2 on ImageNet with coefficient 2.5, and 4 on CIFAR with 2.25.

    Shapes: logits [B, C] and labels [B], or [B, L, V] and [B, L] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes, or logits and labels do not fit together.
        UsageError: T is not above 0, or there is no teacher or no label.

    Reference: Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, 2021, arXiv:2102.00650. Differs from the paper: KL in place of
    the cross-entropy with the teacher, which differ by what the student cannot change; the gradient is the same.

    >>> WSLD()
    WSLD(T=2)
    """

    needs = frozenset({"teacher", "targets"})
    says = ("T",)

    def __init__(self, T: float = 2.0) -> None:
        super().__init__()
        self.T = positive(T, "WSLD: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        (student, teacher), targets = both_logits(views, "WSLD"), fitting_labels(views, "WSLD")
        ratio = cross_entropy(student.detach(), targets) / (cross_entropy(teacher.detach(), targets) + EPSILON)
        return token_mean(-(-ratio).expm1() * kd_divergence(student, teacher, self.T), views.batch.mask)
