"""Normalised divergence class by class: the loss of dual-head distillation (Yang et al., 2024)."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import log_cosh_gap, token_mean
from limbeck.losses.sides import both_logits


@final
class BinaryKLNorm(Term):
    """T^2 sum_c log cosh((student_c - teacher_c) / (2 T)), per sample.

    This is T^2 sum_c KL(Bernoulli(1/2) || Bernoulli(sigmoid((student_c - teacher_c) / T))). Its gradient, T / 2 tanh((student -
    teacher) / (2 T)), is bounded, and it is not blind to a constant added to one side.

    Args:
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: T is not above 0, or there is no teacher.

    Reference: Yang et al., 2024, Dual-head knowledge distillation, arXiv:2411.08937. Differs from the paper:
    the loss only, without the auxiliary head and the alignment of gradients; in closed form, where the authors' code clamps
    and loses the gradient of large differences.

    >>> BinaryKLNorm()
    BinaryKLNorm(T=2)
    """

    needs = frozenset({"teacher"})
    says = ("T",)

    def __init__(self, T: float = 2.0) -> None:
        super().__init__()
        self.T = positive(T, "BinaryKLNorm: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = both_logits(views, "BinaryKLNorm")
        return token_mean(log_cosh_gap(student, teacher, self.T), views.batch.mask)
