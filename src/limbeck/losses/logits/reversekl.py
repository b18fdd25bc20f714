"""Reverse divergence (MiniLLM's, GKD's), token by token."""

from typing import final

from torch import Tensor

from limbeck.core.checks import positive
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.functional.divergences import reverse_kl
from limbeck.losses.sides import softened_between


@final
class ReverseKL(Term):
    """T^2 KL(student || teacher), in nats, per sample: seeks the teacher's modes where KD covers them all.

    Infinite where the student holds possible what the teacher rules out (a logit of -inf).

    Args:
        T: Temperature, > 0.

    Shapes: logits [B, C], or [B, L, V] with batch.mask [B, L] -> [B].

    Raises:
        ShapeError: Student and teacher differ in their classes.
        UsageError: T is not above 0, or there is no teacher.

    Reference: Gu, Dong, Wei, Huang, 2023, MiniLLM, arXiv:2306.08543, its single-step part; Agarwal et al., 2023, GKD,
    arXiv:2306.13649. Differs from the papers: T^2; without sampling from the student, which is another part's.

    >>> ReverseKL()
    ReverseKL(T=1)
    """

    needs = frozenset({"teacher"})
    lumps = True
    says = ("T",)

    def __init__(self, T: float = 1.0) -> None:
        super().__init__()
        self.T = positive(T, "ReverseKL: T")

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        return softened_between(views, "ReverseKL", reverse_kl, self.T)
