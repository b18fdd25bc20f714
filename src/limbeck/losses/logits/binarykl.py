"""Divergence class by class (as in Yang et al., 2024)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import binary_kl, token_mean
from limbeck.losses.sides import both_logits


@final
class BinaryKL(Term):
    """T^2 sum_c KL(Bernoulli(sigmoid(teacher_c / T)) || Bernoulli(sigmoid(student_c / T))), per sample.

    It sees the logits themselves: unlike KD it is not 0 when they differ by a constant.

    Args:
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: T is not above 0, or there is no teacher.

    Reference: Yang et al., 2024, Dual-head knowledge distillation, arXiv:2411.08937. Differs from the paper:
    the loss only, without the auxiliary head that it is meant for.

    >>> BinaryKL()
    BinaryKL(T=2)
    """

    needs = frozenset({"teacher"})
    says = ("T",)

    def __init__(self, T: float = 2.0) -> None:
        super().__init__()
        self.T = positive(T, "BinaryKL: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "BinaryKL")
        return token_mean(binary_kl(student, teacher, self.T), views.batch.mask)
